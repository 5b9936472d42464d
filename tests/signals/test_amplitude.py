"""Transforms of size: closed forms, moments and shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ecgssl_jax.signals.amplitude import (
    AmplitudeScaling,
    Inversion,
    LeadDropout,
    Normalisation,
)

KEY = jax.random.key(0)


def _ecg(batch=4, samples=200, leads=12):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(0.3, 0.5, (batch, samples, leads)), jnp.float32)


def test_inversion_is_an_involution():
    ecg = _ecg()
    once, _ = Inversion()(KEY, ecg, rate=100.0)
    np.testing.assert_array_equal(once, -np.asarray(ecg))
    np.testing.assert_array_equal(Inversion()(KEY, once, rate=100.0)[0], ecg)


def test_each_lead_has_one_factor_of_its_own_with_a_uniform_logarithm():
    ecg = _ecg(100)
    scaled, _ = AmplitudeScaling(factor=(0.5, 2.0))(KEY, ecg, rate=100.0)
    factor = np.asarray(scaled / ecg)
    np.testing.assert_allclose(factor, factor[:, :1].repeat(200, 1), rtol=1e-4)
    logs = np.log2(factor[:, 0]).ravel()
    assert stats.kstest(logs, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert len(np.unique(logs.round(6))) > 1190


def test_leads_are_dropped_with_their_probability():
    dropped, _ = LeadDropout(probability=0.3)(KEY, jnp.ones((2000, 5, 12)), rate=100.0)
    zero = np.asarray(dropped) == 0
    assert np.all(zero == zero[:, :1])
    # 24,000 draws: three deviations are 0.009.
    assert abs(zero.mean() - 0.3) < 0.01
    assert abs(zero.mean(axis=(0, 1)) - 0.3).max() < 0.05


def test_a_lead_that_the_record_has_always_stays():
    ecg = jnp.ones((3000, 5, 12)).at[:, :, np.array([0, 2, 4, 6, 7, 8, 9, 10])].set(0)
    dropped, _ = LeadDropout(probability=0.95)(KEY, ecg, rate=100.0)
    left = (np.asarray(dropped) != 0).any(axis=1)
    assert left.any(axis=1).all()
    # The one that stays is any of the four.
    assert left[:, [1, 3, 5, 11]].mean(axis=0).min() > 0.2
    assert not left[:, [0, 2]].any()


def test_normalised_leads_have_zero_mean_and_the_deviation_of_their_valid_part():
    length = jnp.array([200, 150, 20, 200])
    ecg = _ecg() * jnp.arange(1.0, 13.0)
    ecg = jnp.where(jnp.arange(200)[:, None] < length[:, None, None], ecg, 0.0)
    ecg = ecg.at[:, :, 3].set(0.0)
    found, _ = Normalisation(deviation=0.25)(KEY, ecg, length, rate=100.0)
    for row, size in enumerate(np.asarray(length)):
        part = np.delete(np.asarray(found)[row, :size], 3, axis=1)
        np.testing.assert_allclose(part.mean(axis=0), 0.0, atol=1e-5)
        np.testing.assert_allclose(part.std(axis=0), 0.25, rtol=1e-4)
    np.testing.assert_array_equal(found[:, :, 3], 0.0)


def test_flat_leads_are_not_stretched_into_noise():
    ecg = jnp.full((1, 100, 1), 0.7).at[0, 50, 0].add(1e-6)
    found, _ = Normalisation(deviation=0.2)(KEY, ecg, rate=100.0)
    assert np.abs(found).max() < 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AmplitudeScaling(factor=(2.0, 0.5)), "the lowest first"),
        (lambda: AmplitudeScaling(factor=(0.0, 0.5)), "above 0"),
        (lambda: LeadDropout(probability=1.0), "less than 1"),
        (lambda: Normalisation(deviation=0.0), "above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
