"""Signals between their samples."""

import jax
import jax.numpy as jnp

from ecgssl_jax.signals import base


def interpolate(
    ecg: jax.Array, position: jax.Array, length: base.Length = None
) -> jax.Array:
    """The signals at other times, by cubic convolution.

    Of third order in the distance of samples and nearly flat up to half the Nyquist
    rate: a QRS complex keeps its height, which linear interpolation takes from it.
    R. G. Keys, Cubic convolution interpolation for digital image processing, 1981,
    equation 15 (a = -1/2).

    Args:
      ecg: [B, T, C] float32.
      position: [B, T'] float32, in samples; moved into the valid part if outside.
      length: [B] int32, valid samples; None where all are full. The first and last
        one repeat beyond the ends.

    Returns:
      [B, T', C] float32.
    """
    last = base.lengths(ecg, length)[:, None] - 1
    position = jnp.clip(position, 0.0, last.astype(position.dtype))
    before = jnp.floor(position)
    f = (position - before)[:, :, None]
    index = before.astype(jnp.int32)
    weights = (
        ((2.0 - f) * f - 1.0) * f / 2.0,
        ((3.0 * f - 5.0) * f * f + 2.0) / 2.0,
        ((4.0 - 3.0 * f) * f + 1.0) * f / 2.0,
        (f - 1.0) * f * f / 2.0,
    )
    result = jnp.zeros((), ecg.dtype)
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        row = jnp.clip(index + offset, 0, last)[:, :, None]
        result += weight * jnp.take_along_axis(
            ecg, row, axis=1, mode="promise_in_bounds"
        )
    return result
