"""The comparison of evaluations, from the command line's side."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecgssl_jax import compare
from tests.evaluation.evaluated import TRAINED, leave, logits, reported


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three workdirs: of good logits, twice, and of worse ones."""
    monkeypatch.chdir(tmp_path)
    for name, noise, seed in (("good-0", 0.5, 0), ("good-1", 0.5, 1), ("bad", 2, 2)):
        leave(tmp_path / name, {TRAINED: logits(noise, seed)}, seed=seed)
    return tmp_path


def auroc(values) -> float:
    """Macro, of all labels that are known."""
    asked = reported()
    return float(
        np.mean(
            [
                roc_auc_score(asked.labels[known, k], values[known, k])
                for k, known in enumerate(asked.known.T)
            ]
        )
    )


def test_runs_are_compared_with_the_first_on_the_same_records(runs, capsys):
    compare.main(["bad", "good=good-0,good-1", "--output=out"])
    document = json.loads((runs / "out/results.json").read_text())
    bad, good = document["summary"]
    means = auroc(logits(2, 2)), (auroc(logits(0.5, 0)) + auroc(logits(0.5, 1))) / 2
    assert bad["macro_auroc"] == pytest.approx(means[0])
    assert good["macro_auroc"] == pytest.approx(means[1]) and good["seeds"] == 2
    interval = good["against"]["bad"]
    assert not bad["against"]
    assert 0 < interval["low"] < means[1] - means[0] < interval["high"]
    printed = capsys.readouterr().out
    assert "| more than bad " in printed and "- Read me." in printed
    assert (runs / "out/results.md").read_text() in printed + "\n"
    page = (runs / "out/report.html").read_text()
    assert "good (2 runs)" in page and "more than bad" in page
    assert (runs / "out/report/distances.png").exists()


def test_several_rows_are_each_compared_with_the_first(runs, capsys):
    compare.main(["bad", "good-0", "good-1", "--output=out"])
    printed = capsys.readouterr().out
    assert "| good-0, more than bad" in printed
    assert "| good-1, more than bad" in printed


def test_folders_of_results_are_taken_too(runs, capsys):
    (runs / "good-0/evaluation").rename(runs / "good-0/evaluation-mine")
    compare.main(["bad", "good=good-0/evaluation-mine", "--output=out"])
    assert "| more than bad " in capsys.readouterr().out


def test_figures_that_only_some_rows_have_are_named(runs, capsys):
    leave(runs / "few", {TRAINED: logits(1, 3)}, budget="10 %")
    compare.main(["bad", "few", "--output=out"])
    printed = capsys.readouterr().out
    assert "more than bad" not in printed
    assert "- bad has no figure of labels, linear, 10 %, which other rows" in printed
    assert "- few has no figure of labels, linear, 100 %, which" in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["nowhere"],
            "there is no nowhere/evaluation/predictions.npz; name the workdirs of runs",
        ),
        (["bad", "x=bad"], "is given more than once"),
        (["bad", "bad=good-0"], "two rows are called 'bad'; name one of them"),
        (["x=,"], "'x=,' names no run"),
        (["bad", "--level=2"], "a level of 0.5 or more, below 1"),
    ],
)
def test_what_cannot_be_compared_is_explained(runs, given, message):
    with pytest.raises(SystemExit, match=message):
        compare.main([*given, "--output=out"])
    assert not (runs / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/jepa", ("", "runs/jepa")),
        ("runs/jepa-name=mine", ("", "runs/jepa-name=mine")),
        ("JEPA=runs/jepa-name=mine,b", ("JEPA", "runs/jepa-name=mine,b")),
    ],
)
def test_names_are_told_from_workdirs_with_an_equals_sign(text, expected):
    assert compare._split(text) == expected
