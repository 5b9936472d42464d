import jax
import numpy as np
import pytest
from sklearn.metrics import log_loss

from ecgssl_jax.methods.supervised import Settings, label_loss


def logits_and_labels():
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 3)), rng.integers(0, 2, (6, 3)), rng.random((6, 3)) < 0.6


def test_loss_is_the_mean_cross_entropy_of_known_labels():
    logits, labels, valid = logits_and_labels()
    chances = 1 / (1 + np.exp(-logits))
    expected = log_loss(labels[valid], chances[valid])
    found = label_loss(logits, labels, valid)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    everything = log_loss(labels.ravel(), chances.ravel())
    assert float(label_loss(logits, labels)) == pytest.approx(everything, rel=1e-5)


def test_unknown_labels_have_no_gradient_and_none_known_is_no_loss():
    logits, labels, valid = logits_and_labels()
    gradient = jax.grad(label_loss)(logits, labels, valid)
    np.testing.assert_array_equal(np.asarray(gradient) != 0, valid)
    assert label_loss(logits, labels, np.zeros_like(valid)) == 0


def test_a_task_has_labels():
    with pytest.raises(ValueError, match="num_labels must be at least 1, found 0"):
        Settings(num_labels=0)
