"""Exact multi-head attention, in the fastest form for the machine and precision."""

import jax
import jax.numpy as jnp


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
    return _explicit_attention(query, key, value, valid)


def _explicit_attention(query, key, value, valid):
    # Folding the heads into the batch makes both products plain batched matrix
    # products: twice as fast on CPUs as jax.nn.dot_product_attention.
    batch, tokens, heads, width = query.shape

    def fold(x):
        return x.transpose(0, 2, 1, 3).reshape(batch * heads, x.shape[1], width)

    query, key, value = fold(query * width**-0.5), fold(key), fold(value)
    softmax_dtype = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bqd,bkd->bqk", query, key).astype(softmax_dtype)
    if valid is not None:
        logits = logits.reshape(batch, heads, tokens, -1)
        # Finite, so that a row without any valid key gives no NaN.
        lowest = jnp.finfo(softmax_dtype).min
        logits = jnp.where(valid[:, None, None, :], logits, lowest)
        logits = logits.reshape(batch * heads, tokens, -1)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    out = jnp.einsum("bqk,bkd->bqd", weights, value)
    return out.reshape(batch, heads, tokens, width).transpose(0, 2, 1, 3)
