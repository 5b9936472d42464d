"""The index of a prepared set: everything about its records but the signals."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgssl_jax.data.convert import Window
from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.record import Record, RecordError

# Other columns hold text.
_DTYPES = {
    "fold": np.int32,
    "length": np.int32,
    "offset": np.int32,
    "lead_valid": np.bool_,
    "labels": np.uint8,
    "labels_valid": np.uint8,
}


def make_row(record: Record, window: Window, labels: Sequence[str]) -> dict[str, Any]:
    """What the index says of a window, with the patient as the source names them.

    Raises:
      RecordError: a label that is neither 0 nor 1.
    """
    values = np.array([record.labels.get(name, np.nan) for name in labels])
    valid = ~np.isnan(values)
    if not np.isin(values[valid], (0, 1)).all():
        raise RecordError(f"{record.id}: labels must be 0 or 1, found {values[valid]}")
    attributes = dict(record.attributes)
    return {
        "record_id": record.id,
        "patient": record.patient,
        "fold": record.fold,
        "length": window.length,
        "offset": window.offset,
        "lead_valid": window.lead_valid,
        "labels": np.where(valid, values, 0),
        "labels_valid": valid,
        "text": record.text,
        "attributes": json.dumps(attributes, ensure_ascii=False, default=str),
    }


def stack_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Columns of N entries out of N rows; none out of none."""
    names = rows[0] if rows else ()
    return {
        name: np.array([row[name] for row in rows], _DTYPES.get(name, object))
        for name in names
    }


def hash_patients(columns: dict[str, np.ndarray], name: str, salt: str = "") -> None:
    """Puts hashes and numbers, from 0, in the place of the source's identifiers.

    A record whose patient is unknown counts as a patient of its own. Hashes are 16
    hexadecimal digits, equal for equal patients of sets of the same name and salt.
    """
    hashes = []
    pairs = zip(columns["patient"], columns["record_id"], strict=True)
    for patient, record_id in pairs:
        identity = f"patient:{patient}" if patient else f"record:{record_id}"
        text = f"{name}\0{salt}\0{identity}"
        hashes.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    numbers: dict[str, int] = {}
    for value in hashes:
        numbers.setdefault(value, len(numbers))
    columns["patient"] = np.array([numbers[value] for value in hashes], np.int32)
    columns["patient_hash"] = np.array(hashes, object)


def check_folds(columns: Mapping[str, np.ndarray]) -> None:
    """Raises SourceError if a patient is in two folds; unknown ones (-1) are none."""
    first: dict[int, int] = {}
    split: dict[int, tuple[int, int]] = {}
    for row, (patient, fold) in enumerate(
        zip(columns["patient"].tolist(), columns["fold"].tolist(), strict=True)
    ):
        if fold >= 0 and fold != columns["fold"][first.setdefault(patient, row)]:
            split.setdefault(patient, (first[patient], row))
    if not split:
        return
    one, other = (
        f"record {columns['record_id'][row]} (fold {columns['fold'][row]})"
        for row in next(iter(split.values()))
    )
    raise SourceError(
        f"{len(split)} of {len(first)} patients are in more than one fold, such as the "
        f"patient of {one} and {other}. A probe would be judged on patients that it "
        "was fitted on: split the folds by patient, or leave them out"
    )
