"""Metrics against scikit-learn and against counts done by hand."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)

from ecgssl_jax.evaluation import metrics


def f1_max_score(labels, scores):
    precision, recall, _ = precision_recall_curve(labels, scores)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))


PAIRS = [
    (metrics.auroc, roc_auc_score),
    (metrics.average_precision, average_precision_score),
    (metrics.f1_max, f1_max_score),
]


def random_scores(*, tied: bool, records: int = 2000, width: int = 12):
    """Scores that know a little of the labels; prevalence from 50 % to 0.5 %."""
    random = np.random.default_rng(0)
    prevalence = np.geomspace(0.5, 0.005, width)
    labels = (random.random((records, width)) < prevalence).astype(np.float32)
    scores = random.normal(size=labels.shape) + labels
    return (np.round(scores, 1) if tied else scores), labels


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("metric", "judge"), PAIRS)
def test_agrees_with_scikit_learn_ties_included(metric, judge, tied):
    scores, labels = random_scores(tied=tied)
    expected = [judge(y, s) for y, s in zip(labels.T, scores.T, strict=True)]
    np.testing.assert_allclose(metric(scores, labels), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("metric", "judge"), PAIRS)
def test_unknown_labels_count_as_absent_records(metric, judge):
    scores, labels = random_scores(tied=True)
    valid = np.random.default_rng(1).random(labels.shape) < 0.6
    expected = [
        judge(y[v], s[v]) for y, s, v in zip(labels.T, scores.T, valid.T, strict=True)
    ]
    labels[~valid], scores[~valid] = -1, np.nan
    found = metric(scores, labels, valid)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_validity_of_whole_records_broadcasts_over_labels():
    scores, labels = random_scores(tied=True)
    rows = np.arange(len(labels)) % 3 > 0
    np.testing.assert_array_equal(
        metrics.auroc(scores, labels, rows[:, None]),
        metrics.auroc(scores[rows], labels[rows]),
    )


def test_auroc_counts_ordered_pairs():
    # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1 in order, 2 = 2 a tie.
    assert metrics.auroc([1, 2, 2, 3], [0, 0, 1, 1]) == [3.5 / 4]


@pytest.mark.parametrize("metric", [metric for metric, _ in PAIRS])
def test_perfect_scores_give_one_and_float32_scores_lose_nothing(metric):
    labels = np.arange(20)[:, None] >= 15
    assert metric(np.arange(20, dtype=np.float32)[:, None], labels) == [1.0]


def test_macro_averages_scorable_labels_and_names_the_others():
    scores = np.tile(np.arange(4.0)[:, None], (1, 5))
    labels = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [1, 0, 1, 1, 0], [1] * 5])
    labels[3, 4] = 0
    valid = np.ones((4, 5), bool)
    valid[:, 3] = False
    found = metrics.macro_auroc(scores, labels, valid, names="ABCDE")
    assert found.per_label == {"A": 1.0, "B": 0.75}
    assert found.value == 0.875
    assert found.left_out == {
        "C": "no negative among 4 records",
        "D": "no known record",
        "E": "no positive among 4 records",
    }


def test_unscorable_labels_are_nan_in_the_plain_metric_only():
    labels = np.array([[0, 1], [1, 1]])
    found = metrics.auroc([[0.0, 0.0], [1.0, 1.0]], labels)
    np.testing.assert_array_equal(found, [1, np.nan])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), "must both be"),
        (np.array([[0.0], [np.nan]]), np.array([[0], [1]]), "row 1, label 0: nan"),
        (np.zeros((2, 1)), np.array([[0], [2]]), "neither 0 nor 1.*label 0: 2"),
        (np.zeros((2, 1)), np.zeros((2, 1)), "none of 1 labels can be scored"),
        (np.zeros((0, 1)), np.zeros((0, 1)), "none of 1 labels can be scored"),
    ],
)
def test_bad_input_is_refused_with_its_place(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.macro_auroc(scores, labels)


def test_label_names_must_fit_the_columns():
    scores, labels = np.array([[0.0], [1.0]]), np.array([[0], [1]])
    with pytest.raises(ValueError, match="2 label names"):
        metrics.macro_auroc(scores, labels, names=["A", "B"])
    with pytest.raises(ValueError, match="repeated: A"):
        metrics.macro_auroc(scores.repeat(2, 1), labels.repeat(2, 1), names=["A", "A"])


def test_placements_of_either_kind_average_to_the_auroc():
    scores, labels = random_scores(tied=True)
    known = np.random.default_rng(1).random(labels.shape) < 0.6
    found = metrics.placements(scores, labels, known)
    for value in (0, 1):
        chosen = known & (labels == value)
        mean = (found * chosen).sum(axis=0) / chosen.sum(axis=0)
        np.testing.assert_allclose(
            mean, metrics.auroc(scores, labels, known), rtol=0, atol=1e-12
        )
    assert (found[~known] == 0).all()


def test_placements_count_the_other_kind():
    found = metrics.placements([1, 2, 2, 3], [0, 0, 1, 1])
    np.testing.assert_array_equal(found, [[1.0], [0.75], [0.75], [1.0]])
