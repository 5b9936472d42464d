"""Tables, notes and files of an evaluation."""

import csv
import dataclasses
import io
import json

from ecgssl_jax.evaluation import report
from ecgssl_jax.evaluation.intervals import Interval, LabelInterval
from ecgssl_jax.evaluation.metrics import MacroScore
from ecgssl_jax.evaluation.provenance import Provenance
from ecgssl_jax.evaluation.scoring import METRICS, Answer
from ecgssl_jax.evaluation.split import final_split, validation_split
from ecgssl_jax.evaluation.summary import Cell, Key


def answer(value, *, protocol="linear", budget="100 %", seed=None, left_out=()):
    score = MacroScore(
        value=value,
        per_label={"a": value},
        left_out={name: "no positive among 3 records" for name in left_out},
    )
    return Answer(
        task="all",
        protocol=protocol,
        budget=budget,
        seed=seed,
        logits=None,  # type: ignore[arg-type]
        scores=dict.fromkeys(METRICS, score),
        settings={"l2": 0.1},
        selection={"0.1": 0.8},
        records=40,
    )


def interval(low, high):
    return Interval(low=low, high=high, level=0.95)


def cell(*values, against=None, **kind):
    return Cell(
        seeds=[(seed, None) for seed in range(len(values))],
        answers=[answer(value, **kind) for value in values],
        interval=interval(values[0] - 0.01, values[0] + 0.02),
        labels={
            "a": LabelInterval(low=0.7, high=0.9, level=0.95, patients=9, trusted=False)
        },
        against=against or {},
    )


def cells(**kind):
    protocol, budget = kind.get("protocol", "linear"), kind.get("budget", "100 %")
    return {
        Key("random", protocol, budget, "all"): cell(0.8, 0.81, **kind),
        Key("trained", protocol, budget, "all"): cell(
            0.9, against={"random": interval(-0.001, 0.1)}, **kind
        ),
    }


def rows(table):
    return [[x.strip() for x in line.split("|")[1:-1]] for line in table.splitlines()]


def test_seeds_are_shown_as_mean_and_deviation_of_the_last_digit():
    (table,) = report.tables(cells(), "mine")
    header, _, random, trained, more = rows(table)
    assert header == ["mine, macro AUROC", "all"]
    # The mean of .80 and .81, and sqrt(0.5) * .01 = .007.
    assert random == ["random", ".805(07) [.790, .820]"]
    assert trained == ["trained", ".900 [.890, .920]"]
    assert more == ["more than the random", "+.095 [-.001, +.100]"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_budgets_have_a_table_each_and_protocols_rows():
    found = cells() | cells(protocol="attention") | cells(budget="10 %")
    whole, tenth = map(rows, report.tables(found, "mine"))
    assert whole[0][0] == "mine, macro AUROC, 100 % of the labels"
    assert [row[0] for row in whole[2:]] == [
        "linear: random",
        "linear: trained",
        "linear: more than the random",
        "attention: random",
        "attention: trained",
        "attention: more than the random",
    ]
    assert tenth[0][0] == "mine, macro AUROC, 10 % of the labels"
    assert len(tenth) == 5


def test_files_hold_the_figures(tmp_path):
    document = {
        "results": report.as_json(cells()),
        "summary": report.summary_as_json(cells()),
    }
    paths = report.write(tmp_path / "new", "text", document, cells())
    assert [path.name for path in paths] == [
        "results.md",
        "results.json",
        "results.csv",
    ]
    assert paths[0].read_text() == "text\n"
    found = json.loads(paths[1].read_text())
    assert [(x["encoder"], x["seed"]) for x in found["results"]] == [
        ("random", 0),
        ("random", 1),
        ("trained", 0),
    ]
    assert found["results"][1]["macro_auroc"] == 0.81
    assert found["summary"][1]["against"]["random"]["low"] == -0.001
    lines = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert [(x["encoder"], x["label"], x["trusted"]) for x in lines] == [
        ("random", "", ""),
        ("random", "a", "False"),
        ("trained", "", ""),
        ("trained", "a", "False"),
    ]
    assert float(lines[1]["auroc"]) == 0.805 and float(lines[1]["low"]) == 0.7


def known(*learnt_from, trained_on=(1, 2, 9), selected_on=(), changed=False):
    return Provenance(
        learnt=dict.fromkeys(learnt_from or ("signals",), trained_on),
        selected_on=selected_on,
        changed=changed,
    )


def noted(provenance, *, valid=(9,), test=None, found=None) -> str:
    split = validation_split((1, 2, 3, 4), valid)
    if test:
        split = final_split((1, 2, 3, 4), valid, test)
    lines = report.notes(
        cells() if found is None else found,
        split,
        sizes={"all": 10},
        level=0.95,
        provenance=provenance,
    )
    return " ".join(lines)


def test_notes_say_which_fold_was_used_for_what():
    text = noted(known(selected_on=(9,)))
    assert "(linear), fitted to folds 1-3; fold 4 selected their settings" in text
    assert "the figures are those of fold 9 (all: 10 records)" in text
    assert "Once selected, linear probes were fitted to fold 4 as well." in text
    assert "Fold 9 is the selection fold" in text
    assert (
        "saw the signals of fold 9, without labels. A run whose config.data.f" in text
    )
    assert "95 % intervals over patients" in text


def test_notes_of_the_test_folds_say_that_the_validation_folds_selected():
    text = noted(known(selected_on=(9,)), test=(10,))
    assert "fitted to folds 1-4; fold 9 selected their settings" in text
    assert "those of fold 10" in text and "as well" not in text
    assert "selection fold" not in text and "The pre-training saw" not in text


def test_labels_that_are_left_out_are_named():
    key = Key("trained", "linear", "100 %", "all")
    found = {key: cell(0.8, left_out=("b", "c"))}
    assert "leaves out 2 labels" in noted(known(), found=found)
    assert "record: b; c." in noted(known(), found=found)


def test_labels_that_no_probe_could_learn_are_named():
    key = Key("trained", "linear", "1 %", "all")
    one = cell(0.8, left_out=("b",), budget="1 %")
    (own,) = one.answers

    def text(*unfitted):
        answers = [dataclasses.replace(own, unfitted=unfitted)]
        return noted(known(), found={key: dataclasses.replace(one, answers=answers)})

    assert "had no positive" not in text("b")  # which is in no mean
    assert "all, 1 % of the labels: 2 labels had no positive or no" in text("a", "c")
    assert text("a", "b", "c").count("in the mean all the same: a; c.") == 1
    assert "20 labels had" in text(*map(str, range(20)))
    assert "all the same." in text(*map(str, range(20)))


def test_how_often_the_test_folds_were_read_is_told():
    split = final_split((1, 2), (3,), (10,))
    assert report.test_note(split, 1) == "Test fold 10 was read."
    assert "was read, 3 times for results in this folder" in report.test_note(split, 3)


def test_budgets_are_explained():
    assert "Fewer labels" not in noted(known())
    text = noted(known(), found=cells(budget="1 %"))
    assert "Fewer labels: those of so many patients, drawn anew" in text
    assert "selected by all labels of fold 4" in text
    both = cells(budget="1 %") | cells(budget="10 per class")
    text = noted(known(), found=both)
    assert "of so many patients or of so many records of each class" in text


def test_nothing_keeps_out_what_has_no_fold():
    text = noted(known(trained_on=(-1,)), valid=(-1,))
    assert "of fold -1 (none), without labels. Folds would keep some out" in text


def test_labels_that_were_trained_on_make_the_figure_invalid():
    text = noted(known("signals", "labels"))
    assert "The training saw the signals and labels of fold 9" in text
    assert "fold 9: the figures of the trained model are no valid ones. " in text
    assert "without labels" not in text


def test_reports_that_were_trained_on_make_the_recall_invalid():
    text = noted(known("signals", "reports"))
    assert "saw the signals and reports of fold 9, without labels: the" in text
    assert "recall of the retrieval is no valid figure" in text


def test_a_set_that_was_prepared_again_is_unknown():
    text = noted(known(trained_on=(), changed=True))
    assert "is unknown" in text and "may be no test figures" in text
    assert "unknown" not in noted(known())


def test_labels_of_other_folds_do_not_make_the_figure_invalid():
    learnt = {"signals": (1, 2, 9), "labels": (1, 2)}
    provenance = Provenance(learnt=learnt, selected_on=(), changed=False)
    text = noted(provenance)
    assert "saw the signals of fold 9, without labels. A run" in text


def test_own_predictions_are_no_probe():
    text = noted(known(), found=cells() | cells(protocol="predictions"))
    assert "(linear), fitted to" in text and "predictions are the model's own" in text
    assert noted(known(), found=cells(protocol="predictions")).startswith("The figures")


def test_zero_shot_has_a_table_of_its_own_and_is_no_probe():
    kind = dict(protocol="zero_shot", budget="0 %")
    own = {Key("trained", "zero_shot", "0 %", "all"): cell(0.7, **kind)}
    found = cells() | own
    _, table = map(rows, report.tables(found, "mine"))
    assert table[0] == ["mine, macro AUROC, 0 % of the labels", "all"]
    assert table[2:] == [["zero_shot: trained", ".700 [.690, .720]"]]
    text = noted(known("signals", "reports"), found=found)
    assert "(linear), fitted to" in text and "Fewer labels" not in text
    assert "zero_shot reads no label: a class has its share of a softmax" in text
    assert "is no valid figure, nor are those of zero_shot. A run" in text
    assert noted(known(), found=own).startswith("The figures")
