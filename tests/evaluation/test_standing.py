"""How far figures can be believed."""

import dataclasses

import pytest

from ecgssl_jax.evaluation.provenance import Provenance
from ecgssl_jax.evaluation.split import final_split, validation_split
from ecgssl_jax.evaluation.standing import standing_of

SPLIT = validation_split((1, 2, 3), (4,))
NOTHING = Provenance(learnt={}, selected_on=(), changed=False)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({}, "neutral", "Validation folds, no test figures"),
        ({"selected_on": (4,)}, "caution", "Selection fold, no test figures"),
        ({"changed": True}, "caution", "Of unknown standing"),
        ({"learnt": {"labels": (4,)}}, "caution", "No valid figures"),
        ({"learnt": {"signals": (1,), "labels": (1,)}}, "neutral", "Validation folds"),
        ({"learnt": {"signals": (4,), "labels": (1,)}}, "caution", "Seen without"),
        ({"selected_on": (5,)}, "neutral", "Validation folds"),
    ],
)
def test_it_is_said_plainly_what_the_figures_are_of(changes, kind, text):
    provenance = dataclasses.replace(NOTHING, **changes)
    found = standing_of(SPLIT, provenance, test=False, texts=False)
    assert found.kind == kind and found.title.startswith(text)


def test_reports_that_were_read_spoil_the_figures_of_texts():
    known = dataclasses.replace(NOTHING, learnt={"signals": (4,), "reports": (4,)})
    found = [standing_of(SPLIT, known, test=False, texts=x) for x in (True, False)]
    assert [each.title for each in found] == [
        "No valid figures of texts",
        "Seen without labels",
    ]
    assert "has seen the signals and reports of fold 4" in found[1].why


def test_a_test_fold_that_was_seen_is_none():
    known = dataclasses.replace(NOTHING, learnt={"signals": (1, 4)})
    split = final_split((1, 2), (3,), (4,))
    found = standing_of(split, known, test=True, texts=False)
    assert (found.kind, found.title) == ("caution", "Seen without labels")


def test_copies_in_another_set_are_said_before_the_selection():
    known = dataclasses.replace(NOTHING, selected_on=(4,))
    found = standing_of(SPLIT, known, test=False, texts=False, copies=True)
    assert (found.kind, found.title) == ("caution", "Partly known records")


def test_test_folds_are_called_so_and_a_set_without_folds_too():
    split = final_split((1, 2), (3,), (4,))
    found = standing_of(split, NOTHING, test=True, texts=False)
    assert (found.kind, found.title) == ("test", "Test folds")
    assert found.why.startswith("Fold 4,")
    split = dataclasses.replace(split, report=(-1,))
    found = standing_of(split, NOTHING, test=False, texts=False)
    assert found.title == "All records"
