"""Vectors that are compared by their direction."""

import jax
import jax.numpy as jnp

_SHORTEST = 1e-12  # vectors below this length have no direction


def unit(vectors: jax.Array) -> jax.Array:
    """[..., D] of length 1, at least float32.

    What has no direction, such as zeros, stays as it is, with a gradient of 1.
    """
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    squares = (vectors**2).sum(axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.where(squares > _SHORTEST**2, squares, 1.0))


def spread(vectors: jax.Array) -> jax.Array:
    """How evenly the directions of [B, D] are spread: 1 at most, 0 if all are alike."""
    deviation = unit(vectors).std(axis=0)
    return deviation.mean() * jnp.sqrt(vectors.shape[-1])
