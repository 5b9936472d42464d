"""Figures are made once, and again when what they depend on is another."""

import importlib

import pytest

from ecgssl_jax.planning import kept as kept_module
from ecgssl_jax.planning.figures import Figures
from ecgssl_jax.planning.kept import folder, kept

FIGURES = Figures(
    topology="here",
    mesh=(8, 1, 1),
    batch_size=8,
    memory={"parameters": 3},
    needed=3,
    available=None,
    collectives=({"kind": "all-reduce", "devices": 8, "times": 1, "sent": 7},),
    seconds={"compute": 0.5, "memory": 0.25, "exchange": 0.125},
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def never():
    raise AssertionError("made again")


def test_what_was_made_is_kept():
    assert kept({"mesh": 8}, lambda: FIGURES) == FIGURES
    assert kept({"mesh": 8}, never) == FIGURES


def test_other_settings_or_other_code_are_made_anew(monkeypatch):
    kept({"mesh": 8}, lambda: FIGURES)
    with pytest.raises(AssertionError, match="made again"):
        kept({"mesh": 4}, never)
    monkeypatch.setattr(kept_module, "_code", lambda: "other")
    with pytest.raises(AssertionError, match="made again"):
        kept({"mesh": 8}, never)


def test_other_flags_or_another_method_of_ones_own_are_made_anew(monkeypatch, tmp_path):
    module = tmp_path / "my_method.py"
    module.write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("my_method").Mine()
    kept({"mesh": 8}, lambda: FIGURES, mine)
    assert kept({"mesh": 8}, never, mine) == FIGURES
    module.write_text("class Mine:\n    width = 3\n")
    with pytest.raises(AssertionError, match="made again"):
        kept({"mesh": 8}, never, mine)
    module.write_text("class Mine:\n    pass\n")
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    with pytest.raises(AssertionError, match="made again"):
        kept({"mesh": 8}, never, mine)


def test_a_damaged_file_is_made_anew():
    kept({"mesh": 8}, lambda: FIGURES)
    (file,) = folder().iterdir()
    file.write_text("{")
    assert kept({"mesh": 8}, lambda: FIGURES) == FIGURES


def test_where_nothing_can_be_kept_figures_are_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept({"mesh": 8}, lambda: FIGURES) == FIGURES


def test_times_and_limit_of_figures():
    assert (FIGURES.least_seconds, FIGURES.most_seconds) == (0.5, 0.875)
    assert (FIGURES.limit, FIGURES.sent, FIGURES.fits) == ("compute", 7, True)
