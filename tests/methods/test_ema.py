"""The moving average against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.methods.ema import ema_update, ema_weights


def test_momentum_is_linear_and_stays_at_its_end():
    steps = jnp.array([0, 1, 50, 100, 101, 1000])
    found, rest = ema_weights(steps, start=0.996, end=1.0, total=100)
    expected = 0.996 + 0.004 * np.array([0, 0.01, 0.5, 1, 1, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    np.testing.assert_allclose(rest, 1 - expected, rtol=1e-7)


def test_update_is_the_convex_combination():
    rng = np.random.default_rng(0)
    average = {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": np.float32(2)}
    params = {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": np.float32(-1)}
    found = ema_update(average, params, (jnp.float32(0.9), jnp.float32(0.1)))
    np.testing.assert_allclose(
        found["a"], 0.9 * average["a"] + 0.1 * params["a"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(found["b"], 0.9 * 2 - 0.1, rtol=1e-6)


def test_repeated_updates_towards_constant_parameters_decay_geometrically():
    average, weights = jnp.ones(()), (jnp.float32(0.99), jnp.float32(0.01))
    update = jax.jit(lambda x: ema_update(x, jnp.zeros(()), weights))
    for _ in range(100):
        average = update(average)
    np.testing.assert_allclose(average, 0.99**100, rtol=1e-4)


def test_momentum_of_one_leaves_the_average_bit_by_bit():
    average = np.random.default_rng(0).normal(size=100).astype(np.float32)
    found = ema_update(average, -7 * average, (jnp.float32(1), jnp.float32(0)))
    np.testing.assert_array_equal(found, average)
