"""Collapse monitors against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.evaluation import collapse


def orthonormal(rows: int, columns: int) -> np.ndarray:
    """Orthonormal columns that sum to zero, so that centring changes nothing."""
    random = np.random.default_rng(0).normal(size=(rows, columns + 1))
    random[:, 0] = 1
    return np.linalg.qr(random)[0][:, 1:]


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_of_equal_singular_values_is_their_number(rank):
    features = np.zeros((50, 8))
    features[:, :rank] = orthonormal(50, rank)
    assert collapse.rankme(features) == pytest.approx(rank, rel=1e-4)


def test_rankme_is_the_entropy_of_singular_values_not_of_their_squares():
    features = orthonormal(50, 2) * [3, 1]
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert collapse.rankme(features) == pytest.approx(expected, rel=1e-4)


def test_rankme_keeps_directions_a_thousandfold_smaller():
    sizes = np.array([1.0] + [1e-4] * 63)
    shares = sizes / sizes.sum()
    expected = np.exp(-np.sum(shares * np.log(shares)))
    found = collapse.rankme(orthonormal(200, 64) * sizes)
    assert found == pytest.approx(expected, rel=1e-4)


def test_effective_rank_shares_out_the_variance():
    features = orthonormal(50, 2) * [3, 1]
    expected = np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))
    assert collapse.effective_rank(features) == pytest.approx(expected, rel=1e-4)


def test_a_common_offset_lowers_rankme_but_not_effective_rank():
    features = orthonormal(50, 4)
    moved = features + 10
    assert collapse.rankme(moved) < 0.5 * collapse.rankme(features)
    assert collapse.effective_rank(moved) == pytest.approx(4, rel=1e-4)


def test_wholly_collapsed_features_have_rank_one_no_variance_and_no_nan():
    features = jnp.ones((30, 5))
    assert collapse.rankme(features) == pytest.approx(1, abs=1e-3)
    assert collapse.effective_rank(features) == 0
    assert collapse.feature_std(features)["dead_share"] == 1
    assert np.isfinite(collapse.rankme(jnp.zeros((30, 5))))


def test_fewer_records_than_dimensions_bound_the_rank():
    features = np.random.default_rng(0).normal(size=(4, 64))
    assert 3 < collapse.rankme(features) <= 4 * (1 + 1e-4)


def test_feature_std_summarises_numpy_and_counts_dead_dimensions():
    features = np.random.default_rng(0).normal(size=(500, 4)) * [1, 2, 1e-5, 0] + 1
    found = collapse.feature_std(features)
    assert found["std_mean"] == pytest.approx(features.std(axis=0).mean(), rel=1e-5)
    assert found["std_min"] == 0
    assert found["dead_share"] == 0.5


def test_rescaling_features_kills_no_dimension():
    features = np.random.default_rng(0).normal(size=(500, 4))
    assert collapse.feature_std(1e-6 * features)["dead_share"] == 0


def test_mean_prediction_loss_is_the_mean_absolute_deviation():
    targets = np.random.default_rng(0).normal(size=(2, 3, 5, 4)) + 7
    flat = targets.reshape(-1, 4)
    expected = np.abs(flat - flat.mean(axis=0)).mean()
    assert collapse.mean_prediction_loss(targets) == pytest.approx(expected, rel=1e-5)


def test_mean_prediction_loss_ignores_padding():
    targets = np.random.default_rng(0).normal(size=(3, 5, 4))
    valid = np.arange(5) < np.array([[5], [2], [3]])
    expected = float(collapse.mean_prediction_loss(targets[valid][None]))
    targets[~valid] = 1e6
    found = jax.jit(collapse.mean_prediction_loss)(targets, valid=valid)
    assert found == pytest.approx(expected, rel=1e-5)


def test_mean_prediction_loss_under_a_squared_loss_is_the_variance():
    targets = np.random.default_rng(0).normal(size=(30, 5, 4))

    def squared(predictions, targets, *, valid):
        assert valid is None
        return jnp.mean((predictions - targets) ** 2)

    found = collapse.mean_prediction_loss(targets, loss=squared)
    assert found == pytest.approx(targets.reshape(-1, 4).var(axis=0).mean(), rel=1e-5)


def test_mean_prediction_loss_of_collapsed_targets_is_zero():
    targets = jnp.full((8, 5, 4), 3, jnp.bfloat16)
    assert collapse.mean_prediction_loss(targets) == 0
