"""A table (CSV or Parquet) whose rows point at files, one record each.

Columns:

    path      the file, relative to the table's folder; the only one needed. A
              .npy file, or a WFDB record: its .hea, or its name without suffix
    id        name of the record; else the path
    labels    names of the labels that hold, separated by ";" (or a list, in
              Parquet). "none" says that none holds; an empty cell, that nothing
              is known
    label_X   or one column for each label: 1, 0, or empty for unknown
    text      report or diagnoses
    patient   identifier of the patient, stored as a hash
    fold      number of the fold
    rate, unit, leads, layout
              of a .npy file, where they differ from record to record; else they
              come as arguments. Leads are separated by commas, semicolons or
              spaces, "-" for a column to leave out. A WFDB record has its own

All others are kept as attributes, as they are.
"""

import dataclasses
import difflib
import functools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ecgssl_jax.data.readers.signals import (
    Signals,
    check_signals,
    load_npy,
    read_array,
    split_leads,
)
from ecgssl_jax.data.readers.source import (
    Reading,
    Source,
    SourceError,
    Task,
    in_parts,
)
from ecgssl_jax.data.readers.table import BEYOND, is_empty, read_columns, read_rows
from ecgssl_jax.data.readers.wfdb_records import read_header, read_wfdb
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.workers import run_tasks

# The columns, with other names for them, which are taken for mistakes: as an
# attribute, an identifier would be stored in clear.
_OWN: dict[str, tuple[str, ...]] = {
    "path": ("paths", "file", "filename", "file_name", "filepath", "file_path"),
    "id": ("record", "record_id", "recordid", "ecg_id"),
    "labels": ("label",),
    "text": ("texts", "report", "reports"),
    "patient": ("patients", "patient_id", "patientid", "subject", "subject_id", "mrn"),
    "fold": ("folds", "strat_fold"),
    "rate": ("sampling_rate", "sample_rate", "fs"),
    "unit": ("units",),
    "leads": ("lead", "lead_names"),
    "layout": (),
}
_BY_OTHER_NAME = {name: own for own, names in _OWN.items() for name in (own, *names)}
_LABEL = "label_"
# What arrays do not say themselves, and the flags that do.
_NEEDED = {"rate": "source-rate", "unit": "unit", "leads": "leads"}
# Read at a time by one process: a second or two of work, as starting it is.
_HEADERS = 8192


def manifest_source(
    path: str | Path, signals: Signals, *, find_rates: bool = True, workers: int = 1
) -> Source:
    """The records that a table lists; `signals` where its columns do not say.

    The table is read anew for each pass over it, and never held in memory.

    Args:
      path: the table.
      signals: what the flags say.
      find_rates: whether all sampling rates are wanted, for which the header of each
        WFDB record is read.
      workers: processes that read headers, where they are many.

    Raises:
      SourceError: not a table, no column `path`, a column named almost as one of
        ours, or rate, unit or leads unknown or neither in a column nor given.
    """
    path = Path(path)
    check_signals(signals)
    columns = read_columns(path)
    _check_columns(path, columns)
    facts = _survey(path, columns)
    if not facts.num_rows:
        raise SourceError(f"{path} has no rows")
    missing = [
        (name, flag)
        for name, flag in _NEEDED.items()
        if name not in columns and getattr(signals, name) is None
    ]
    rates, array = [], None
    if find_rates or missing:
        rates, array = _scan(path, signals, facts.num_rows, find_rates, workers)
    if array and missing:
        name, flag = missing[0]
        raise SourceError(
            f"{path} has no column {name!r}, and {array} is no WFDB record, whose "
            f"header says it; add the column or pass --{flag}"
        )
    if facts.repeated:
        raise SourceError(
            f"{path}: column 'id' repeats {', '.join(facts.repeated[:5])}"
        )
    labels = _label_names(path, columns, facts.labels)
    return Source(
        description=f"records listed in {path.name}, {facts.num_rows} records",
        tasks=_Tasks(path=path, signals=signals, labels=labels),
        num_records=facts.num_rows,
        rates=tuple(rates),
        labels=labels,
        notes=_notes(columns),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tasks:
    """The tasks of a table, made row by row as they are taken."""

    path: Path
    signals: Signals
    labels: tuple[str, ...]

    def __iter__(self) -> Iterator[Task]:
        for rows in in_parts(read_rows(self.path)):
            yield functools.partial(
                _read_rows, self.path.parent, self.signals, self.labels, rows
            )


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raises SourceError for columns that repeat, or that miss a name of ours."""
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise SourceError(f"{path} has more than one column {repeated[0]!r}")
    for name in columns:
        folded = name.strip().lower().replace(" ", "_").replace("-", "_")
        near = _BY_OTHER_NAME.get(folded) or _misspelt(folded)
        if folded.startswith(_LABEL) and not name.startswith(_LABEL):
            near = f"{_LABEL}X"
        # Beside our column, another name is an attribute; not for the patient.
        taken = near in columns and folded != near and near != "patient"
        if near and name != near and not taken:
            raise SourceError(
                f"{path}: column {name!r} would be kept as an attribute, as it is. "
                f"If it is {near!r}, name it so; if not, name it otherwise or "
                "leave it out"
            )
    if "path" not in columns:
        found = f"{path} has no column 'path'; found {', '.join(columns)}"
        if len(columns) == 1 and re.search(r"[;\t]", columns[0]):
            found += "; its cells must be separated by commas"
        raise SourceError(found)


def _misspelt(column: str) -> str | None:
    """Our column that this name is a slip of the pen from, if any: 'pateint'."""
    close = difflib.get_close_matches(column, list(_OWN), n=1, cutoff=0.83)
    return close[0] if close else None


def _notes(columns: Sequence[str]) -> tuple[str, ...]:
    """What a table says by its columns, to be read before anything is prepared."""
    notes = []
    if "patient" not in columns:
        notes.append("no column 'patient': each record counts as a patient of its own")
    if "fold" not in columns:
        notes.append("no column 'fold': evaluation, which needs folds, is not possible")
    kept = [name for name in columns if _is_attribute(name)]
    if kept:
        notes.append(f"columns kept as attributes, as they are: {', '.join(kept)}")
    return tuple(notes)


def _is_attribute(column: str) -> bool:
    return column not in _OWN and not column.startswith(_LABEL)


@dataclasses.dataclass(kw_only=True)
class _Facts:
    """What the table says as a whole.

    Attributes:
      num_rows: how many records it lists.
      repeated: identifiers that more than one row has, in their order.
      labels: names that the column `labels` holds.
    """

    num_rows: int = 0
    repeated: list[str] = dataclasses.field(default_factory=list)
    labels: set[str] = dataclasses.field(default_factory=set)


def _survey(path: Path, columns: Sequence[str]) -> _Facts:
    facts, ids = _Facts(), Counter()
    for row in read_rows(path):
        facts.num_rows += 1
        if row.get("id", "") != "":
            ids[_text(row["id"])] += 1
        if "labels" in columns:
            facts.labels |= _listed(row["labels"])
    facts.repeated = [id for id, count in ids.items() if count > 1]
    return facts


def _scan(
    path: Path, signals: Signals, num_rows: int, find_rates: bool, workers: int
) -> tuple[list[float], str | None]:
    """All sampling rates, if wanted, and the first path of an array, if any."""
    rows = (
        {name: row[name] for name in ("path", "rate") if name in row}
        for row in read_rows(path)
    )
    arguments = (
        (path.parent, signals, part, find_rates) for part in in_parts(rows, _HEADERS)
    )
    rates, first_array = set(), None
    with tqdm(total=num_rows, unit="record", desc="headers", delay=2) as bar:
        for count, found, array in run_tasks(_scan_rows, arguments, workers=workers):
            bar.update(count)
            rates |= found
            first_array = first_array or array
            if first_array and not find_rates:
                break
    return sorted(rate for rate in rates if 0 < rate < math.inf), first_array


def _scan_rows(
    root: Path, signals: Signals, rows: Sequence[Mapping], find_rates: bool
) -> tuple[int, set[float], str | None]:
    """`_scan` of some rows, and how many they are."""
    rates, first_array = set(), None
    for row in rows:
        path = str(row["path"])
        record = _wfdb_record(root / path)
        if record is None:
            first_array = first_array or path
        if not find_rates:
            continue
        try:
            if record is None:
                rates.add(_own_signals(row, signals, path).rate or math.nan)
            else:
                rates.add(read_header(Path(f"{record}.hea")).rate)
        except RecordError:
            pass  # reported when the record is read
    return len(rows), rates, first_array


def _wfdb_record(path: Path) -> Path | None:
    """The WFDB record that a path names, without suffix; None for an array."""
    if path.suffix == ".hea":
        return path.with_suffix("")
    named = path.suffix != ".npy" and os.path.exists(f"{path}.hea")
    return path if named else None


def _label_names(
    path: Path, columns: Sequence[str], listed: set[str]
) -> tuple[str, ...]:
    own = [name for name in columns if name.startswith(_LABEL)]
    if own and "labels" in columns:
        raise SourceError(f"{path} has a column 'labels' and columns {own}; keep one")
    if own:
        return tuple(name.removeprefix(_LABEL) for name in own)
    return tuple(sorted(name for name in listed if name.lower() != "none"))


def _listed(cell: Any) -> set[str]:
    """The names in a cell of the column `labels`, without line breaks and the like."""
    names = cell if isinstance(cell, list) else str(cell).split(";")
    return {" ".join(str(name).split()) for name in names if not is_empty(name)} - {""}


def _read_rows(
    root: Path, signals: Signals, labels: Sequence[str], rows: Sequence[Mapping]
) -> Iterator[Reading]:
    for row in rows:
        own = row.get("id", "")
        id = _text(row["path"] if own == "" else own) or "(no path)"
        try:
            yield id, _read_row(root, signals, labels, row, id)
        except RecordError as error:
            yield id, error


def _read_row(root, signals, labels, row, id) -> Record:
    if row["path"] == "":
        raise RecordError(f"the row of {id!r} has no path")
    path = root / str(row["path"])
    if BEYOND in row:
        raise RecordError(
            f"{path}: its row has more cells than the table has columns, from "
            f"{row[BEYOND][0]!r} on; a comma within a text needs quotes around it"
        )
    own = _own_signals(row, signals, path)
    facts: dict[str, Any] = {
        "id": id,
        "patient": _text(row.get("patient", "")),
        "fold": _fold(row, path),
        "labels": _read_labels(row, labels, path),
        "text": str(row.get("text", "")),
        "attributes": {
            name: value
            for name, value in row.items()
            if _is_attribute(name) and value != ""
        },
    }
    wfdb_record = _wfdb_record(path)
    if wfdb_record is None:
        return Record(**facts, **read_array(load_npy(path), own, str(path)))
    record = read_wfdb(wfdb_record, **facts)
    if row.get("rate", "") != "" and own.rate != record.rate:
        raise RecordError(
            f"{path}: column rate holds {row['rate']!r}, the header {record.rate:g}"
        )
    return record


def _own_signals(row, signals, path) -> Signals:
    """`signals`, and what the cells of a row say instead."""
    own: dict[str, Any] = {
        name: str(row[name]) for name in ("unit", "layout") if row.get(name, "") != ""
    }
    leads = row.get("leads", "")
    if leads != "":
        listed = isinstance(leads, list)
        own["leads"] = tuple(map(str, leads)) if listed else split_leads(str(leads))
    if row.get("rate", "") != "":
        own["rate"] = _number(row, "rate", path)
    return dataclasses.replace(signals, **own)


def _number(row, column, path) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path}: column {column} holds {row[column]!r}") from error


def _fold(row, path) -> int:
    if row.get("fold", "") == "":
        return -1
    fold = _number(row, "fold", path)
    if not fold.is_integer() or abs(fold) >= 2**31:
        raise RecordError(f"{path}: column fold holds {row['fold']!r}")
    return int(fold)


def _text(value: Any) -> str:
    # A column of integers with gaps arrives as floats: 17.0 is patient 17.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _read_labels(row, labels, path) -> dict[str, float]:
    if "labels" in row:
        names = _listed(row["labels"])
        listed = {name for name in names if name.lower() != "none"}
        if listed and listed != names:
            raise RecordError(
                f"{path}: column labels holds {row['labels']!r}: none, or some?"
            )
        # An empty cell is an unlabelled record, not one without any condition.
        return {x: float(x in listed) for x in labels} if names else {}
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
