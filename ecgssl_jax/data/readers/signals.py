"""Arrays that do not describe themselves, with what must be said about them."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.readers.units import millivolts_per_unit
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.leads import stated_columns

LAYOUTS = ("TC", "CT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signals:
    """How to read arrays; None where a column of a table says so.

    Attributes:
      rate: sampling rate, Hz.
      unit: of the samples, such as "mV", "uV" or "4.88uV" for a step of that size.
      leads: names of the columns, in order; "-" for one to leave out.
      layout: "TC" for [samples, leads], "CT" for [leads, samples].
    """

    rate: float | None = None
    unit: str | None = None
    leads: tuple[str, ...] | None = None
    layout: str = "TC"


def check_signals(signals: Signals) -> None:
    """Raises SourceError for a rate, unit, leads or layout that make no sense."""
    try:
        _factor_and_columns(signals)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _factor_and_columns(signals: Signals) -> tuple[float, dict[str, int]]:
    """Millivolts of a step, and standard lead -> column, of what is given."""
    if signals.layout not in LAYOUTS:
        raise ValueError(f"layout {signals.layout!r} is none of {', '.join(LAYOUTS)}")
    if signals.rate is not None and not 0 < signals.rate < math.inf:
        raise ValueError(f"a sampling rate of {signals.rate:g} Hz")
    factor = 1.0 if signals.unit is None else millivolts_per_unit(signals.unit)
    return factor, {} if signals.leads is None else stated_columns(signals.leads)


def split_leads(text: str) -> tuple[str, ...]:
    """Lead names that are separated by commas or semicolons, or else by spaces."""
    separator = r"[,;]" if re.search(r"[,;]", text) else r"\s"
    return tuple(x.strip() for x in re.split(separator, text) if x.strip())


def load_npy(path: Path) -> np.ndarray:
    """The array in a file. Raises RecordError if it is missing or damaged."""
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile, tokenize and NumPy raise many kinds
        raise RecordError(f"{path}: not a readable .npy file ({error})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise RecordError(f"{path}: a .npz archive, expected one array (.npy)")
    return array


def read_array(array: np.ndarray, signals: Signals, where: str) -> dict[str, Any]:
    """The fields ecg, rate and leads of a Record from an array and its description.

    Raises:
      RecordError: the array does not fit the description.
    """
    for name in ("rate", "unit", "leads"):
        if getattr(signals, name) is None:
            raise RecordError(f"{where}: no {name}, neither in its row nor as a flag")
    try:
        factor, columns = _factor_and_columns(signals)
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise RecordError(
            f"{where}: shape {array.shape}, {array.dtype}; expected real numbers, "
            "samples x leads"
        )
    axis, count = signals.layout.index("C"), len(signals.leads or ())
    if array.shape[axis] != count:
        other = "CT" if signals.layout == "TC" else "TC"
        turned = array.shape[1 - axis] == count
        hint = f"; it would fit layout {other}" if turned else ""
        raise RecordError(
            f"{where}: shape {array.shape} in layout {signals.layout} has "
            f"{array.shape[axis]} leads, but {count} are named{hint}"
        )
    ecg = array if axis == 1 else array.T
    ecg = ecg[:, list(columns.values())].astype(np.float32, copy=False)
    ecg *= np.float32(factor)
    return {"ecg": ecg, "rate": float(signals.rate or 0), "leads": tuple(columns)}
