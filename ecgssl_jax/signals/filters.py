"""Filters along time, each lead by itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ecgssl_jax.signals import base

# Where a Gaussian ends, in its deviations: 0.3 % of it lie beyond.
_REACH = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Each record convolved with a Gaussian; the ends weigh what is there.

    Attributes:
      sigma: seconds, the Gaussian's deviation, uniform between the two.
    """

    sigma: base.Range = (0.005, 0.02)

    def __post_init__(self) -> None:
        base.check_range("sigma", self.sigma)
        base.check_positive("sigma[1]", self.sigma[1])

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        reach = math.ceil(_REACH * self.sigma[1] * rate)
        sigma = base.uniform(rng, self.sigma, (ecg.shape[0], 1)) * rate
        offset = jnp.arange(reach + 1) / jnp.maximum(sigma, 1e-3)
        weight = jnp.exp(-0.5 * jnp.square(offset))
        valid = base.valid_samples(ecg, base.lengths(ecg, length))
        total = _symmetric(valid.astype(ecg.dtype)[:, :, None], weight)
        # Beyond the valid part the total may be zero.
        return _symmetric(ecg, weight) / jnp.maximum(total, 1e-6), length


def _symmetric(x: jax.Array, weight: jax.Array) -> jax.Array:
    """[B, T, C] and [B, R + 1], weights at distances 0 to R -> [B, T, C]."""
    reach, samples = weight.shape[1] - 1, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    # Sums of shifted copies: XLA makes one loop of them, faster than a convolution
    # with a kernel for each record.
    result = weight[:, 0, None, None] * x
    for distance in range(1, reach + 1):
        left = padded[:, reach - distance :][:, :samples]
        right = padded[:, reach + distance :][:, :samples]
        result += weight[:, distance, None, None] * (left + right)
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Derivative:
    """The rate of change (Sobel's kernel in one dimension: -1, 0, 1).

    Attributes:
      time_constant: seconds; millivolts per second times this are millivolts again.
    """

    time_constant: float = 0.02

    def __post_init__(self) -> None:
        base.check_positive("time_constant", self.time_constant)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        last = base.lengths(ecg, length)[:, None, None] - 1
        # The ends' missing neighbour is the end itself.
        after = jnp.concatenate([ecg[:, 1:], ecg[:, -1:]], axis=1)
        after = jnp.where(jnp.arange(ecg.shape[1])[:, None] >= last, ecg, after)
        before = jnp.concatenate([ecg[:, :1], ecg[:, :-1]], axis=1)
        return (after - before) * (0.5 * rate * self.time_constant), length
