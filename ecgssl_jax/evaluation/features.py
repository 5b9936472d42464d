"""Features of prepared recordings, from any encoder of any method."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax import sharding
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.methods.base import Method
from ecgssl_jax.sharding import to_devices
from ecgssl_jax.signals import Statistics, prepare

# (params, extra, statistics, batch) -> 'pooled' [B, D], 'tokens' [B, N, D] and, where
# records can be short, 'tokens_valid' [B, N].
FeatureFunction = Callable[[Any, Any, Statistics, Any], dict[str, jax.Array]]


def make_feature_function(
    method: Method, mesh: jax.sharding.Mesh, *, clip: float | None, tokens: bool
) -> FeatureFunction:
    """The method's features as one jitted function; results are replicated.

    Args:
      tokens: whether the tokens are wanted too, as float16.
    """

    def features(params, extra, statistics, batch):
        batch = dict(batch, ecg=prepare(batch, statistics, clip=clip))
        found = method.features(params, extra, batch)
        result = {"pooled": found["pooled"].astype(jnp.float32)}
        if tokens:
            result["tokens"] = found["tokens"].astype(jnp.float16)
            if "tokens_valid" in found:
                result["tokens_valid"] = found["tokens_valid"]
        return result

    return jax.jit(features, out_shardings=sharding.replicated(mesh))


def extract(
    function: FeatureFunction,
    params: Any,
    extra: Any,
    prepared: PreparedSet,
    rows: np.ndarray,
    *,
    crop: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> dict[str, np.ndarray]:
    """Features of the records `rows`, in that order.

    A record longer than the crop is cut into the windows that fit, side by side;
    its pooled feature is the mean of those with signal, its tokens follow each
    other. Every process reads only what its own devices encode.

    Args:
      crop: T, samples of a window.
      batch_size: windows that are encoded at a time.

    Returns:
      'pooled' [n, D] float32; where the function gives them, 'tokens' [n, W * N, D]
      float16, and 'tokens_valid' [n, W * N] bool if the set has short records.
    """
    windows = prepared.length // crop
    parts = sharding.batch_sharding(mesh)
    divisor = mesh.shape["data"] * mesh.shape["fsdp"]
    # Records at a time: a device gets all windows of each of its records.
    step = -(-batch_size // (windows * divisor)) * divisor
    own = sharding.process_rows(parts, step)
    statistics = statistics_of([prepared])
    collected: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), step):
        wanted = rows[start : start + step]
        padded = np.concatenate([wanted, np.repeat(wanted[-1:], step - len(wanted))])
        local = _windows(prepared, padded[own], crop, windows)
        batch = to_devices(local, parts, step * windows, own.start * windows)
        found = function(params, extra, statistics, batch)
        weights = _window_weights(prepared, wanted, crop, windows)
        for name, value in found.items():
            value = np.asarray(value).reshape(step, windows, *value.shape[1:])
            value = value[: len(wanted)]
            if name == "pooled":
                value = (value * weights[:, :, None]).sum(axis=1)
            else:
                value = value.reshape(len(wanted), -1, *value.shape[3:])
            collected.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in collected.items()}


def _window_weights(
    prepared: PreparedSet, rows: np.ndarray, crop: int, windows: int
) -> np.ndarray:
    """[n, W] float32: what each window counts in its record's mean.

    Windows that begin beyond the end of a short record count nothing.
    """
    length = prepared.index["length"][rows]
    holds = np.arange(windows) * crop < np.maximum(length, 1)[:, None]
    return (holds / holds.sum(axis=1, keepdims=True)).astype(np.float32)


def _windows(
    prepared: PreparedSet, rows: np.ndarray, crop: int, windows: int
) -> dict[str, np.ndarray]:
    """A batch of all windows of the records, record by record."""
    ecg = prepared.read(rows)[:, : windows * crop]
    shape = (len(rows) * windows, crop, ecg.shape[-1])
    starts = np.tile(np.arange(windows) * crop, len(rows))
    length = np.repeat(prepared.index["length"][rows], windows)
    batch = {
        "ecg": ecg.reshape(shape),
        "source": np.zeros(len(starts), np.int32),
        "lead_valid": np.repeat(prepared.index["lead_valid"][rows], windows, axis=0),
    }
    if (prepared.index["length"] < prepared.length).any():
        batch["length"] = np.clip(length - starts, 0, crop).astype(np.int32)
    return batch


def statistics_of(sets: Sequence[PreparedSet]) -> Statistics:
    """The tables of these sets, in their order."""
    leads = len(sets[0].leads)
    return Statistics(
        scale=np.stack([np.full(leads, s.scale, np.float32) for s in sets]),
        mean=np.stack([np.asarray(s.mean, np.float32) for s in sets]),
        std=np.stack([np.asarray(s.std, np.float32) for s in sets]),
    )
