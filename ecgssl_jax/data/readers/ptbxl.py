"""PTB-XL in PhysioNet's layout, at 100 or 500 Hz.

Wagner et al., "PTB-XL, a large publicly available electrocardiography dataset",
Scientific Data 7:154, 2020.
"""

import ast
import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.data.readers.source import Reading, Source, SourceError, split
from ecgssl_jax.data.readers.wfdb_records import read_wfdb
from ecgssl_jax.data.record import RecordError

DATABASE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
FILENAME_COLUMNS = {100: "filename_lr", 500: "filename_hr"}
_NEEDED = ("ecg_id", "patient_id", "scp_codes", "strat_fold")
_STATEMENT_COLUMNS = (
    "description",
    "diagnostic",
    "form",
    "rhythm",
    "diagnostic_class",
    "diagnostic_subclass",
)
# Held in fields of their own, or, as for the patient, only as a hash.
_NOT_ATTRIBUTES = {
    "ecg_id",
    "patient_id",
    "report",
    "scp_codes",
    "strat_fold",
    *FILENAME_COLUMNS.values(),
}


def ptbxl_source(root: str | Path, *, rate: float = 100) -> Source:
    """All records of PTB-XL below `root`.

    Labels are the 71 SCP-ECG statements in alphabetical order: 1 where a
    statement is listed for the record, whatever its likelihood, which is kept
    in the attribute `scp_codes`.

    Raises:
      SourceError: a table is missing or malformed, or PTB-XL has no such rate.
    """
    root = Path(root)
    if rate not in FILENAME_COLUMNS:
        raise SourceError(
            f"PTB-XL is published at 100 and 500 Hz, not {rate:g}; read one of "
            "these and resample it to the rate wanted"
        )
    label_table = read_statements(root / STATEMENTS)
    labels = tuple(label_table)
    filename_column = FILENAME_COLUMNS[int(rate)]
    rows = _read_table(root / DATABASE, (*_NEEDED, filename_column))
    return Source(
        description=f"PTB-XL, {rate:g} Hz, {len(rows)} records",
        tasks=[
            functools.partial(_read_rows, root, filename_column, labels, part)
            for part in split(rows)
        ],
        num_records=len(rows),
        rates=(float(rate),),
        labels=labels,
        label_table=label_table,
    )


def read_statements(path: Path) -> dict[str, dict[str, Any]]:
    """The table of SCP-ECG statements, by statement, in alphabetical order."""
    table = {}
    for row in _read_table(path, _STATEMENT_COLUMNS):
        name = row[next(iter(row))]
        facts: dict[str, Any] = {}
        for column in _STATEMENT_COLUMNS:
            value = row[column] or ""
            is_flag = column in ("diagnostic", "form", "rhythm")
            facts[column] = value == "1.0" if is_flag else value
        table[name] = facts
    return dict(sorted(table.items()))


def _read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table. Raises SourceError if it lacks columns, or rows."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except FileNotFoundError:
        raise SourceError(
            f"{path} is missing; --source must name the folder that holds "
            f"{DATABASE}, {STATEMENTS} and records100 or records500 "
            "(or pass --download)"
        ) from None
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as a table: {error}") from error
    missing = [name for name in needed if name not in columns]
    if missing:
        raise SourceError(f"{path} has no column {', '.join(missing)}")
    if not rows:
        raise SourceError(f"{path} has no rows")
    return rows


def _read_rows(
    root: Path,
    filename_column: str,
    labels: Sequence[str],
    rows: Sequence[Mapping[str, str]],
) -> Iterator[Reading]:
    for row in rows:
        try:
            yield row["ecg_id"], _read_row(root, filename_column, labels, row)
        except RecordError as error:
            yield row["ecg_id"], error


def _read_row(root, filename_column, labels, row):
    if None in row:
        raise RecordError(
            f"{DATABASE}, ecg_id {row['ecg_id']}: more cells than columns"
        )
    try:
        codes = ast.literal_eval(row["scp_codes"])
        fold = int(float(row["strat_fold"]))
        patient = str(int(float(row["patient_id"])))
        if not isinstance(codes, dict) or not row[filename_column]:
            raise ValueError("scp_codes is no dictionary, or there is no file name")
    except (ValueError, SyntaxError, TypeError, OverflowError) as error:
        raise RecordError(
            f"{DATABASE}, ecg_id {row['ecg_id']}: unreadable row ({error})"
        ) from error
    unknown = [name for name in codes if name not in labels]
    if unknown:
        raise RecordError(
            f"{DATABASE}, ecg_id {row['ecg_id']}: statements {unknown} are not in "
            f"{STATEMENTS}"
        )
    attributes = {
        name: _number(value)
        for name, value in row.items()
        if name and name not in _NOT_ATTRIBUTES and value and value.strip()
    }
    return read_wfdb(
        root / row[filename_column],
        id=row["ecg_id"],
        patient=patient,
        fold=fold,
        labels={name: float(name in codes) for name in labels},
        text=row.get("report") or "",
        attributes={**attributes, "scp_codes": codes},
    )


def _number(value: str) -> float | int | bool | str:
    if value in ("True", "False"):
        return value == "True"
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number
