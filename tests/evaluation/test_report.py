import json

from ecgssl_jax.evaluation.comparison import Folds, Score
from ecgssl_jax.evaluation.metrics import MacroScore
from ecgssl_jax.evaluation.report import Row, as_json, notes, table, write


def score(value, task="all"):
    macro = MacroScore(value=value, per_label={"a": value}, left_out={"b": "no record"})
    return Score(task=task, macro=macro, settings={"l2": 0.1}, selection={"0.1": 0.8})


ROWS = [
    Row(encoder="spectrum", seeds=(), scores={"all": [score(0.7)]}),
    Row(encoder="random", seeds=(0, 1), scores={"all": [score(0.8), score(0.81)]}),
]


def test_seeds_are_shown_as_mean_and_deviation_of_the_last_digit():
    lines = table(ROWS, ["all"], "mine").splitlines()
    assert [x.strip() for x in lines[0].split("|")[1:-1]] == [
        "mine, macro AUROC",
        "all",
    ]
    assert lines[2].split("|")[2].strip() == ".700"
    # The mean of .80 and .81, and sqrt(0.5) * .01 = .007.
    assert lines[3].split("|")[2].strip() == ".805(07)"
    assert len({len(line) for line in lines}) == 1


def test_json_has_an_object_for_each_seed(tmp_path):
    found = as_json(ROWS)
    assert [(x["encoder"], x["seed"]) for x in found] == [
        ("spectrum", None),
        ("random", 0),
        ("random", 1),
    ]
    paths = write(tmp_path / "new", "text", {"results": found})
    assert json.loads(paths[1].read_text())["results"][2]["macro_auroc"] == 0.81
    assert paths[0].read_text() == "text\n"


def test_notes_say_which_fold_was_used_for_what():
    lines = notes(
        Folds(train=(1, 2, 3, 4), valid=(9,)),
        protocol="linear",
        sizes={"all": (40, 10)},
        best_on=(9,),
        seen=(1, 2, 9),
        left_out={"all": {"b": "no positive among 3 records"}},
    )
    text = " ".join(lines)
    assert "trained on folds 1-4, evaluated on fold 9 (all: 40 and 10 records)" in text
    assert "Fold 4 selected the probe's strength" in text
    assert "Fold 9 is the selection fold" in text
    assert "pre-training saw the signals of fold 9" in text
    assert "leaves out 1 labels" in text and ": b." in text


def test_folds_that_selected_nothing_are_not_called_so():
    lines = notes(
        Folds(train=(1, 2), valid=(10,)),
        protocol="linear",
        sizes={"all": (40, 10)},
        best_on=(9,),
        seen=(1, 2, 9),
        left_out={"all": {}},
    )
    assert "selection fold" not in " ".join(lines)
    assert "saw the signals" not in " ".join(lines)
