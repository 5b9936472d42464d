"""Features of prepared recordings, from any encoder of any method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax import sharding
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.methods.base import Method
from ecgssl_jax.sharding import to_devices
from ecgssl_jax.signals import Statistics, prepare

# (params, extra, statistics, batch) -> 'pooled' [B, D]; of classifiers 'logits' [B, Y];
# of encoders that see single leads 'by_lead' [B, L, D];
# 'tokens' [B, N, D] and, where records can be short, 'tokens_valid' [B, N].
FeatureFunction = Callable[[Any, Any, Statistics, Any], dict[str, jax.Array]]


# What a record has one of, the mean over its windows.
_MEANS = ("pooled", "logits", "by_lead")


class Signals(Protocol):
    """Records of T samples at most, such as a prepared set.

    Attributes:
      length: T.
      index: 'length' [N] int32, valid samples, and 'lead_valid' [N, C] bool.
    """

    @property
    def length(self) -> int: ...

    @property
    def index(self) -> Mapping[str, np.ndarray]: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """[n, T, C] int16, zero where nothing is valid."""
        ...


def make_feature_function(
    method: Method, mesh: jax.sharding.Mesh, *, clip: float | None, tokens: Any = None
) -> FeatureFunction:
    """The method's features as one jitted function; results are replicated.

    Args:
      tokens: the dtype of the tokens, such as float16; None for none.
    """

    def features(params, extra, statistics, batch):
        batch = dict(batch, ecg=prepare(batch, statistics, clip=clip))
        found = method.features(params, extra, batch)
        result = {
            name: found[name].astype(jnp.float32) for name in _MEANS if name in found
        }
        if tokens is not None:
            result["tokens"] = found["tokens"].astype(tokens)
            if "tokens_valid" in found:
                result["tokens_valid"] = found["tokens_valid"]
        return result

    return jax.jit(features, out_shardings=sharding.replicated(mesh))


def extract(
    function: FeatureFunction,
    params: Any,
    extra: Any,
    signals: Signals,
    rows: np.ndarray,
    *,
    statistics: Statistics,
    crop: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> dict[str, np.ndarray]:
    """Features of the records `rows`, in that order.

    A record longer than the crop is cut into windows, side by side; what remains is one
    too if it is at least half a window. Pooled features and logits are the windows' means,
    weighted by their valid samples; the tokens follow each other. So a record's features do not
    depend on the others. Every process reads only what its own devices encode.

    Args:
      statistics: of one set, that the signals are normalised by.
      crop: samples of a window; T of the signals or less.
      batch_size: windows that are encoded at a time.

    Returns:
      'pooled' [n, D] float32; where the function gives them, 'logits' [n, Y] and
      'by_lead' [n, L, D] float32,
      'tokens' [n, W * N, D], and 'tokens_valid' [n, W * N] bool if some windows are not full.
    """
    windows = int(window_count(signals.length, crop))
    parts = sharding.batch_sharding(mesh)
    divisor = mesh.shape["data"] * mesh.shape["fsdp"]
    # Records at a time: a device gets all windows of each of its records.
    step = -(-batch_size // (windows * divisor)) * divisor
    own = sharding.process_rows(parts, step)
    own_windows = (own[:, None] * windows + np.arange(windows)).ravel()
    collected: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), step):
        wanted = rows[start : start + step]
        padded = np.concatenate([wanted, np.repeat(wanted[-1:], step - len(wanted))])
        local = _windows(signals, padded[own], crop, windows)
        batch = to_devices(local, parts, step * windows, own_windows)
        found = function(params, extra, statistics, batch)
        counted = _valid_samples(signals, wanted, crop, windows)
        weights = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)
        for name, value in found.items():
            value = np.asarray(value).reshape(step, windows, *value.shape[1:])
            value = value[: len(wanted)]
            if name in _MEANS:
                value = np.einsum("nw...,nw->n...", value, weights.astype(np.float32))
            else:
                value = value.reshape(len(wanted), -1, *value.shape[3:])
            collected.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in collected.items()}


def window_count(length, crop: int):
    """Windows of records of `length` samples: those that are at least half full."""
    return np.maximum((2 * np.asarray(length) + crop) // (2 * crop), 1)


def _valid_samples(
    signals: Signals, rows: np.ndarray, crop: int, windows: int
) -> np.ndarray:
    """[n, W] int32: of each window; 0 where it does not count."""
    length = signals.index["length"][rows][:, None]
    window = np.arange(windows)
    held = np.clip(length - window * crop, 0, crop)
    return np.where(window < window_count(length, crop), held, 0).astype(np.int32)


def _windows(
    signals: Signals, rows: np.ndarray, crop: int, windows: int
) -> dict[str, np.ndarray]:
    """A batch of all windows of the records, record by record."""
    ecg = signals.read(rows)[:, : windows * crop]
    missing = windows * crop - ecg.shape[1]
    if missing:
        ecg = np.pad(ecg, ((0, 0), (0, missing), (0, 0)))
    batch = {
        "ecg": ecg.reshape(len(rows) * windows, crop, ecg.shape[-1]),
        "source": np.zeros(len(rows) * windows, np.int32),
        "lead_valid": np.repeat(signals.index["lead_valid"][rows], windows, axis=0),
    }
    if missing or (signals.index["length"] < signals.length).any():
        counted = _valid_samples(signals, rows, crop, windows)
        batch["length"] = counted.reshape(-1)
    return batch


def statistics_of(sets: Sequence[PreparedSet]) -> Statistics:
    """The tables of these sets, in their order."""
    leads = len(sets[0].leads)
    return Statistics(
        scale=np.stack([np.full(leads, s.scale, np.float32) for s in sets]),
        mean=np.stack([np.asarray(s.mean, np.float32) for s in sets]),
        std=np.stack([np.asarray(s.std, np.float32) for s in sets]),
    )
