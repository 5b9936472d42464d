import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.comparison import Folds, answer, question, rows_of
from ecgssl_jax.leads import LEADS
from ecgssl_jax.settings import ConfigError

FOLDS = Folds(train=(1, 2, 3), valid=(4,))


def labelled_set(num_records=200, seed=0):
    """Two labels, one of them unknown for every third record; features that tell."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (num_records, 2)).astype(np.uint8)
    valid = np.ones((num_records, 2), np.uint8)
    valid[::3, 1] = 0
    index = {
        "labels": labels,
        "labels_valid": valid,
        "fold": np.arange(num_records, dtype=np.int32) % 5 + 1,
    }
    prepared = PreparedSet(
        name="mine",
        directory=Path("mine"),
        rate=100.0,
        scale=1e-3,
        leads=LEADS,
        labels=("a", "b"),
        mean=np.zeros(12),
        std=np.ones(12),
        length=1000,
        num_records=num_records,
        label_table={},
        index=index,
        metadata={},
    )
    return prepared, labels + rng.normal(0, 0.5, labels.shape)


def test_question_holds_the_records_of_the_folds_alone():
    prepared, _ = labelled_set()
    asked = question(prepared, "labels", FOLDS)
    np.testing.assert_array_equal(
        asked.rows, np.flatnonzero(prepared.index["fold"] <= 4)
    )
    np.testing.assert_array_equal(asked.known[:, 1], asked.rows % 3 != 0)
    assert asked.classes == ("a", "b")


def test_rows_of_several_questions_are_read_once():
    prepared, _ = labelled_set()
    asked = question(prepared, "labels", FOLDS)
    other = dataclasses.replace(asked, rows=asked.rows[:3] + 1)
    rows = rows_of([asked, other])
    assert rows.tolist() == sorted({*asked.rows.tolist(), *other.rows.tolist()})


def test_validation_records_change_nothing_in_the_probe():
    prepared, features = labelled_set()
    asked = question(prepared, "labels", FOLDS)
    score = answer(asked, features[asked.rows], FOLDS)
    valid = asked.fold == 4
    turned = features[asked.rows].copy()
    turned[valid] *= -1
    other = answer(asked, turned, FOLDS)
    assert other.selection == score.selection and other.settings == score.settings
    # The same probe ranks mirrored records of a centred scale the other way round.
    assert score.macro.value > 0.8 and other.macro.value < 0.5


def test_unknown_labels_count_for_nothing():
    prepared, features = labelled_set()
    asked = question(prepared, "labels", FOLDS)
    score = answer(asked, features[asked.rows], FOLDS)
    wrong = dataclasses.replace(
        asked, labels=np.where(asked.known, asked.labels, 1 - asked.labels)
    )
    assert answer(wrong, features[asked.rows], FOLDS).macro == score.macro


def test_tokens_that_are_not_valid_count_for_nothing():
    prepared, features = labelled_set()
    asked = question(prepared, "labels", FOLDS)
    real = features[asked.rows][:, None].astype(np.float32)
    rng = np.random.default_rng(1)

    def scored(padding):
        tokens = np.concatenate([real, padding], axis=1)
        valid = np.array([[True, False, False]]).repeat(len(tokens), axis=0)
        return answer(asked, tokens, FOLDS, protocol="attention", tokens_valid=valid)

    shape = (len(real), 2, 2)
    one = scored(np.zeros(shape, np.float32))
    other = scored(rng.normal(0, 5, shape).astype(np.float32))
    assert one.macro == other.macro and one.macro.value > 0.8


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"train": (1, 2), "valid": (2,)}, r"folds \[2\] are training and validation"),
        ({"train": (1,), "valid": (2,)}, "at least two"),
    ],
)
def test_folds_that_would_mislead_are_refused(folds, message):
    with pytest.raises(ConfigError, match=message):
        Folds(**folds)


@pytest.mark.parametrize(
    ("task", "folds", "message"),
    [
        ("labels", Folds(train=(1, 2), valid=(9,)), r"mine has no folds \[9\], only"),
        ("label", FOLDS, "did you mean 'labels'"),
        ("all", FOLDS, "only task='labels' works"),
    ],
)
def test_questions_that_the_set_cannot_answer_are_explained(task, folds, message):
    with pytest.raises(ConfigError, match=message):
        question(labelled_set()[0], task, folds)


def test_set_without_folds_is_told_how_to_get_them():
    prepared, _ = labelled_set()
    prepared.index["fold"][:] = -1
    with pytest.raises(ConfigError, match="add a column 'fold', split by patient"):
        question(prepared, "labels", FOLDS)
