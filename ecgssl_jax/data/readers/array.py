"""One array of many records: `.npy` or `.npz`, [N, T, C] or [N, C, T]."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ecgssl_jax.data.readers.signals import Signals, check_signals, read_array
from ecgssl_jax.data.readers.source import Reading, Source, SourceError, split
from ecgssl_jax.data.record import Record, RecordError


def array_source(path: str | Path, signals: Signals, *, key: str = "") -> Source:
    """The records of one array, named by their number.

    A `.npy` file is mapped, not loaded; a `.npz` file is held in memory and read
    by one process.

    Args:
      path: the file.
      signals: its rate, unit, leads, and layout of each record.
      key: name of the array in a `.npz` of several.

    Raises:
      SourceError: not such an array, or `signals` is incomplete or wrong.
    """
    path = Path(path)
    missing = [x for x in ("rate", "unit", "leads") if getattr(signals, x) is None]
    if missing:
        flags = ", ".join("--source-rate" if x == "rate" else f"--{x}" for x in missing)
        raise SourceError(
            f"an array does not say its {', '.join(missing)}; pass {flags}"
        )
    check_signals(signals)
    array = _open(path, key)
    if array.ndim != 3:
        raise SourceError(
            f"{path} has shape {array.shape}; expected records x samples x leads, or "
            "records x leads x samples with --layout=NCT"
        )
    numbers = range(len(array))
    mapped = path.suffix == ".npy"
    parts = split(numbers) if mapped else [numbers]
    return Source(
        description=f"array {path.name}, {len(array)} records",
        tasks=[functools.partial(_read, path, key, signals, part) for part in parts],
        num_records=len(array),
        rates=(float(signals.rate or 0),),
        notes=("no patients, no folds: each record counts as a patient of its own",),
    )


def _open(path: Path, key: str) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as file:
            if not key and len(file.files) != 1:
                raise SourceError(
                    f"{path} holds the arrays {', '.join(file.files)}; choose with --key"
                )
            return file[key or file.files[0]]
    except KeyError as error:
        raise SourceError(f"{path} holds no array {key!r}") from error
    except SourceError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds
        raise SourceError(f"{path} cannot be read as an array: {error}") from error


def _read(
    path: Path, key: str, signals: Signals, numbers: Sequence[int]
) -> Iterator[Reading]:
    array = _open(path, key)
    for number in numbers:
        id = str(number)
        try:
            where = f"{path}, record {number}"
            yield id, Record(id=id, **read_array(array[number], signals, where))
        except RecordError as error:
            yield id, error
