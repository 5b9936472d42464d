"""Resampled metrics against the metrics of the records, repeated as often."""

import numpy as np
import pytest

from ecgssl_jax.evaluation import metrics, resampling

METRICS = ["auroc", "average_precision", "f1_max"]


def problem(records: int = 120, width: int = 6):
    """Tied scores, labels from frequent to rare, unknown ones, 1 to 3 per patient."""
    random = np.random.default_rng(0)
    labels = random.random((records, width)) < np.geomspace(0.6, 0.02, width)
    scores = np.round(random.normal(size=labels.shape) + labels, 1)
    known = random.random(labels.shape) < 0.9
    patients = np.repeat(np.arange(records), random.integers(1, 4, records))[:records]
    return scores, labels, known, patients


@pytest.mark.parametrize("name", METRICS)
def test_a_draw_is_the_metric_of_the_records_as_often_as_it_has_them(name):
    scores, labels, known, patients = problem()
    weights = resampling.patient_draws(patients, 300, seed=1)
    found = resampling.resampled(
        getattr(resampling, name), scores, labels, known, weights=weights
    )
    lost = 0
    for draw in range(300):
        rows = np.repeat(np.arange(len(scores)), weights[:, draw].astype(int))
        expected = getattr(metrics, name)(scores[rows], labels[rows], known[rows])
        np.testing.assert_allclose(found[draw], expected, rtol=0, atol=1e-12)
        lost += np.isnan(expected).sum()
    assert 0 < lost < 300, "a rare label is missing in some draws only"


@pytest.mark.parametrize("name", METRICS)
def test_labels_without_a_positive_or_a_negative_are_nan(name):
    scores = np.arange(8.0).reshape(4, 2)
    labels = np.array([[0, 1]] * 4)
    found = resampling.resampled(
        getattr(resampling, name), scores, labels, weights=np.ones((4, 3), np.float32)
    )
    assert found.shape == (3, 2) and np.isnan(found).all()


def test_patients_come_with_all_their_records():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    weights = resampling.patient_draws(patients, 2000, seed=0)
    assert (weights[0] == weights[2]).all() and (weights[0] == weights[5]).all()
    assert (weights[1] == weights[4]).all()
    drawn = weights[[0, 1, 3]]
    assert (drawn.sum(axis=0) == 3).all()
    # Each of three: binomial(3, 1/3), with mean 1 and variance 2/3.
    np.testing.assert_allclose(drawn.mean(axis=1), 1, atol=0.06)
    np.testing.assert_allclose(drawn.var(axis=1), 2 / 3, atol=0.06)
    again = resampling.patient_draws(patients, 2000, seed=0)
    np.testing.assert_array_equal(weights, again)
