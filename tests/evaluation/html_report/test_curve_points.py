"""Points of curves against those of scikit-learn and of NumPy."""

import numpy as np
import pytest
from sklearn import metrics

from ecgssl_jax.evaluation.html_report.curve_points import (
    precision_recall_curve,
    reliability,
    roc_curve,
)


def scores_with_ties(records=300):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, records)
    return np.round(labels + rng.normal(size=records), 1), labels


def among(points, others):
    """Whether every point is one of the others."""
    distance = np.abs(points[:, None] - others[None]).max(axis=-1)
    return (distance.min(axis=1) < 1e-12).all()


def test_roc_points_are_corners_of_the_curve_and_have_its_area():
    scores, labels = scores_with_ties()
    found = roc_curve(scores, labels)
    expected = np.stack(
        metrics.roc_curve(labels, scores, drop_intermediate=False)[:2], axis=1
    )
    assert among(found, expected)
    assert found[0].tolist() == [0, 0] and found[-1].tolist() == [1, 1]
    area = metrics.roc_auc_score(labels, scores)
    assert np.trapezoid(found[:, 1], found[:, 0]) == pytest.approx(area)
    assert len(found) < len(expected)


def test_roc_of_perfect_scores_goes_through_the_corner():
    found = roc_curve(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert [0, 1] in found.tolist() and found[-1].tolist() == [1, 1]
    assert ((found[:, 0] == 0) | (found[:, 1] == 1)).all()


def test_roc_of_equal_scores_is_the_diagonal():
    found = roc_curve(np.zeros(4), np.array([0, 1, 0, 1]))
    assert found.tolist() == [[0, 0], [1, 1]]


def test_precisions_are_those_of_scikit_learn_at_every_recall():
    scores, labels = scores_with_ties()
    found = precision_recall_curve(scores, labels)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    assert among(found, np.stack([recall, precision], axis=1))
    positive = np.unique(recall[recall > 0])
    np.testing.assert_allclose(np.unique(found[:, 0]), positive)
    # The first point of each recall gives the average precision.
    first = np.flatnonzero(np.diff(found[:, 0], prepend=0) > 0)
    steps = np.diff(found[first, 0], prepend=0)
    expected = metrics.average_precision_score(labels, scores)
    assert (steps * found[first, 1]).sum() == pytest.approx(expected)


def test_bins_are_those_of_a_loop_and_the_error_is_their_mean_distance():
    rng = np.random.default_rng(1)
    probabilities = rng.uniform(size=500) ** 2
    probabilities[:2] = 0, 1
    labels = rng.integers(0, 2, 500)
    found = reliability(probabilities, labels)
    error = 0.0
    for number in range(10):
        own = (probabilities >= number / 10) & (probabilities < (number + 1) / 10)
        own |= (number == 9) & (probabilities == 1)
        assert found.counts[number] == own.sum()
        assert found.predicted[number] == pytest.approx(probabilities[own].mean())
        assert found.observed[number] == pytest.approx(labels[own].mean())
        gap = abs(probabilities[own].mean() - labels[own].mean())
        error += own.mean() * gap
    assert found.error == pytest.approx(error)


def test_empty_bins_have_no_point_and_count_for_nothing():
    found = reliability(np.array([0.25, 0.25]), np.array([0, 1]))
    assert found.counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    assert np.isnan(found.observed[0]) and found.observed[2] == 0.5
    assert found.error == pytest.approx(0.25)
