"""Dense layers and layer norms against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.models.layers import Dense, LayerNorm, normalise


def test_dense_contracts_its_input_axes_and_makes_its_output_axes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    module = Dense((6, 7), use_bias=True, dtype=jnp.float32, in_axes=2)
    params = {
        "kernel": rng.normal(size=(3, 4, 6, 7)).astype(np.float32),
        "bias": rng.normal(size=(6, 7)).astype(np.float32),
    }
    found = module.apply({"params": params}, x)
    expected = np.einsum("bnij,ijkl->bnkl", x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_dense_starts_as_xavier_uniform_over_all_axes():
    """Glorot & Bengio 2010, eq. 16: uniform within sqrt(6 / (fan in + fan out))."""
    module = Dense((6, 7), use_bias=True, dtype=jnp.bfloat16, in_axes=2)
    params = module.init(jax.random.key(0), np.zeros((1, 30, 40)))["params"]
    bound = np.sqrt(6 / (30 * 40 + 6 * 7))
    kernel = np.asarray(params["kernel"])
    assert kernel.dtype == np.float32
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)
    assert not np.any(params["bias"])


def _normalised(x, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)


def test_gradient_of_the_norm_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    x, gradient = (rng.normal(size=(3, 5)) for _ in range(2))
    with jax.enable_x64(True):
        out, pull = jax.vjp(lambda x: normalise(x, 0.1), jnp.asarray(x))
        (found,) = pull(jnp.asarray(gradient))
    np.testing.assert_allclose(out, _normalised(x, 0.1), atol=1e-12)
    step = 1e-6
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        difference = _normalised(x + moved, 0.1) - _normalised(x - moved, 0.1)
        expected = (gradient * difference).sum() / (2 * step)
        np.testing.assert_allclose(found[index], expected, atol=1e-8)


def test_layer_norm_of_low_precision_is_computed_in_float32():
    """In bfloat16 a mean of 100 would leave nothing of a deviation of 0.1."""
    rng = np.random.default_rng(0)
    x = (100 + 0.1 * rng.normal(size=(2, 64))).astype(np.float32)
    params = {
        "scale": rng.normal(size=64).astype(np.float32),
        "bias": rng.normal(size=64).astype(np.float32),
    }
    module = LayerNorm(1e-6, use_bias=True, dtype=jnp.bfloat16)
    found = module.apply({"params": params}, x)
    assert found.dtype == jnp.bfloat16
    expected = _normalised(x.astype(np.float64), 1e-6)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected, rtol=0.01, atol=0.02
    )
