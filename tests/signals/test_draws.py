"""The quick normal draws, against the normal distribution."""

import jax
import numpy as np
from scipy import stats

from ecgssl_jax.signals import draws


def test_draws_are_normal_and_independent_of_each_other():
    noise = np.asarray(draws.normal(jax.random.key(0), (20, 1001, 9)))
    assert noise.shape == (20, 1001, 9) and noise.dtype == np.float32
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(stats.kurtosis(noise.ravel())) < 0.05
    # A record's neighbours in lead and time, the two halves of one draw, and the
    # next record.
    flat, half = noise.reshape(20, -1), -(-1001 * 9 // 2)
    for lag in (1, 9, half - 1, half, half + 1):
        correlation = (flat[:, lag:] * flat[:, :-lag]).mean()
        assert abs(correlation) < 4 / np.sqrt(flat[:, lag:].size), lag
    assert abs((flat[1:] * flat[:-1]).mean()) < 4 / np.sqrt(flat[1:].size)


def test_every_key_draws_something_else():
    first, second = (draws.normal(jax.random.key(k), (2, 10, 3)) for k in (0, 1))
    assert np.all(np.asarray(first) != np.asarray(second))
