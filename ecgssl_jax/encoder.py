"""A trained encoder as a library call: recordings in, features out.

    encoder = ecgssl_jax.load("runs/jepa-ptbxl")
    features = encoder(ecg, rate=500, leads=["I", "II", "V2"], unit="uV")["pooled"]

Recordings are prepared as those of a prepared set are, and refused for the same reasons.
"""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ecgssl_jax.checkpoint_reading import load_params
from ecgssl_jax.data.convert import Window
from ecgssl_jax.data.readers.units import millivolts_per_unit
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.whole import whole_window
from ecgssl_jax.evaluation.features import window_count
from ecgssl_jax.interop import exported
from ecgssl_jax.leads import LEADS, stated_columns
from ecgssl_jax.runs import FrozenEncoder, load_encoder
from ecgssl_jax.settings import ConfigError, near
from ecgssl_jax.signals import Statistics

_LARGEST_BATCH = 256  # windows
_MOST_HZ = 1e6


def load(
    path: str | Path,
    *,
    which: str = "best",
    statistics: str | None = None,
    tokens: bool = True,
) -> "Encoder":
    """The encoder of a run, or an exported one, ready to be called on arrays.

    Args:
      path: the run's workdir, one step's folder in it (runs/jepa/best/4000), or a folder
        that `python -m ecgssl_jax.export` wrote.
      which: of a run, 'best' (the best probe's checkpoint; the newest where none was
        kept) or 'newest'.
      statistics: of a run, the set, of those trained on, whose mean and deviation of
        each lead the recordings are normalised by; the first one by default. An
        exported encoder has one set's.
      tokens: whether calls give tokens too, which are large.

    Raises:
      FileNotFoundError: no such run, or no checkpoint in it.
      DamagedCheckpointError: no checkpoint that is intact.
      ExportedEncoderError: an exported encoder that cannot be read.
      ConfigError: a checkpoint of another version, or no such set.
    """
    dtype = jnp.float32 if tokens else None
    if exported.is_exported(path):
        if statistics is not None:
            raise ConfigError(
                f"statistics={statistics!r}: {path} is an exported encoder, which has "
                "the statistics of one set; choose them when it is exported"
            )
        frozen, tables = exported.load(path, tokens=dtype)
        return Encoder(frozen=frozen, statistics=tables)
    frozen = load_encoder(path, which, tokens=dtype)
    sets = list(frozen.run.data)
    if statistics is None:
        statistics = sets[0]
    if statistics not in sets:
        raise ConfigError(
            f"statistics: the encoder was not trained on a set {statistics!r}"
            f"{near(statistics, sets)}"
        )
    try:
        saved, _ = load_params(str(frozen.run.checkpoint), subtree="statistics")
    except KeyError as error:
        raise ConfigError(
            f"{frozen.run.checkpoint} holds no statistics to normalise recordings by; "
            "it was not written by python -m ecgssl_jax.main, or was cut"
        ) from error
    row = frozen.run.data[statistics]["source"]
    own = {name: table[row : row + 1] for name, table in saved.items()}
    return Encoder(frozen=frozen, statistics=Statistics(**own))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """Recordings -> features; made by `load`.

    Attributes:
      frozen: the encoder, for prepared sets.
      statistics: [1, C] each, of the set whose normalisation is used.
    """

    frozen: FrozenEncoder
    statistics: Statistics

    def __repr__(self) -> str:
        run = self.frozen.run
        model, method = run.experiment.model, run.experiment.method
        named = (model.get("name"), model.get("preset"), method.get("name"))
        return (
            f"<Encoder {' '.join(filter(None, named))}, {run.checkpoint}: windows of "
            f"{self.crop} samples at {self.rate:g} Hz>"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Of a model trained on labels, what the columns of its 'logits' are; else ()."""
        return self.frozen.run.labels

    @property
    def rate(self) -> float:
        """Sampling rate that it was trained at, Hz."""
        return next(iter(self.frozen.run.data.values()))["rate"]

    @property
    def crop(self) -> int:
        """Samples of a window, at that rate."""
        return self.frozen.run.experiment.data.crop

    @property
    def scale(self) -> float:
        """Millivolts of one step of the integers that it takes."""
        return float(np.asarray(self.statistics.scale)[0, 0])

    def __call__(
        self,
        ecg: np.ndarray,
        *,
        rate: float,
        leads: Sequence[str],
        unit: str,
    ) -> dict[str, np.ndarray]:
        """Features of recordings, prepared as `python -m ecgssl_jax.prepare` does it.

        Resampled to the encoder's rate, leads in its order, absent leads missing (as are
        flat ones), short gaps interpolated, normalised by the training set's statistics,
        and cut into windows, side by side; what remains is one too if it is at least
        half a window. A recording is judged as a whole, however long: a lead that is flat
        in one window only is no missing lead, as it would be in a prepared set of windows.

        Args:
          ecg: [T, C] or [B, T, C], of any real dtype; NaN where a sample is missing. A
            recording that ends early has NaN from there on.
          rate: its sampling rate, Hz.
          leads: the C names, in any order and spelling ("avR"); "-" for a column that is
            none.
          unit: "mV", "uV", ..., or one step of integers, such as "4.88uV".

        Returns:
          'pooled' [B, D] float32, the mean over the windows; 'tokens' [B, W * N, D]
          float32, of W windows of N tokens; where some windows are not full,
          'tokens_valid' [B, W * N] bool; of a model that was trained on labels, 'logits'
          [B, Y] float32, log-odds of its `labels`; of an encoder that sees leads one by one,
          'by_lead' [B, L, D] float32, zeros where a lead is missing. Without B where `ecg`
          had none.

        Raises:
          ValueError: shapes, rates, units or leads that are none; a recording that cannot
            be used, with the reason: too short, flat, a long gap, implausible amplitudes.
        """
        ecg = _array(ecg)
        _check(ecg, rate, leads, unit)
        columns = stated_columns(leads)
        factor = np.float32(millivolts_per_unit(unit))
        windows = []
        for number, one in enumerate(ecg if ecg.ndim == 3 else ecg[None]):
            record = Record(
                id=f"recording {number}",
                ecg=one[:, list(columns.values())].astype(np.float32) * factor,
                rate=rate,
                leads=tuple(columns),
            )
            try:
                window = whole_window(
                    record, rate=self.rate, at_least=self.crop, scale=self.scale
                )
            except RecordError as error:
                raise ValueError(str(error)) from error
            windows.append(window)
        found = self.encode_windows(windows)
        if ecg.ndim == 3:
            return found
        return {name: value[0] for name, value in found.items()}

    def encode_windows(self, windows: Sequence[Window]) -> dict[str, np.ndarray]:
        """Features of B recordings, as `data.whole` gives them, of any lengths."""
        signals = _Signals(windows, at_least=self.crop)
        pieces = len(windows) * int(window_count(signals.length, self.crop))
        return self.frozen.encode_signals(
            signals,
            np.arange(len(windows)),
            self.statistics,
            # Few shapes, so that few programs are compiled.
            batch_size=min(_LARGEST_BATCH, 1 << (pieces - 1).bit_length()),
        )


class _Signals:
    """Windows, as `evaluation.features.Signals`, of the longest one's length."""

    def __init__(self, windows: Sequence[Window], *, at_least: int):
        lengths = [window.length for window in windows]
        self.length = max(*lengths, at_least)
        self._ecg = np.zeros((len(windows), self.length, len(LEADS)), np.int16)
        for ecg, window in zip(self._ecg, windows, strict=True):
            ecg[: window.length] = window.ecg[: window.length]
        self.index: Mapping[str, np.ndarray] = {
            "length": np.array(lengths, np.int32),
            "lead_valid": np.stack([window.lead_valid for window in windows]),
        }

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self._ecg[rows]


def _array(ecg) -> np.ndarray:
    try:
        return np.asanyarray(ecg)
    except ValueError as error:
        raise ValueError(
            "ecg: recordings of different shapes make no array; lengthen the shorter "
            "ones by NaN, or call once for each"
        ) from error


def _check(ecg: np.ndarray, rate: float, leads: Sequence[str], unit: str) -> None:
    names = [] if leads is None or isinstance(leads, str) else list(leads)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"leads={leads!r}: expected a list of names, such as {LEADS}")
    if not ecg.size:
        raise ValueError(f"ecg of shape {ecg.shape}: there is nothing in it")
    if ecg.ndim not in (2, 3) or ecg.shape[-1] != len(leads):
        hint = ""
        if ecg.ndim >= 2 and ecg.shape[-2] == len(leads):
            hint = "; the last axis is the leads': swap it with the one before"
        raise ValueError(
            f"ecg of shape {ecg.shape} with {len(leads)} leads: expected [samples, leads] "
            f"or [recordings, samples, leads]{hint}"
        )
    if not (
        np.issubdtype(ecg.dtype, np.floating) or np.issubdtype(ecg.dtype, np.integer)
    ):
        raise ValueError(f"ecg of dtype {ecg.dtype}: expected real numbers")
    if not (isinstance(rate, numbers.Real) and 0 < rate < _MOST_HZ):
        raise ValueError(f"rate={rate!r}: expected the sampling rate in Hz")
    if not isinstance(unit, str):
        raise ValueError(f"unit={unit!r}: expected a name, such as 'mV'")
    if isinstance(ecg, np.ma.MaskedArray):
        raise ValueError("ecg: a masked array; give NaN where a sample is missing")
