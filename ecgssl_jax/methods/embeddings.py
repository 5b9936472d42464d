"""Views of records in one batch, and vectors that are compared by their direction."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ecgssl_jax.settings import ConfigError

_SHORTEST = 1e-12  # vectors below this length have no direction


def interleave(views: Sequence[Any]) -> Any:
    """V trees of [B, ...] -> one of [V * B, ...], each record's views side by side.

    So all rows stay on the devices that hold their records.

    Raises:
      ConfigError: views of different lengths.
    """
    shapes = [[x.shape for x in jax.tree.leaves(view)] for view in views]
    if any(shape != shapes[0] for shape in shapes):
        raise ConfigError(
            f"config.views: the views go through the encoder together, and must be of "
            f"one length; found {[shape[0] for shape in shapes]}"
        )
    return jax.tree.map(
        lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]), *views
    )


def separate(rows: jax.Array, views: int) -> list[jax.Array]:
    """[V * B, D] of `interleave` -> V of [B, D]."""
    rows = rows.reshape(-1, views, rows.shape[-1])
    return [rows[:, view] for view in range(views)]


def unit(vectors: jax.Array) -> jax.Array:
    """[..., D] of length 1, at least float32.

    What has no direction, such as zeros, stays as it is, with a gradient of 1.
    """
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    squares = (vectors**2).sum(axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.where(squares > _SHORTEST**2, squares, 1.0))


def cosines(one: jax.Array, other: jax.Array) -> jax.Array:
    """Of all pairs of vectors of length 1: [B, D], [B', D] -> [B, B'].

    Accelerators multiply float32 in fewer bits unless told not to, and a temperature
    enlarges what is lost.
    """
    return jnp.matmul(one, other.T, precision="highest")


def spread(vectors: jax.Array) -> jax.Array:
    """How evenly the directions of [B, D] are spread: 1 at most, 0 if all are alike."""
    deviation = unit(vectors).std(axis=0)
    return deviation.mean() * jnp.sqrt(vectors.shape[-1])
