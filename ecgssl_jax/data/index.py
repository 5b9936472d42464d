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
        "signal_hash": window.digest.hex(),
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
    numbers: dict[str, int] = {}
    pairs = zip(columns["patient"], columns["record_id"], strict=True)
    identities = (
        f"patient:{patient}" if patient else f"record:{record_id}"
        for patient, record_id in pairs
    )
    places = (numbers.setdefault(each, len(numbers)) for each in identities)
    columns["patient"] = np.fromiter(places, np.int32)
    prefix = f"{name}\0{salt}\0"
    hashes = [
        hashlib.sha256(f"{prefix}{identity}".encode()).hexdigest()[:16]
        for identity in numbers
    ]
    columns["patient_hash"] = np.array(hashes, object)[columns["patient"]]


def check_folds(columns: Mapping[str, np.ndarray]) -> None:
    """Raises SourceError if a patient is in two folds; unknown ones (-1) are none."""
    (known,) = np.nonzero(columns["fold"] >= 0)
    patients, firsts, which = np.unique(
        columns["patient"][known], return_index=True, return_inverse=True
    )
    # Of each record with a fold, the first such record of its patient.
    first = known[firsts][which]
    (split,) = np.nonzero(columns["fold"][known] != columns["fold"][first])
    if len(split) == 0:
        return
    one, other = (
        f"record {columns['record_id'][row]} (fold {columns['fold'][row]})"
        for row in (first[split[0]], known[split[0]])
    )
    raise SourceError(
        f"{len(np.unique(which[split]))} of {len(patients)} patients are in more than "
        f"one fold, such as the patient of {one} and {other}. A probe would be judged "
        "on patients that it was fitted on: split the folds by patient, or leave them "
        "out"
    )
