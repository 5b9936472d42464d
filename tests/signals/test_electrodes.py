"""From electrodes to leads, against Einthoven's and Goldberger's laws."""

import jax
import numpy as np

from ecgssl_jax.leads import LEADS
from ecgssl_jax.signals import electrodes


def test_leads_of_unit_noise_have_a_root_mean_square_of_one():
    noise = jax.random.normal(jax.random.key(0), (200_000, 9))
    leads = np.asarray(electrodes.to_leads(noise))
    assert abs(np.sqrt((leads**2).mean()) - 1) < 5e-3
    deviation = dict(zip(LEADS, leads.std(axis=0), strict=True))
    assert abs(deviation["I"] - 1.14) < 0.01
    assert abs(deviation["aVR"] - 0.99) < 0.01
    assert abs(deviation["V3"] - 0.93) < 0.01


def test_waves_are_sums_of_their_basis():
    rng = np.random.default_rng(0)
    basis = electrodes.cosines_and_sines(np.array([0.3, 7.0]), 50, 100.0)
    time = np.arange(50)[:, None] / 100.0 * 2 * np.pi * np.array([0.3, 7.0])
    np.testing.assert_allclose(
        basis, np.hstack([np.cos(time), np.sin(time)]), atol=1e-12
    )
    weight = rng.normal(size=(3, 4, 9)).astype(np.float32)
    found = electrodes.waves(basis, weight)
    expected = np.einsum("tk,bkc->btc", basis, np.asarray(electrodes.to_leads(weight)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
