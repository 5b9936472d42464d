"""From the int16 signals of a batch to what an encoder sees."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.signals.views import View, make_views, missing_to_zero


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of each prepared set and lead; part of every checkpoint.

    Attributes:
      scale: [S, C] float32, millivolts a step of the stored integers.
      mean, std: [S, C] float32, millivolts, over all valid samples of the set.
    """

    scale: jax.Array | np.ndarray
    mean: jax.Array | np.ndarray
    std: jax.Array | np.ndarray


def prepare(
    batch: Mapping[str, jax.Array], statistics: Statistics, *, clip: float | None = None
) -> jax.Array:
    """Integers -> millivolts -> zero mean and unit deviation of each lead.

    Args:
      batch: `ecg` [B, T, C] int16; `source` [B] int32, the row's prepared set;
        `lead_valid` [B, C] bool; `length` [B] int32, valid samples, may be absent
        where every row is full.
      clip: largest magnitude of the result, in standard deviations; None: none.

    Returns:
      [B, T, C] float32, zero where a lead or a sample is missing.
    """
    ecg = millivolts(batch, statistics)
    return _normalised(ecg, batch.get("length"), batch, statistics, clip)


def prepare_views(
    views: Sequence[View],
    rng: jax.Array,
    batch: Mapping[str, jax.Array],
    statistics: Statistics,
    *,
    rate: float,
    clip: float | None = None,
) -> tuple[dict[str, jax.Array], ...]:
    """As `prepare`, with each view's transforms applied to the millivolts.

    Args:
      rng: key of all that is random.
      rate: of the signals, Hz.

    Returns:
      For each view `ecg` [B, T', C] float32 and, where the batch has it, `length`.
    """
    ecg = millivolts(batch, statistics)
    made = make_views(
        views, rng, ecg, batch["lead_valid"], batch.get("length"), rate=rate
    )
    prepared = []
    for ecg, length in made:
        ecg = _normalised(ecg, length, batch, statistics, clip)
        prepared.append({"ecg": ecg} | ({} if length is None else {"length": length}))
    return tuple(prepared)


def millivolts(batch: Mapping[str, jax.Array], statistics: Statistics) -> jax.Array:
    """The signals of a batch, their leads' means taken off: [B, T, C] float32.

    So what a transform sets to zero is to the encoder what a missing lead is.
    """
    scale, mean = _tables(batch, statistics.scale, statistics.mean)
    return batch["ecg"].astype(jnp.float32) * scale - mean


def _normalised(ecg, length, batch, statistics, clip):
    """Those millivolts with unit deviation, clipped; zero where missing."""
    (std,) = _tables(batch, statistics.std)
    ecg = ecg / std
    if clip is not None:
        ecg = jnp.clip(ecg, -clip, clip)
    return missing_to_zero(ecg, batch["lead_valid"], length)


def _tables(batch, *tables):
    """Each table's row of every record's set: [B, 1, C]."""
    return tuple(jnp.asarray(x)[batch["source"]][:, None, :] for x in tables)
