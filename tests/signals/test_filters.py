"""Filters along time, against scipy and derivatives that are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ecgssl_jax.signals.filters import Derivative, GaussianBlur

KEY = jax.random.key(0)


def _apply(transform, ecg, length=None, *, rate=100.0):
    return jax.jit(functools.partial(transform, rate=rate))(KEY, ecg, length)[0]


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_an_impulse_becomes_a_gaussian_of_that_many_seconds_in_its_lead(rate):
    ecg = jnp.zeros((1, 401, 12)).at[0, 200, 4].set(1.0)
    blurred = _apply(GaussianBlur(sigma=(0.03, 0.03)), ecg, rate=rate)
    blurred = np.asarray(blurred)[0]
    assert np.all(np.delete(blurred, 4, axis=1) == 0)
    time = (np.arange(401) - 200) / rate
    assert blurred.sum() == pytest.approx(1.0, rel=1e-5)
    deviation = np.sqrt((blurred[:, 4] * time**2).sum())
    assert deviation == pytest.approx(0.03, rel=0.02)


def test_blur_agrees_with_scipy_away_from_the_ends():
    ecg = np.random.default_rng(0).normal(size=(3, 200, 12)).astype(np.float32)
    found = _apply(GaussianBlur(sigma=(0.02, 0.02)), jnp.asarray(ecg))
    expected = ndimage.gaussian_filter1d(ecg, 2.0, axis=1, truncate=3.0)
    np.testing.assert_allclose(np.asarray(found)[:, 6:-6], expected[:, 6:-6], atol=1e-5)


def test_blur_leaves_a_constant_as_it_is_up_to_the_ends_of_the_valid_part():
    length = jnp.array([100, 60, 1])
    ecg = (jnp.arange(100)[:, None] < length[:, None, None]) * jnp.full(
        (3, 100, 2), 0.7
    )
    found = _apply(GaussianBlur(sigma=(0.0, 0.05)), ecg, length)
    for row, size in enumerate(np.asarray(length)):
        np.testing.assert_allclose(np.asarray(found)[row, :size], 0.7, rtol=1e-5)


def test_every_record_is_blurred_by_a_width_of_its_own():
    ecg = jnp.zeros((200, 101, 1)).at[:, 50].set(1.0)
    found = _apply(GaussianBlur(sigma=(0.0, 0.02)), ecg)
    peak = np.asarray(found)[:, 50, 0]
    assert len(np.unique(peak)) > 100 and peak.max() == 1.0 and peak.min() < 0.25


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_the_derivative_of_a_slope_is_its_steepness_at_any_rate(rate):
    slope = jnp.arange(200)[None, :, None] / rate * jnp.array([3.0, -1.0])
    found = _apply(Derivative(time_constant=0.02), slope, rate=rate)
    np.testing.assert_allclose(
        np.asarray(found)[0, 1:-1], np.full((198, 2), [0.06, -0.02]), rtol=1e-3
    )


def test_the_derivative_of_a_constant_is_zero_up_to_the_end_of_the_valid_part():
    length = jnp.array([80])
    ecg = jnp.ones((1, 100, 3)).at[:, 80:].set(0.0)
    found = _apply(Derivative(), ecg, length)
    np.testing.assert_array_equal(np.asarray(found)[:, :80], 0.0)


def test_the_derivative_of_an_impulse_stays_in_its_lead():
    ecg = jnp.zeros((1, 100, 12)).at[0, 99, 5].set(1.0).at[0, 0, 7].set(1.0)
    found = np.asarray(_apply(Derivative(), ecg))[0]
    assert np.all(np.delete(found, [5, 7], axis=1) == 0)
    np.testing.assert_array_equal(np.flatnonzero(found[:, 5]), [98, 99])
    np.testing.assert_array_equal(np.flatnonzero(found[:, 7]), [0, 1])
