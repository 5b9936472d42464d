import multiprocessing
import os
import signal

import pytest

from ecgssl_jax.data.publishing import building_folder


def _build(output, content, *, overwrite=False, die=False):
    with building_folder(output, overwrite=overwrite) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").write_text(content)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _killed(output, **options):
    context = multiprocessing.get_context("spawn")
    process = context.Process(
        target=_build, args=(output, "half"), kwargs={"die": True, **options}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_the_folder_appears_complete(tmp_path):
    _build(tmp_path / "out", "all")
    assert (tmp_path / "out" / "part" / "file").read_text() == "all"
    assert _names(tmp_path) == ["out"]


def test_an_error_leaves_nothing(tmp_path):
    with (
        pytest.raises(ValueError),
        building_folder(tmp_path / "out", overwrite=False) as folder,
    ):
        (folder / "file").write_text("half")
        raise ValueError
    assert _names(tmp_path) == []


def test_a_kill_leaves_nothing_under_the_name_and_is_cleaned_up(tmp_path):
    _killed(tmp_path / "out")
    assert _names(tmp_path) == [".out.incomplete"]
    with building_folder(tmp_path / "out", overwrite=False) as folder:
        assert _names(folder) == []
    assert _names(tmp_path) == ["out"]


def test_a_kill_while_replacing_keeps_the_old_one(tmp_path):
    _build(tmp_path / "out", "old")
    _killed(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "part" / "file").read_text() == "old"
    _build(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "part" / "file").read_text() == "new"
    assert _names(tmp_path) == ["out"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    _build(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with pytest.raises(FileExistsError):
        _build(tmp_path / "out", "new")
    assert (tmp_path / "out" / "part" / "file").read_text() == "old"


def test_an_existing_folder_is_refused(tmp_path):
    _build(tmp_path / "out", "old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        _build(tmp_path / "out", "new")
    assert _names(tmp_path) == ["out"]


def test_two_at_once_are_refused(tmp_path):
    with building_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "file").write_text("first")
        with pytest.raises(RuntimeError, match="another process is preparing"):
            _build(tmp_path / "out", "second")
        assert (folder / "file").read_text() == "first"
    assert _names(tmp_path / "out") == ["file"]
