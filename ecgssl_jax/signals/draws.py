"""Normally distributed draws at a price that a training step can bear."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

_BITS = 16


def normal(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[B, ...] float32 (`shape`), standard normal, in steps of 1/65536 of probability.

    Six times as fast on a CPU as `jax.random.normal`: each draw of 32 random bits
    serves two samples, and a table stands in for the logarithm. The largest
    magnitude is 4.3.
    """
    size = math.prod(shape[1:])
    # Drawn flat: with three axes XLA compiles ten times as long, and runs half as fast.
    bits = jax.random.bits(rng, (shape[0], math.ceil(size / 2)), jnp.uint32)
    index = jnp.concatenate([bits >> _BITS, bits & (2**_BITS - 1)], axis=1)
    index = index[:, :size].astype(jnp.int32).reshape(shape)
    return jnp.asarray(_quantiles()).at[index].get(mode="promise_in_bounds")


@functools.cache
def _quantiles() -> np.ndarray:
    """[65536] float32: of equal probability each, deviation 1."""
    middles = (np.arange(2**_BITS) + 0.5) / 2**_BITS
    quantiles = special.ndtri(middles)
    return (quantiles / quantiles.std()).astype(np.float32)
