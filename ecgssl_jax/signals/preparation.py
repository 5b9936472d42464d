"""From the int16 signals of a batch to what an encoder sees."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


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
    source = batch["source"]
    scale, mean, std = (
        jnp.asarray(table)[source][:, None, :]
        for table in (statistics.scale, statistics.mean, statistics.std)
    )
    ecg = (batch["ecg"].astype(jnp.float32) * scale - mean) / std
    if clip is not None:
        ecg = jnp.clip(ecg, -clip, clip)
    valid = batch["lead_valid"][:, None, :]
    if "length" in batch:
        samples = jnp.arange(ecg.shape[1])
        valid = valid & (samples < batch["length"][:, None])[:, :, None]
    return jnp.where(valid, ecg, 0.0)
