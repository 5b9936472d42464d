"""Exact multi-head attention, in the fastest form for the machine and precision."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ecgssl_jax.platforms import platform

# Bytes of logits that are worked on at a time, forward and backward: large enough to
# occupy all cores, small enough to stay in their caches.
_CHUNK_BYTES = (2**23, 2**22)


def attention(qkv: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention (arXiv 1706.03762, eq. 1).

    Args:
      qkv: [B, N, H, 3, Dh], query, key and value of each head.
      valid: [B, N] bool, the keys that may be attended to.

    Returns:
      [B, N, H, Dh] in the dtype of `qkv`; the softmax is at least float32.
    """
    if platform() == "cpu":
        return chunked_attention(qkv, valid)
    query, key, value = jnp.unstack(qkv, axis=3)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if valid is None else valid[:, None, None, :],
        implementation="cudnn" if _cudnn_takes(qkv, valid) else "xla",
    )


def _cudnn_takes(qkv: jax.Array, valid: jax.Array | None) -> bool:
    """Whether JAX's cuDNN attention and its gradient accept these shapes.

    It wants masks of [N, N] for every row, which would cost more than they save,
    and, for the gradient, an even number of tokens.
    """
    tokens, width = qkv.shape[1], qkv.shape[-1]
    half = qkv.dtype in (jnp.bfloat16, jnp.float16)
    fits = valid is None and tokens % 2 == 0 and width % 8 == 0 and width <= 128
    cuda = "cuda" in jax.devices()[0].client.platform_version.lower()
    return half and fits and cuda and platform() == "gpu"


def chunked_attention(
    qkv: jax.Array,
    valid: jax.Array | None = None,
    *,
    chunk_bytes: tuple[int, int] = _CHUNK_BYTES,
) -> jax.Array:
    """`attention` by plain matrix products, some rows of the batch at a time.

    The logits of a few rows stay in the cache, and the backward pass computes them
    again (as in arXiv 2205.14135, without its tiles): on CPUs about twice as fast as
    the plain form.
    """
    batch, tokens, heads = qkv.shape[:3]
    dtype = jnp.promote_types(qkv.dtype, jnp.float32)
    row_bytes = heads * tokens**2 * dtype.itemsize
    rows = tuple(_divisor(batch, size // row_bytes) for size in chunk_bytes)
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
        return out.transpose(0, 2, 1, 3), largest, total

    out, largest, total = _map_rows(chunk, (qkv, bias), rows[0])
    return out, (qkv, bias, out, largest, total)


def _attend_backward(rows, saved, gradient):
    def chunk(qkv, bias, out, largest, total, gradient):
        product = functools.partial(jnp.einsum, preferred_element_type=total.dtype)
        query, key, value = _heads_first(qkv)
        out, gradient = (x.transpose(0, 2, 1, 3) for x in (out, gradient))
        weights = jnp.exp(_logits(query, key, bias) - largest)
        # Everything below is linear in the gradient: dividing it stands for
        # dividing the weights, which are N times as many.
        gradient = (gradient / total).astype(gradient.dtype)
        # Products that contract the second axis of the large factor are slow, so the
        # small one is turned over instead.
        d_value = product("bhdq,bhqk->bhdk", gradient.mT, weights.astype(value.dtype))
        d_weights = product("bhqd,bhkd->bhqk", gradient, value)
        # sum_k weights * d_weights, by way of the output (arXiv 2205.14135, B.4).
        shared = gradient.astype(total.dtype) * out.astype(total.dtype)
        d_logits = weights * (d_weights - shared.sum(axis=-1, keepdims=True))
        d_logits = (d_logits * _scale(query)).astype(query.dtype)
        d_query = product("bhqk,bhkd->bhqd", d_logits, key)
        d_key = product("bhdq,bhqk->bhdk", query.mT, d_logits)
        parts = [d_query.transpose(0, 2, 1, 3)]
        parts += [x.transpose(0, 3, 1, 2) for x in (d_key, d_value)]
        return (jnp.stack(parts, axis=3).astype(qkv.dtype),)

    (d_qkv,) = _map_rows(chunk, (*saved, gradient), rows[1])
    return d_qkv, None


_attend.defvjp(_attend_forward, _attend_backward)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`; at least 1."""
    return max(d for d in range(1, max(most, 1) + 1) if number % d == 0)


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
