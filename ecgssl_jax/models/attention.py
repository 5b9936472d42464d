"""Exact multi-head attention, in the fastest form for the machine and precision."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Bytes of logits that are worked on at a time: what stays in a core's cache.
_CHUNK_BYTES = 2**21


def attention(qkv: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention (arXiv 1706.03762, eq. 1).

    Args:
      qkv: [B, N, H, 3, Dh], query, key and value of each head.
      valid: [B, N] bool, the keys that may be attended to.

    Returns:
      [B, N, H, Dh] in the dtype of `qkv`; the softmax is at least float32.
    """
    if jax.default_backend() == "cpu":
        return chunked_attention(qkv, valid)
    query, key, value = jnp.unstack(qkv, axis=3)
    half = qkv.dtype in (jnp.bfloat16, jnp.float16)
    fused = half and jax.default_backend() == "gpu"
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if valid is None else valid[:, None, None, :],
        implementation="cudnn" if fused else "xla",
    )


def chunked_attention(
    qkv: jax.Array,
    valid: jax.Array | None = None,
    *,
    chunk_bytes: int = _CHUNK_BYTES,
) -> jax.Array:
    """`attention` by plain matrix products, some rows of the batch at a time.

    The logits of a few rows stay in the cache, and the backward pass computes them
    again (as in arXiv 2205.14135, without its tiles): on CPUs about twice as fast as
    the plain form.
    """
    batch, tokens, heads = qkv.shape[:3]
    dtype = jnp.promote_types(qkv.dtype, jnp.float32)
    row_bytes = heads * tokens**2 * dtype.itemsize
    rows = max(chunk_bytes // row_bytes, 1)
    rows = max(d for d in range(1, min(batch, rows) + 1) if batch % d == 0)
    bias = None
    if valid is not None:
        # Finite, so that a row without any valid key gives no NaN.
        bias = jnp.where(valid, 0, jnp.finfo(dtype).min).astype(dtype)
        bias = bias[:, None, None, :]
    return _attend(qkv, bias, rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _attend(qkv, bias, rows):
    return _attend_forward(qkv, bias, rows)[0]


def _attend_forward(qkv, bias, rows):
    def chunk(qkv, bias):
        query, key, value = _heads_first(qkv)
        logits = _logits(query, key, bias)
        largest = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value)
        out = (out / total).astype(value.dtype)
        return out.transpose(0, 2, 1, 3), largest + jnp.log(total)

    out, log_total = _map_rows(chunk, (qkv, bias), rows)
    return out, (qkv, bias, out, log_total)


def _attend_backward(rows, saved, gradient):
    def chunk(qkv, bias, out, log_total, gradient):
        product = functools.partial(jnp.einsum, preferred_element_type=log_total.dtype)
        query, key, value = _heads_first(qkv)
        out, gradient = (x.transpose(0, 2, 1, 3) for x in (out, gradient))
        weights = jnp.exp(_logits(query, key, bias) - log_total)
        d_value = product("bhqk,bhqd->bhkd", weights.astype(value.dtype), gradient)
        d_weights = product("bhqd,bhkd->bhqk", gradient, value)
        # sum_k weights * d_weights, by way of the output (arXiv 2205.14135, B.4).
        shared = gradient.astype(log_total.dtype) * out.astype(log_total.dtype)
        d_logits = weights * (d_weights - shared.sum(axis=-1, keepdims=True))
        d_logits = (d_logits * _scale(query)).astype(query.dtype)
        d_query = product("bhqk,bhkd->bhqd", d_logits, key)
        d_key = product("bhqk,bhqd->bhkd", d_logits, query)
        d_qkv = jnp.stack([d_query, d_key, d_value], axis=3).astype(qkv.dtype)
        return (d_qkv.transpose(0, 2, 1, 3, 4),)

    (d_qkv,) = _map_rows(chunk, (*saved, gradient), rows)
    return d_qkv, None


_attend.defvjp(_attend_forward, _attend_backward)


def _heads_first(qkv):
    return (qkv[..., i, :].transpose(0, 2, 1, 3) for i in range(3))


def _scale(query):
    return query.shape[-1] ** -0.5


def _logits(query, key, bias):
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    query = query * _scale(query)
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=dtype)
    return logits if bias is None else logits + bias


def _map_rows(function: Callable[..., Any], arrays: Any, rows: int) -> Any:
    """`function` of `rows` rows of all arrays at a time, one after the other.

    The rows of a chunk are taken from all over the batch, so that on a mesh every
    device works on its own part of each.
    """
    batch = arrays[0].shape[0]
    chunks = batch // rows
    if chunks == 1:
        return function(*arrays)
    arrays = jax.tree.map(lambda x: x.reshape(rows, chunks, *x.shape[1:]), arrays)

    def pick(number):
        return jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False),
            arrays,
        )

    def body(number, results):
        return jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_index_in_dim(
                whole, part, number, axis=1
            ),
            results,
            function(*pick(number)),
        )

    shapes = jax.eval_shape(lambda: function(*pick(0)))
    empty = jax.tree.map(
        lambda x: jnp.zeros((rows, chunks, *x.shape[1:]), x.dtype), shapes
    )
    results = jax.lax.fori_loop(0, chunks, body, empty)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), results)
