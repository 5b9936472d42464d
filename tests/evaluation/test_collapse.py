"""Collapse monitors against closed forms."""

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


def test_a_common_offset_lowers_rankme():
    features = orthonormal(50, 4)
    moved = features + 10
    assert collapse.rankme(moved) < 0.5 * collapse.rankme(features)


def test_wholly_collapsed_features_have_rank_one_and_no_nan():
    features = jnp.ones((30, 5))
    assert collapse.rankme(features) == pytest.approx(1, abs=1e-3)
    assert np.isfinite(collapse.rankme(jnp.zeros((30, 5))))


def test_fewer_records_than_dimensions_bound_the_rank():
    features = np.random.default_rng(0).normal(size=(4, 64))
    assert 3 < collapse.rankme(features) <= 4 * (1 + 1e-4)
