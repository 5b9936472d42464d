"""A table (CSV or Parquet) whose rows point at `.npy` files, one record each.

Columns:

    path      the file, relative to the table's folder; the only one needed
    id        name of the record; else the path
    labels    names of the labels that hold, separated by ";". "none" says that
              none holds; an empty cell, that nothing is known
    label_X   or one column for each label: 1, 0, or empty for unknown
    text      report or diagnoses
    patient   identifier of the patient, stored as a hash
    fold      number of the fold
    rate, unit, leads, layout
              where they differ from record to record; else they come as
              arguments (leads separated by commas, semicolons or spaces)

All others are kept as attributes.
"""

import csv
import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.data.readers.source import Reading, Source, SourceError, split
from ecgssl_jax.data.readers.units import millivolts_per_unit
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.leads import lead_columns

LAYOUTS = ("TC", "CT")
_OWN = (
    "path",
    "id",
    "labels",
    "text",
    "patient",
    "fold",
    "rate",
    "unit",
    "leads",
    "layout",
)
_LABEL = "label_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signals:
    """How to read arrays; None where a column of the table says so.

    Attributes:
      rate: sampling rate, Hz.
      unit: of the samples, such as "mV", "uV" or "4.88uV" for a step of that size.
      leads: names of the columns, in order.
      layout: "TC" for [samples, leads], "CT" for [leads, samples].
    """

    rate: float | None = None
    unit: str | None = None
    leads: tuple[str, ...] | None = None
    layout: str = "TC"


def split_leads(text: str) -> tuple[str, ...]:
    """Lead names that are separated by commas, semicolons or spaces."""
    return tuple(name for name in re.split(r"[,;\s]+", text.strip()) if name)


def manifest_source(path: str | Path, signals: Signals) -> Source:
    """The records that a table lists; `signals` where its columns do not say.

    Raises:
      SourceError: not a table, no column `path`, or rate, unit or leads neither in
        a column nor given.
    """
    path = Path(path)
    rows = read_table(path)
    if not rows:
        raise SourceError(f"{path} has no rows")
    columns = list(rows[0])
    if "path" not in columns:
        raise SourceError(f"{path} has no column 'path'; found {', '.join(columns)}")
    for name, flag in (("rate", "source-rate"), ("unit", "unit"), ("leads", "leads")):
        if name not in columns and getattr(signals, name) is None:
            raise SourceError(
                f"{path} has no column {name!r}; add one or pass --{flag}"
            )
    ids = Counter(str(row["id"]) for row in rows if row.get("id"))
    repeated = [id for id, count in ids.items() if count > 1]
    if repeated:
        raise SourceError(f"{path}: column 'id' repeats {', '.join(repeated[:5])}")
    labels = _label_names(path, rows, columns)
    rates = {signals.rate} if "rate" not in columns else set(map(_rate_or_none, rows))
    return Source(
        description=f"records listed in {path.name}, {len(rows)} records",
        tasks=[
            functools.partial(_read_rows, path.parent, signals, labels, part)
            for part in split(rows)
        ],
        num_records=len(rows),
        rates=tuple(sorted(rate for rate in rates if rate is not None)),
        labels=labels,
    )


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV or Parquet file; empty cells are ""."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, restkey="beyond the last column"))
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as a table: {error}") from error
    return [{k: "" if _is_empty(v) else v for k, v in row.items()} for row in rows]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _label_names(path, rows, columns) -> tuple[str, ...]:
    own = [name for name in columns if name.startswith(_LABEL)]
    if own and "labels" in columns:
        raise SourceError(f"{path} has a column 'labels' and columns {own}; keep one")
    if own:
        return tuple(name.removeprefix(_LABEL) for name in own)
    cells = [_listed(row) for row in rows if row.get("labels")]
    return tuple(sorted(set().union(*cells)))


def _listed(row: Mapping[str, Any]) -> set[str]:
    names = {name.strip() for name in str(row["labels"]).split(";")}
    return names - {"", "none"}


def _rate_or_none(row: Mapping[str, Any]) -> float | None:
    try:
        return float(row["rate"])
    except ValueError:
        return None  # reported when the record is read


def _read_rows(
    root: Path, signals: Signals, labels: Sequence[str], rows: Sequence[Mapping]
) -> Iterator[Reading]:
    for row in rows:
        id = str(row.get("id") or row["path"] or "(no path)")
        try:
            yield id, _read_row(root, signals, labels, row, id)
        except RecordError as error:
            yield id, error


def _read_row(root, signals, labels, row, id) -> Record:
    if not row["path"]:
        raise RecordError(f"the row of {id!r} has no path")
    path = root / str(row["path"])
    own = {name: row[name] for name in ("unit", "layout") if row.get(name)}
    if row.get("leads"):
        own["leads"] = split_leads(str(row["leads"]))
    if "rate" in row:
        own["rate"] = _number(row, "rate", path)
    signals = dataclasses.replace(signals, **own)
    return Record(
        id=id,
        **read_array(load_npy(path), signals, str(path)),
        patient=_identifier(row.get("patient", "")),
        fold=_fold(row, path),
        labels=_read_labels(row, labels, path),
        text=str(row.get("text", "")),
        attributes={
            name: value
            for name, value in row.items()
            if name not in _OWN and not name.startswith(_LABEL) and value != ""
        },
    )


def _number(row, column, path) -> float:
    try:
        return float(row[column])
    except ValueError as error:
        raise RecordError(f"{path}: column {column} holds {row[column]!r}") from error


def _fold(row, path) -> int:
    if row.get("fold", "") == "":
        return -1
    fold = _number(row, "fold", path)
    if not fold.is_integer():
        raise RecordError(f"{path}: column fold holds {row['fold']!r}")
    return int(fold)


def _identifier(value: Any) -> str:
    # A column of integers with gaps arrives as floats: 17.0 is patient 17.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _read_labels(row, labels, path) -> dict[str, float]:
    if "labels" in row:
        # An empty cell is an unlabelled record, not one without any condition.
        listed = _listed(row)
        return {x: float(x in listed) for x in labels} if row["labels"] else {}
    values = {}
    for name in labels:
        if row[_LABEL + name] != "":
            values[name] = _number(row, _LABEL + name, path)
            if values[name] not in (0, 1):
                raise RecordError(
                    f"{path}: column {_LABEL + name} holds {row[_LABEL + name]!r}, "
                    "expected 1, 0 or nothing"
                )
    return values


def load_npy(path: Path) -> np.ndarray:
    """The array in a file. Raises RecordError if it is missing or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordError(f"{path}: not a readable .npy file ({error})") from error


def read_array(array: np.ndarray, signals: Signals, where: str) -> dict[str, Any]:
    """The fields ecg, rate and leads of a Record from an array and its description.

    Raises:
      RecordError: the array does not fit the description.
    """
    names, layout = signals.leads or (), signals.layout
    if layout not in LAYOUTS:
        raise RecordError(f"{where}: layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number):
        raise RecordError(
            f"{where}: shape {array.shape}, {array.dtype}; expected numbers, "
            "samples x leads"
        )
    axis = layout.index("C")
    if array.shape[axis] != len(names):
        other = "CT" if layout == "TC" else "TC"
        turned = array.shape[1 - axis] == len(names)
        hint = f"; it would fit layout {other}" if turned else ""
        raise RecordError(
            f"{where}: shape {array.shape} in layout {layout} has {array.shape[axis]} "
            f"leads, but {len(names)} are named{hint}"
        )
    try:
        columns = lead_columns(names)
        factor = millivolts_per_unit(signals.unit or "")
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from error
    if not columns:
        raise RecordError(f"{where}: none of {list(names)} is a standard lead")
    ecg = array if layout == "TC" else array.T
    ecg = ecg[:, list(columns.values())].astype(np.float64) * factor
    return {
        "ecg": ecg.astype(np.float32),
        "rate": float(signals.rate or 0),
        "leads": tuple(columns),
    }
