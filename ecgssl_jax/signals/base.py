"""The contract of a transform, and what several of them share."""

import math
from typing import Protocol

import jax
import jax.numpy as jnp

from ecgssl_jax.leads import LEADS

Range = tuple[float, float]  # lowest and highest value
Length = jax.Array | None  # [B] int32, valid samples; None where all are full


class Transform(Protocol):
    """A random change of ECGs; a frozen dataclass whose fields are its settings.

    Pure and traced inside a jitted step. Every record draws for itself. What comes
    out in missing leads and in the padding is anything: `views.make_views` sets
    both to zero again. One that changes T or the lengths has a class attribute
    `changes_length = True`; it is applied to all records of a batch.
    """

    def __call__(
        self,
        rng: jax.Array,
        ecg: jax.Array,
        length: Length = None,
        *,
        rate: float,
    ) -> tuple[jax.Array, Length]:
        """-> the changed ECGs, and their lengths.

        Args:
          rng: key.
          ecg: [B, T, C] float32, millivolts, leads in the order of `leads.LEADS`;
            zero where a lead or a sample is missing.
          length: [B] int32, valid samples of each record, the rest is padding; None
            where all are full.
          rate: Hz, static.

        Returns:
          [B, T, C] float32 and `length`. Both as they were, but for `changes_length`.

        Raises:
          ValueError: the settings do not fit this rate, T or C.
        """
        ...


def check_range(
    name: str, values: Range, *, low: float = 0.0, high: float = math.inf
) -> None:
    """Raises ValueError unless low <= values[0] <= values[1] <= high, all finite."""
    first, last = values
    if not low <= first <= last <= high or not math.isfinite(last):
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise ValueError(
            f"{name} is {values}; give (lowest, highest), at least {low:g}{upper}, "
            "the lowest first"
        )


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless the value is above zero and finite."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} is {value}; give a number above 0")


def check_leads(name: str, ecg: jax.Array) -> None:
    """Raises ValueError unless there are the twelve leads."""
    if ecg.shape[-1] != len(LEADS):
        raise ValueError(
            f"{name} needs the {len(LEADS)} leads {', '.join(LEADS)}, and found "
            f"{ecg.shape[-1]}; leave it out, or give all leads, zero where missing"
        )


def uniform(rng: jax.Array, values: Range, shape: tuple[int, ...]) -> jax.Array:
    """`shape` float32, uniform between the two values."""
    flat = (shape[0], math.prod(shape[1:]))  # compiles faster
    draw = jax.random.uniform(rng, flat, minval=values[0], maxval=values[1])
    return draw.reshape(shape)


def lengths(ecg: jax.Array, length: Length) -> jax.Array:
    """[B] int32: valid samples, at least one, so that a last one exists."""
    if length is None:
        return jnp.full(ecg.shape[:1], ecg.shape[1], jnp.int32)
    return jnp.clip(length, 1, ecg.shape[1])


def valid_samples(ecg: jax.Array, length: jax.Array) -> jax.Array:
    """[B, T] bool."""
    return jnp.arange(ecg.shape[1]) < length[:, None]


def present_leads(ecg: jax.Array) -> jax.Array:
    """[B, C] bool: leads that are not zero throughout."""
    return jnp.any(ecg != 0.0, axis=1)


def samples(ecg: jax.Array) -> jax.Array:
    """[T] float32: 0, 1, 2, ..."""
    return jnp.arange(ecg.shape[1], dtype=jnp.float32)
