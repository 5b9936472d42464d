import json

import pytest

from ecgssl_jax.evaluation.earlier import keep_earlier

DOCUMENT = {
    "checkpoint": "runs/a/best/3",
    "data": "mine",
    "folds": {"fit": (1, 2), "report": (4,)},
    "settings": {"budgets": ("100 %",), "report": True},
    "notes": [],
}


@pytest.fixture
def folder(tmp_path):
    """Of results of `DOCUMENT`, and of what is none."""
    (tmp_path / "report").mkdir()
    (tmp_path / "report/map.png").write_text("map")
    (tmp_path / "results.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "mine.txt").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"notes": ["else"]},
        {"settings": {"budgets": ("100 %",), "report": False}},
    ],
)
def test_the_same_evaluation_is_replaced(folder, changed):
    assert keep_earlier(folder, DOCUMENT | changed) is None
    assert (folder / "results.json").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"checkpoint": "runs/a/checkpoints/4"},
        {"settings": {"budgets": ("10 %",), "report": True}},
        {"folds": {"fit": (1, 2), "report": (5,)}},
    ],
)
def test_another_one_is_kept(folder, changed):
    assert keep_earlier(folder, DOCUMENT | changed) == folder / "earlier/1"
    assert (folder / "earlier/1/report/map.png").read_text() == "map"
    assert json.loads((folder / "earlier/1/results.json").read_text())["data"] == "mine"
    assert {path.name for path in folder.iterdir()} == {"earlier", "mine.txt"}
    (folder / "results.json").write_text(json.dumps(DOCUMENT | changed))
    assert keep_earlier(folder, DOCUMENT) == folder / "earlier/2"


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_what_is_no_result_stays(tmp_path, text):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert keep_earlier(tmp_path, DOCUMENT) is None
    assert not (tmp_path / "earlier").exists()
