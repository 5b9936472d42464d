"""Exponential moving averages of parameters, and their schedule."""

from typing import Any

import jax
import jax.numpy as jnp


def ema_weights(
    step: jax.Array, *, start: float, end: float, total: int
) -> tuple[jax.Array, jax.Array]:
    """The momentum, linear from `start` at step 0 to `end` at `total`, and 1 less it.

    The schedule of arXiv 2301.08243, section 4, for integer steps of any shape. Each
    is rounded from float64 by itself: near 1, what a rounded momentum lacks of 1 can
    be off by percents.
    """
    dtype = jnp.result_type(float)
    with jax.enable_x64(True):
        progress = jnp.clip(step.astype(jnp.float64) / total, 0.0, 1.0)
        momentum = start + progress * (end - start)
        return momentum.astype(dtype), (1 - momentum).astype(dtype)


def ema_update(average: Any, params: Any, weights: tuple[jax.Array, jax.Array]) -> Any:
    """weights[0] * average + weights[1] * params, leaf by leaf, as in `average`.

    Two products and a sum, because the published implementations round like that.
    """
    return jax.tree.map(
        lambda a, p: weights[0].astype(a.dtype) * a + (weights[1] * p).astype(a.dtype),
        average,
        params,
    )
