"""Integer arithmetic on batches of uniform numbers, for masks.

The same operations in NumPy and TensorFlow: `xp` is numpy or
tensorflow.experimental.numpy, and both give the same result for the same numbers.
"""

from typing import Any

import numpy as np

Array = Any  # a NumPy array or a TensorFlow tensor
Namespace = Any  # numpy or tensorflow.experimental.numpy

_RESOLUTION = 2**24  # float32 numbers in [0, 1) are told apart to 24 bits
_NEVER = 2**30  # a position that no patch has


def check_uniforms(kind: str, uniforms: Array, count: int) -> None:
    """Raises ValueError unless `uniforms` are [B, count] float32."""
    shape = tuple(uniforms.shape)
    if len(shape) != 2 or shape[1] != count:
        raise ValueError(
            f"{kind}: uniforms of shape {shape}, expected [B, {count}], as "
            "num_uniforms says"
        )
    if uniforms.dtype.name != "float32":
        raise ValueError(
            f"{kind}: uniforms of type {uniforms.dtype.name}, expected float32"
        )


def cast(array: Array, dtype: Any, xp: Namespace) -> Array:
    """The array as another dtype, under one name in both namespaces."""
    return xp.asarray(array, dtype=dtype)


def integers(uniforms: Array, low: int, high: int | Array, xp: Namespace) -> Array:
    """int32, uniform on low .. high, both included.

    In float64 the product of a float32 below 1 and a count is exact: it cannot round
    up to the count, and each integer gets its share to the resolution of float32.
    """
    count = cast(high - low + 1, np.float64, xp)
    scaled = xp.floor(cast(uniforms, np.float64, xp) * count)
    return cast(scaled, np.int32, xp) + low


def ranked(uniforms: Array, xp: Namespace, slots: Array | None = None) -> Array:
    """Positions [B, S] int32 of uniforms [B, S], from the smallest to the largest.

    Those from `slots` [B, 1] on come last; equal uniforms come in their order.
    """
    position = np.arange(uniforms.shape[1])
    width = 1 << int(position[-1]).bit_length()
    key = cast(uniforms * np.float32(_RESOLUTION), np.int64, xp)
    if slots is not None:
        beyond = position.astype(np.int32) >= slots
        key = key + cast(beyond, np.int64, xp) * _RESOLUTION
    # One sort of numbers that carry their position is cheaper than an argsort.
    packed = xp.sort(key * width + position, axis=-1)
    return cast(packed & (width - 1), np.int32, xp)


def subsets(
    uniforms: Array, size: Array, slots: Array, most: int, xp: Namespace
) -> Array:
    """Uniform subsets of `size` <= `most` of the first `slots` positions, [B, 1] each.

    uniforms: [B, S]. Returns [B, most] int32: `size` positions, ascending, then
    _NEVER.
    """
    chosen = ranked(uniforms, xp, slots)[:, :most]
    beyond = cast(np.arange(most, dtype=np.int32) >= size, np.int32, xp)
    return xp.sort(chosen * (1 - beyond) + _NEVER * beyond, axis=-1)


def step_over(before: Array, lengths: Array, count: int, xp: Namespace) -> Array:
    """The first `count` positions outside n disjoint runs; [B, count] int32.

    Run i is `lengths` [B, n] long and has `before` [B, n] positions outside all runs
    ahead of it.
    """
    index = np.arange(count, dtype=np.int32)
    passed = cast(before[:, :, None] <= index, np.int32, xp)
    return index + xp.sum(passed * lengths[:, :, None], axis=1, dtype=np.int32)


def uncovered(
    length: Array, starts: Array, start: Array, end: Array, xp: Namespace
) -> tuple[Array, Array, Array]:
    """What target blocks leave of the context block start .. end.

    length, start, end [..., 1], starts [..., M]. Returns for each of M disjoint runs
    of covered patches, from left to right, the uncovered patches before it and its
    length, [..., M] each, and the count of all uncovered patches [..., 1].
    """
    starts = xp.sort(starts, axis=-1)
    # Blocks of one length end in the order in which they start.
    previous = xp.concatenate([start, starts[..., :-1] + length], axis=-1)
    first = xp.maximum(xp.maximum(starts, previous), start)
    covered = xp.maximum(xp.minimum(starts + length, end) - first, 0)
    through = xp.cumsum(covered, axis=-1, dtype=np.int32)
    return first - start - (through - covered), covered, end - start - through[..., -1:]


def padded(
    context: Array, kept: Array, targets: Array, lengths: Array, xp: Namespace
) -> dict[str, Array]:
    """The masks of a batch, with index 0 and not valid where a row has no more.

    context [B, K] int32, of which the first kept [B, 1] are valid; targets [B, M, L]
    int32, of which the first lengths [B, 1] of every block are.
    """
    context, context_valid = _pad(context, kept, xp)
    targets, targets_valid = _pad(targets, lengths[:, None], xp)
    return {
        "context": context,
        "context_valid": context_valid,
        "targets": targets,
        "targets_valid": targets_valid,
    }


def _pad(indices: Array, count: Array, xp: Namespace) -> tuple[Array, Array]:
    order = np.arange(indices.shape[-1], dtype=np.int32)
    valid = xp.zeros_like(indices) + order < count
    return indices * cast(valid, np.int32, xp), valid
