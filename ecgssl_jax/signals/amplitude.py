"""Transforms of each lead's size: inverted, scaled, dropped, normalised."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ecgssl_jax.signals import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inversion:
    """All leads with the opposite sign."""

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        return -ecg, length


@dataclasses.dataclass(frozen=True, kw_only=True)
class AmplitudeScaling:
    """Each lead times a factor of its own.

    Attributes:
      factor: its logarithm is uniform between those of the two.
    """

    factor: base.Range = (0.5, 2.0)

    def __post_init__(self) -> None:
        base.check_range("factor", self.factor)
        base.check_positive("factor[0]", self.factor[0])

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        logs = (math.log(self.factor[0]), math.log(self.factor[1]))
        factor = base.uniform(rng, logs, (ecg.shape[0], 1, ecg.shape[2]))
        return ecg * jnp.exp(factor), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeadDropout:
    """Leads set to zero, never all that a record has.

    Attributes:
      probability: of each lead; where it falls on all, one of them, drawn at
        random, stays.
    """

    probability: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability < 1.0:
            raise ValueError(
                f"probability is {self.probability}; give at least 0 and less than 1"
            )

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        draw = jax.random.uniform(rng, (ecg.shape[0], ecg.shape[2]))
        draw = jnp.where(base.present_leads(ecg), draw, -1.0)
        kept = (draw >= self.probability) | (draw == draw.max(axis=1, keepdims=True))
        return jnp.where(kept[:, None, :], ecg, 0.0), length


# Millivolts: a lead that varies less is flat; to stretch it would show its rounding.
_FLAT = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Each lead with zero mean and one deviation, over its valid part.

    Attributes:
      deviation: millivolts. Flat leads are not stretched.
    """

    deviation: float = 0.2

    def __post_init__(self) -> None:
        base.check_positive("deviation", self.deviation)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        size = base.lengths(ecg, length)
        valid = base.valid_samples(ecg, size)[:, :, None]
        size = size[:, None, None]
        centred = ecg - jnp.sum(ecg, axis=1, keepdims=True, where=valid) / size
        power = jnp.square(centred).sum(axis=1, keepdims=True, where=valid) / size
        scale = self.deviation * jax.lax.rsqrt(jnp.maximum(power, _FLAT**2))
        return centred * scale, length
