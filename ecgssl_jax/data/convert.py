"""From one record of a source to the windows of a prepared set."""

import dataclasses
import hashlib

import numpy as np

from ecgssl_jax.data.quality import (
    REJECT,
    Finding,
    Thresholds,
    assess,
    interpolate,
)
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.resample import resample
from ecgssl_jax.leads import LEADS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How signals are stored.

    Attributes:
      rate: sampling rate, Hz.
      length: T, samples of a window.
      scale: millivolts of one int16 step.
    """

    rate: float
    length: int
    scale: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """A piece of a record as it will be stored.

    Attributes:
      ecg: [T, C] int16, in steps of the format's scale; zero where invalid.
      lead_valid: [C] bool.
      length: valid samples.
      offset: where it starts in its record, in samples of the prepared rate.
      digest: of all of the above but the offset; equal for equal content.
    """

    ecg: np.ndarray
    lead_valid: np.ndarray
    length: int
    offset: int
    digest: bytes


def arrange_leads(record: Record) -> np.ndarray:
    """[T, 12] float32: the record's leads in the order of LEADS, others zero."""
    ecg = np.zeros((record.ecg.shape[0], len(LEADS)), np.float32)
    for column, lead in enumerate(record.leads):
        ecg[:, LEADS.index(lead)] = record.ecg[:, column]
    return ecg


def quantise(ecg: np.ndarray, scale: float) -> np.ndarray:
    """Millivolts as int16 steps. Raises RecordError rather than clip."""
    steps = np.rint(ecg / np.float64(scale))
    limit = np.iinfo(np.int16).max
    if steps.size and np.abs(steps).max() > limit:
        raise RecordError(
            f"{np.abs(ecg).max():.1f} mV does not fit into int16 steps of {scale:g} "
            f"mV (at most {limit * scale:.1f} mV); check the unit, or pass a larger "
            "--scale"
        )
    return steps.astype(np.int16)


def convert(
    record: Record, form: Format, thresholds: Thresholds
) -> tuple[list[Window], list[Finding]]:
    """All usable windows of a record, and everything found in it.

    The record is resampled as a whole, so that windows have no filter's edges
    inside it, but judged at its own rate, where its faults are.
    """
    _check_record(record)
    if not np.isfinite(record.ecg).all():
        present = np.where(np.isfinite(record.ecg), record.ecg, np.nan)
        record = dataclasses.replace(record, ecg=present)
    ecg = arrange_leads(dataclasses.replace(record, ecg=interpolate(record.ecg)))
    ecg = resample(ecg, record.rate, form.rate)
    windows, findings = [], []
    for offset in range(0, max(len(ecg), 1), form.length):
        piece = ecg[offset : offset + form.length]
        window, found = _convert_window(record, piece, offset, form, thresholds)
        if window is not None:
            windows.append(window)
        for each in found:
            # The end of a long recording is no fault of it.
            name = "remainder" if offset and each.finding == "too short" else None
            findings.append(
                dataclasses.replace(each, offset=offset, finding=name or each.finding)
            )
    return windows, findings


def _check_record(record: Record) -> None:
    shape = record.ecg.shape
    if len(shape) != 2 or shape[1] != len(record.leads):
        raise RecordError(
            f"{record.id}: signal of shape {shape}, expected samples x "
            f"{len(record.leads)} leads"
        )
    unknown = sorted(set(record.leads) - set(LEADS))
    if unknown or len(set(record.leads)) != len(record.leads) or not record.leads:
        raise RecordError(f"{record.id}: leads {record.leads} are not distinct leads")
    if not record.rate > 0:
        raise RecordError(f"{record.id}: sampling rate {record.rate} Hz")


def _convert_window(
    record: Record,
    piece: np.ndarray,
    offset: int,
    form: Format,
    thresholds: Thresholds,
) -> tuple[Window | None, list[Finding]]:
    start = round(offset * record.rate / form.rate)
    stop = round((offset + form.length) * record.rate / form.rate)
    original = dataclasses.replace(record, ecg=record.ecg[start:stop])
    verdict = assess(original, form.length / form.rate, thresholds)
    findings = list(verdict.findings)
    if verdict.rejected:
        return None, findings
    length = len(piece)
    if verdict.length < len(original.ecg):
        length = min(length, int(verdict.length * form.rate / record.rate))
    lead_valid = np.array([lead in verdict.leads for lead in LEADS])
    stored = np.zeros((form.length, len(LEADS)), np.int16)
    try:
        stored[:length] = quantise(piece[:length] * lead_valid, form.scale)
    except RecordError as error:
        findings.append(
            Finding(
                record=record.id,
                finding="beyond int16",
                decision=REJECT,
                detail=str(error),
            )
        )
        return None, findings
    digest = hashlib.blake2b(stored.tobytes(), digest_size=16)
    digest.update(lead_valid.tobytes() + length.to_bytes(4, "little"))
    window = Window(
        ecg=stored,
        lead_valid=lead_valid,
        length=length,
        offset=offset,
        digest=digest.digest(),
    )
    return window, findings
