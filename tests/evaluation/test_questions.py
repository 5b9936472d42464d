import numpy as np
import pytest

from ecgssl_jax.evaluation.questions import question
from ecgssl_jax.evaluation.split import final_split, validation_split
from ecgssl_jax.settings import ConfigError
from tests.evaluation.labelled import labelled_set

SPLIT = validation_split((1, 2, 3), (4,))


def test_question_holds_the_records_of_the_folds_alone():
    prepared, _ = labelled_set()
    asked = question(prepared, "labels", SPLIT)
    fold = prepared.index["fold"]
    np.testing.assert_array_equal(asked.rows, np.flatnonzero(fold <= 4))
    np.testing.assert_array_equal(asked.known[:, 1], asked.rows % 3 != 0)
    np.testing.assert_array_equal(asked.patient, asked.rows // 2)
    assert asked.classes == ("a", "b") and asked.population == 100
    assert asked.part((4,)).sum() == (fold == 4).sum()


def test_rows_can_be_places_among_others():
    prepared, _ = labelled_set()
    asked = question(prepared, "labels", SPLIT)
    others = np.union1d(asked.rows, [1, 150, 199])
    np.testing.assert_array_equal(others[asked.within(others).rows], asked.rows)


@pytest.mark.parametrize(
    ("task", "split", "message"),
    [
        ("labels", validation_split((1, 2), (9,)), r"mine has no folds \[9\], only"),
        ("labels", final_split((1, 2), (3,), (10,)), r"no folds \[10\].*test_folds"),
        ("label", SPLIT, "did you mean 'labels'"),
        ("all", SPLIT, "tells of 'all'; only 'labels' works"),
    ],
)
def test_questions_that_the_set_cannot_answer_are_explained(task, split, message):
    with pytest.raises(ConfigError, match=message):
        question(labelled_set()[0], task, split)


def test_a_part_without_labels_is_named():
    prepared, _ = labelled_set()
    prepared.index["labels_valid"][prepared.index["fold"] == 3] = 0
    with pytest.raises(ConfigError, match=r"in the folds to select, \[3\], of mine"):
        question(prepared, "labels", SPLIT)


@pytest.mark.parametrize(("fold", "purpose"), [(3, "select"), (4, "report")])
def test_a_part_that_no_label_can_be_scored_on_is_named(fold, purpose):
    prepared, _ = labelled_set()
    prepared.index["labels"][prepared.index["fold"] == fold] = 1
    with pytest.raises(
        ConfigError, match=rf"both .* in the folds to {purpose}, \[{fold}"
    ):
        question(prepared, "labels", SPLIT)


def test_set_without_folds_is_told_how_to_get_them():
    prepared, _ = labelled_set()
    prepared.index["fold"][:] = -1
    with pytest.raises(ConfigError, match="add a column 'fold', split by patient"):
        question(prepared, "labels", SPLIT)


def test_a_patient_without_a_fold_is_in_no_two_parts():
    prepared, _ = labelled_set()
    prepared.index["fold"][::2] = -1  # of each patient's two records, one
    split = validation_split((-1, 1, 2, 3), (4,))
    with pytest.raises(ConfigError, match="40 patients of mine .* leave fold -1 out"):
        question(prepared, "labels", split)
    question(prepared, "labels", validation_split((1, 2, 3), (4,)))
