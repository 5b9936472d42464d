"""Exponential moving averages of parameters, and their schedule."""

from typing import Any

import jax
import jax.numpy as jnp


def ema_momentum(step: jax.Array, *, start: float, end: float, total: int) -> jax.Array:
    """Linear from `start` at step 0 to `end` at `total` (arXiv 2301.08243, sec. 4)."""
    progress = jnp.clip(step / total, 0.0, 1.0)
    return start + progress * (end - start)


def ema_update(average: Any, params: Any, momentum: jax.Array) -> Any:
    """momentum * average + (1 - momentum) * params, leaf by leaf."""
    # As a step towards the parameters it loses less to rounding near momentum 1.
    return jax.tree.map(
        lambda a, p: a + (1 - momentum).astype(a.dtype) * (p.astype(a.dtype) - a),
        average,
        params,
    )
