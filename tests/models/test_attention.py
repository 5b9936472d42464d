"""Attention against a NumPy reference: forward, gradients, masked keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.models.attention import attention, chunked_attention

B, N, H, DH = 6, 7, 2, 4
ROW_BYTES = H * N * N * 4  # logits of one row in float32
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


def _inputs(dtype, masked):
    rng = np.random.default_rng(0)
    qkv = rng.normal(size=(B, N, H, 3, DH)).astype(dtype)
    out_gradient = rng.normal(size=(B, N, H, DH)).astype(dtype)
    valid = None
    if masked:
        valid = rng.random((B, N)) < 0.6
        valid[:, 0] = True
    return qkv, valid, out_gradient


def _reference(qkv, valid, out_gradient):
    """Output and gradient in float64, from the formulas of the softmax."""
    query, key, value = np.moveaxis(np.asarray(qkv, np.float64), 3, 0)
    out_gradient = np.asarray(out_gradient, np.float64)
    scale = query.shape[-1] ** -0.5
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) * scale
    if valid is not None:
        logits = np.where(valid[:, None, None, :], logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bhqk,bkhd->bqhd", weights, value)
    d_value = np.einsum("bhqk,bqhd->bkhd", weights, out_gradient)
    d_weights = np.einsum("bqhd,bkhd->bhqk", out_gradient, value)
    mean = (weights * d_weights).sum(axis=-1, keepdims=True)
    d_logits = weights * (d_weights - mean) * scale
    d_query = np.einsum("bhqk,bkhd->bqhd", d_logits, key)
    d_key = np.einsum("bhqk,bqhd->bkhd", d_logits, query)
    return out, np.stack([d_query, d_key, d_value], axis=3)


def _run(qkv, valid, out_gradient, **settings):
    """Output and gradient, compiled as in a training step."""

    @jax.jit
    def both(qkv, valid, out_gradient):
        out, pull = jax.vjp(lambda x: chunked_attention(x, valid, **settings), qkv)
        return out, pull(out_gradient)[0]

    return both(qkv, valid, out_gradient)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_output_and_gradient_are_those_of_the_formula(dtype, masked):
    inputs = _inputs(dtype, masked)
    with jax.enable_x64(dtype == "float64"):
        out, gradient = _run(*inputs)
    expected, expected_gradient = _reference(*inputs)
    assert out.dtype == dtype and gradient.dtype == dtype
    np.testing.assert_allclose(out, expected, atol=TOLERANCES[dtype])
    np.testing.assert_allclose(gradient, expected_gradient, atol=TOLERANCES[dtype])


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("rows", [0, 1, 2, 4, 1000])
def test_size_of_the_chunks_changes_nothing(rows, masked):
    inputs = _inputs("float32", masked)
    out, gradient = _run(
        *inputs, chunk_bytes=(rows * ROW_BYTES, (B - rows) * ROW_BYTES)
    )
    expected, expected_gradient = _reference(*inputs)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_invalid_keys_have_no_influence_and_no_gradient():
    qkv, valid, out_gradient = _inputs("float32", True)
    out, gradient = _run(qkv, valid, out_gradient)
    hidden = ~valid[:, :, None, None]
    qkv[..., 1, :] = np.where(hidden, 50, qkv[..., 1, :])
    qkv[..., 2, :] = np.where(hidden, -1e6, qkv[..., 2, :])
    other, _ = _run(qkv, valid, out_gradient)
    np.testing.assert_array_equal(out, other)
    of_keys_and_values = np.moveaxis(np.asarray(gradient)[..., 1:, :], 3, 0)
    assert np.all(of_keys_and_values[:, ~valid] == 0)
    assert np.all(np.any(of_keys_and_values[:, valid] != 0, axis=(-1, -2)))


def test_row_without_any_valid_key_gives_no_nan_and_spoils_no_other_row():
    qkv, valid, out_gradient = _inputs("float32", True)
    valid[1] = False
    some = valid.any(axis=1)
    out, gradient = _run(qkv, valid, out_gradient)
    assert np.all(np.isfinite(out)) and np.all(np.isfinite(gradient))
    expected, wanted = _reference(qkv[some], valid[some], out_gradient[some])
    np.testing.assert_allclose(out[some], expected, atol=1e-5)
    np.testing.assert_allclose(gradient[some], wanted, atol=1e-5)


def test_row_without_any_valid_key_has_the_gradient_of_its_output():
    # All its weights are equal: value j gets the mean of what the output gets.
    qkv, valid, out_gradient = _inputs("float32", True)
    valid[1] = False
    out, gradient = _run(qkv, valid, out_gradient)
    value = qkv[1, :, :, 2]
    expected = np.broadcast_to(value.mean(0), out[1].shape)
    np.testing.assert_allclose(out[1], expected, atol=1e-6)
    mean = np.broadcast_to(out_gradient[1].mean(0), value.shape)
    np.testing.assert_allclose(gradient[1, :, :, 2], mean, atol=1e-6)


def test_large_logits_do_not_overflow():
    qkv, _, out_gradient = _inputs("float32", False)
    qkv[..., :2, :] *= 100
    out, gradient = _run(qkv, None, out_gradient)
    expected, _ = _reference(qkv, None, out_gradient)
    np.testing.assert_allclose(out, expected, atol=1e-4)
    assert np.all(np.isfinite(gradient))


def test_bfloat16_comes_near_the_formula():
    qkv, valid, out_gradient = _inputs("float32", True)
    low = jnp.asarray(qkv, jnp.bfloat16)
    out, gradient = _run(low, valid, jnp.asarray(out_gradient, jnp.bfloat16))
    expected, wanted = _reference(low, valid, out_gradient)
    assert out.dtype == jnp.bfloat16 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.05)
    np.testing.assert_allclose(gradient.astype(jnp.float32), wanted, atol=0.1)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_the_form_chosen_for_this_machine_is_exact(masked):
    qkv, valid, out_gradient = _inputs("float32", masked)
    expected, _ = _reference(qkv, valid, out_gradient)
    valid = None if valid is None else jnp.asarray(valid)
    np.testing.assert_allclose(attention(jnp.asarray(qkv), valid), expected, atol=1e-5)
