import importlib
import sys

import pytest

from ecgssl_jax import code_digest
from ecgssl_jax.code_digest import digest_code
from ecgssl_jax.methods.supervised import Settings

METHOD = "from {helper} import NUMBER\n\nclass Method:\n    number = NUMBER\n"


def test_every_part_of_the_package_counts(tmp_path, monkeypatch):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/inner.py").write_text("x = 1")
    (tmp_path / "one.py").write_text("y = 1")
    (tmp_path / "other.py").write_text("z = 1")
    monkeypatch.setattr(code_digest, "_PACKAGE", tmp_path)
    parts = ("part", "one.py")
    before = digest_code(parts)
    (tmp_path / "other.py").write_text("z = 2")
    assert digest_code(parts) == before
    for name in ("part/inner.py", "one.py"):
        (tmp_path / name).write_text("changed")
        assert digest_code(parts) != before
        before = digest_code(parts)


@pytest.mark.parametrize("package", ["", "somewhere."])
def test_a_class_from_elsewhere_counts_with_what_it_is_made_from(
    tmp_path, monkeypatch, package
):
    folder = tmp_path / package.strip(".")
    folder.mkdir(exist_ok=True)
    helper = folder / "its_helper.py"
    helper.write_text("NUMBER = 1\n")
    text = METHOD.format(helper=f"{package}its_helper")
    (folder / "its_method.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    modules = [f"{package}its_method", f"{package}its_helper", package.strip(".")]
    method = importlib.import_module(modules[0]).Method()
    try:
        before = digest_code((), method)
        assert digest_code((), method) == before != digest_code(())
        helper.write_text("NUMBER = 2\n")
        assert digest_code((), method) != before
    finally:
        for name in modules:
            sys.modules.pop(name, None)


def test_objects_of_this_package_count_by_its_parts():
    assert digest_code(("models",), Settings(num_labels=1)) == digest_code(("models",))
