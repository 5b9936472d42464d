"""Cubic convolution, against polynomials and a QRS-like peak."""

import jax.numpy as jnp
import numpy as np

from ecgssl_jax.signals.interpolation import interpolate


def _at(signal, position, length=None):
    ecg = jnp.asarray(signal, jnp.float32)[None, :, None]
    position = jnp.asarray(position, jnp.float32)[None]
    length = None if length is None else jnp.array([length])
    return np.asarray(interpolate(ecg, position, length))[0, :, 0]


def test_samples_stay_what_they_are():
    signal = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(_at(signal, np.arange(50)), signal, atol=1e-6)


def test_parabolas_are_reproduced_exactly():
    position = np.linspace(1.0, 47.9, 200)
    found = _at(0.01 * np.arange(50) ** 2, position)
    np.testing.assert_allclose(found, 0.01 * position**2, atol=1e-4)


def test_a_peak_between_samples_keeps_its_height():
    # A QRS of 80 ms at 100 Hz whose top falls between two samples.
    sigma, top = 1.8, 20.5
    signal = np.exp(-0.5 * ((np.arange(40) - top) / sigma) ** 2)
    cubic, linear = _at(signal, [top])[0], np.interp(top, np.arange(40), signal)
    assert cubic > 0.99 and linear < 0.97


def test_nothing_is_read_beyond_the_valid_part():
    signal = np.r_[np.full(20, 2.0), np.full(20, 99.0)]
    np.testing.assert_allclose(_at(signal, np.linspace(-3, 30, 90), 20), 2.0, atol=1e-5)
