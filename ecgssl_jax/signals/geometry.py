"""Transforms of time: what happens when. All within the valid part of each record."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from ecgssl_jax.signals import base
from ecgssl_jax.signals.interpolation import interpolate


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A stretch of `seconds`, all its places equally likely.

    A record that is shorter stays whole, with padding at its end.
    """

    changes_length: ClassVar[bool] = True

    seconds: float

    def __post_init__(self) -> None:
        base.check_positive("seconds", self.seconds)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        """-> [B, round(seconds * rate), C], and its lengths."""
        crop = round(self.seconds * rate)
        if not 0 < crop <= ecg.shape[1]:
            raise ValueError(
                f"random_crop: {self.seconds:g} s at {rate:g} Hz are {crop} samples, of "
                f"signals of {ecg.shape[1]} ({ecg.shape[1] / rate:g} s); change seconds"
            )
        places = base.lengths(ecg, length) - crop + 1
        start = jax.random.randint(rng, ecg.shape[:1], 0, jnp.maximum(places, 1))
        ecg = jax.vmap(lambda x, i: jax.lax.dynamic_slice_in_dim(x, i, crop))(
            ecg, start
        )
        return ecg, None if length is None else jnp.minimum(length, crop)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A share of the valid part, stretched back to its length.

    Attributes:
      scale: share, uniform between the two.
    """

    scale: base.Range = (0.5, 1.0)

    def __post_init__(self) -> None:
        base.check_range("scale", self.scale, high=1.0)
        base.check_positive("scale[0]", self.scale[0])

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        for_scale, for_start = jax.random.split(rng)
        batch = (ecg.shape[0], 1)
        last = (base.lengths(ecg, length) - 1).astype(jnp.float32)[:, None]
        scale = base.uniform(for_scale, self.scale, batch)
        start = jax.random.uniform(for_start, batch) * (1.0 - scale) * last
        return interpolate(ecg, start + scale * base.samples(ecg), length), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeWarp:
    """Time runs faster and slower, smoothly; the valid part maps onto itself.

    Attributes:
      strength: largest relative change of speed; below 1, so that time never
        stands still.
      period: seconds, shortest period of the speed's changes in a full record.
    """

    strength: float = 0.2
    period: float = 5.0

    def __post_init__(self) -> None:
        if not 0.0 < self.strength < 1.0:
            raise ValueError(
                f"strength is {self.strength}; give a number between 0 and 1"
            )
        base.check_positive("period", self.period)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        for_weights, for_strength = jax.random.split(rng)
        batch = ecg.shape[0]
        last = (base.lengths(ecg, length) - 1).astype(jnp.float32)[:, None]
        # Half periods in the record; the k-th cosine of speed has k of them.
        modes = max(1, math.floor(2.0 * ecg.shape[1] / rate / self.period))
        weight = jax.random.normal(for_weights, (batch, modes))
        strength = jax.random.uniform(for_strength, (batch, 1), maxval=self.strength)
        # The speed 1 + sum w_k cos(pi k u) stays within the sum of magnitudes.
        weight *= strength / jnp.sum(jnp.abs(weight), axis=1, keepdims=True)
        place = jnp.arange(ecg.shape[1]) / jnp.maximum(last, 1.0)
        ahead = sum(
            weight[:, k - 1, None] / (math.pi * k) * jnp.sin(math.pi * k * place)
            for k in range(1, modes + 1)
        )
        return interpolate(ecg, base.samples(ecg) + last * ahead, length), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeOut:
    """A span of all leads set to zero.

    Attributes:
      seconds: of the span; in records that are shorter than T, no larger share is
        set to zero than in full ones.
    """

    seconds: base.Range = (0.5, 3.0)

    def __post_init__(self) -> None:
        base.check_range("seconds", self.seconds)

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        share = self.seconds[1] * rate / ecg.shape[1]
        if share >= 1.0:
            raise ValueError(
                f"time_out: {self.seconds[1]:g} s would erase signals of "
                f"{ecg.shape[1] / rate:g} s; give fewer seconds"
            )
        for_span, for_start = jax.random.split(rng)
        batch = (ecg.shape[0], 1)
        full = base.lengths(ecg, length).astype(jnp.float32)[:, None]
        span = base.uniform(for_span, self.seconds, batch) * rate
        span = jnp.minimum(span, share * full)
        start = jax.random.uniform(for_start, batch) * (full - span)
        time = base.samples(ecg)
        # A sample stands for the time from its index to the next one's, by its middle.
        erased = (time + 0.5 >= start) & (time + 0.5 < start + span)
        return jnp.where(erased[:, :, None], 0.0, ecg), length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reversal:
    """The valid part backwards in time."""

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: base.Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, base.Length]:
        if length is None:
            return ecg[:, ::-1], None
        index = base.lengths(ecg, length)[:, None] - 1 - jnp.arange(ecg.shape[1])
        index = jnp.maximum(index, 0)[:, :, None]
        # What this leaves in the padding is the first sample.
        ecg = jnp.take_along_axis(ecg, index, axis=1, mode="promise_in_bounds")
        return ecg, length
