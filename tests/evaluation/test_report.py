import json

from ecgssl_jax.evaluation.comparison import Folds, Score
from ecgssl_jax.evaluation.metrics import MacroScore
from ecgssl_jax.evaluation.provenance import Provenance
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
    paths = write(tmp_path / "new", "results-b", "text", {"results": found})
    assert [path.name for path in paths] == ["results-b.md", "results-b.json"]
    assert json.loads(paths[1].read_text())["results"][2]["macro_auroc"] == 0.81
    assert paths[0].read_text() == "text\n"


def known(*learnt_from, trained_on=(1, 2, 9), selected_on=(), changed=False):
    return Provenance(
        trained_on=trained_on,
        selected_on=selected_on,
        learnt_from=learnt_from or ("signals",),
        changed=changed,
    )


def noted(provenance, *, valid=(9,), left_out=None) -> str:
    lines = notes(
        Folds(train=(1, 2, 3, 4), valid=valid),
        protocol="linear",
        sizes={"all": (40, 10)},
        provenance=provenance,
        left_out={"all": left_out or {}},
    )
    return " ".join(lines)


def test_notes_say_which_fold_was_used_for_what():
    text = noted(known(selected_on=(9,)), left_out={"b": "no positive among 3 records"})
    assert "trained on folds 1-4, evaluated on fold 9 (all: 40 and 10 records)" in text
    assert "Fold 4 selected the probe's strength" in text
    assert "Fold 9 is the selection fold" in text
    assert "saw the signals of fold 9, without labels; the folds of config" in text
    assert "leaves out 1 labels" in text and ": b." in text


def test_nothing_keeps_out_what_has_no_fold():
    text = noted(known(trained_on=(-1,)), valid=(-1,))
    assert "of fold -1 (none), without labels; folds would keep some out" in text


def test_folds_that_selected_nothing_are_not_called_so():
    text = noted(known(selected_on=(9,)), valid=(10,))
    assert "selection fold" not in text
    assert "The pre-training saw" not in text


def test_labels_that_were_trained_on_make_the_figure_invalid():
    text = noted(known("signals", "labels"))
    assert "saw the signals and labels of fold 9" in text
    assert "fold 9: the figure of the pre-trained encoder is no valid one; " in text
    assert "without labels" not in text


def test_reports_that_were_trained_on_make_the_recall_invalid():
    text = noted(known("signals", "reports"))
    assert "saw the signals and reports of fold 9, without labels: the" in text
    assert "recall of the retrieval is no valid figure" in text


def test_a_set_that_was_prepared_again_is_unknown():
    text = noted(known(trained_on=(), changed=True))
    assert "is unknown" in text and "may be no test figures" in text
    assert "unknown" not in noted(known())
