"""All pairs of the rows of a batch, a block of columns at a time.

A contrastive loss compares each of B rows with as many columns. Held as a whole, the
similarities of a batch of 32,768 are 4 GB, and their gradient as much; divided by rows over
eight devices they are still half a gigabyte each. Here a device has its rows' similarities to
one block of columns, folds them into a few numbers for each row, and computes them once more
for the gradient, as in flash attention (arXiv 2205.14135) or the memory-efficient contrastive
loss of arXiv 2410.17243.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 2048  # columns, at most


def fold(step: Callable[[Any, Any], Any], start: Any, columns: Any) -> Any:
    """`step` folded over the blocks of columns.

    Args:
      step: (what is known of the rows, a block) -> what is known then. A block has the
        arrays of `columns`, of N' columns, and beside them `number` [N'] int32, which
        column it is, or -1 where a block is filled up. It is computed again for the
        gradient.
      start: what is known at first: arrays [B, ...].
      columns: arrays [N, ...] by their names.
    """
    (count,) = {len(x) for x in columns.values()}
    blocks = -(-count // BLOCK)
    size = -(-count // blocks)
    padding = blocks * size - count

    def split(x, fill=0):
        pad = [(0, padding), *[(0, 0)] * (x.ndim - 1)]
        x = jnp.pad(x, pad, constant_values=fill) if padding else x
        return x.reshape(blocks, size, *x.shape[1:])

    parts = {name: split(x) for name, x in columns.items()}
    parts["number"] = split(jnp.arange(count, dtype=jnp.int32), fill=-1)
    if blocks == 1:
        return step(start, {name: x[0] for name, x in parts.items()})

    @jax.checkpoint
    def one(known, part):
        # Sums of integers are wider, where JAX is told to use 64 bits.
        return jax.tree.map(
            lambda x, y: y.astype(jnp.result_type(x)), known, step(known, part)
        )

    found, _ = jax.lax.scan(lambda known, part: (one(known, part), None), start, parts)
    return found


def nothing(rows: jax.Array) -> jax.Array:
    """[B]: the logarithm of an empty sum; finite, so that gradients are."""
    return jnp.full(len(rows), _lowest(rows.dtype))


def add_exponentials(
    known: jax.Array, values: jax.Array, counted: jax.Array
) -> jax.Array:
    """log(exp(known) + the sum of exp(values) over what is counted).

    Args:
      known: [B], at first `nothing`.
      values: [B, N'].
      counted: [B, N'] bool.
    """
    values = jnp.where(counted, values, _lowest(values.dtype))
    return jnp.logaddexp(known, jax.nn.logsumexp(values, axis=1))


def _lowest(dtype) -> float:
    # Half, so that differences stay finite.
    return float(jnp.finfo(dtype).min) / 2
