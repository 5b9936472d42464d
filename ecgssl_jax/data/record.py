"""One recording as a reader hands it over."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


class RecordError(Exception):
    """A recording that cannot be used; the message says what was found and where."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One recording, at its own rate and in its own order of leads.

    Attributes:
      id: unique name within its source, such as a path without its suffix.
      ecg: [T, C] float32, millivolts; NaN where a sample is missing.
      rate: sampling rate, Hz.
      leads: C standard lead names (`ecgssl_jax.leads.LEADS`).
      patient: the source's identifier of the patient; stored only as a hash.
        Empty where unknown: the record then counts as a patient of its own.
      fold: number of the fold, -1 where there is none.
      labels: label name -> 1.0 or 0.0; labels of the source that are absent
        here are unknown for this record.
      text: report or diagnoses, empty where there is none.
      attributes: further columns of the source, JSON-serialisable.
      remarks: finding -> detail, of what the reader met and kept; for the quality
        report.
    """

    id: str
    ecg: np.ndarray
    rate: float
    leads: tuple[str, ...]
    patient: str = ""
    fold: int = -1
    labels: Mapping[str, float] = dataclasses.field(default_factory=dict)
    text: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)
