"""From one record of a source to the windows of a prepared set."""

import dataclasses
import hashlib

import numpy as np

from ecgssl_jax.data.findings import KEEP, REJECT, REPAIR, Finding, Thresholds
from ecgssl_jax.data.quality import assess, check_end
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.resample import resample
from ecgssl_jax.data.stretches import gap_lengths, interpolate, present_length
from ecgssl_jax.leads import LEADS

# Of `Window.digest`: enough that no two windows share one by chance.
DIGEST_BYTES = 16


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
    inside it, but judged at its own rate, where its faults are. Every window either
    is returned or has exactly one REJECT among the findings.
    """
    _check_record(record)
    if not np.isfinite(record.ecg).all():
        present = np.where(np.isfinite(record.ecg), record.ecg, np.nan)
        record = dataclasses.replace(record, ecg=present)
    findings = check_end(record)
    findings += [
        Finding(record=record.id, finding=name, decision=KEEP, detail=detail)
        for name, detail in record.remarks.items()
    ]
    record = dataclasses.replace(record, ecg=record.ecg[: present_length(record.ecg)])
    # Found in the whole record: a gap across the edge of two windows is one gap.
    gaps = gap_lengths(np.isnan(record.ecg))
    ecg = arrange_leads(dataclasses.replace(record, ecg=interpolate(record.ecg)))
    ecg = resample(ecg, record.rate, form.rate)
    windows = []
    for offset in range(0, max(len(ecg), 1), form.length):
        start = round(offset * record.rate / form.rate)
        stop = round((offset + form.length) * record.rate / form.rate)
        original = dataclasses.replace(record, ecg=record.ecg[start:stop])
        seconds = form.length / form.rate
        verdict = assess(original, gaps[start:stop], seconds, thresholds)
        found = list(verdict.findings)
        if not verdict.rejected:
            lead_valid = np.array([lead in verdict.leads for lead in LEADS])
            piece = ecg[offset : offset + form.length] * lead_valid
            piece, removed = _remove_offsets(piece, record.id, thresholds)
            found += removed
            try:
                windows.append(_make_window(piece, lead_valid, offset, form))
            except RecordError as error:
                found.append(
                    Finding(
                        record=record.id,
                        finding="beyond int16",
                        decision=REJECT,
                        detail=str(error),
                    )
                )
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


def _remove_offsets(
    ecg: np.ndarray, id: str, thresholds: Thresholds
) -> tuple[np.ndarray, list[Finding]]:
    """Subtracts medians beyond `thresholds.offset`: they are the electrodes'."""
    # Without a single sample beyond it, which is the rule, no median is either.
    if np.abs(ecg).max(initial=0) <= thresholds.offset:
        return ecg, []
    medians = np.median(ecg, axis=0)
    large = np.abs(medians) > thresholds.offset
    if not large.any():
        return ecg, []
    sizes = [f"{x:.1f} mV in {LEADS[i]}" for i, x in enumerate(medians) if large[i]]
    finding = Finding(
        record=id,
        finding="offset",
        decision=REPAIR,
        detail=f"{', '.join(sizes)}: subtracted",
    )
    return ecg - np.where(large, medians, 0), [finding]


def _make_window(
    ecg: np.ndarray, lead_valid: np.ndarray, offset: int, form: Format
) -> Window:
    length = len(ecg)
    stored = np.zeros((form.length, len(LEADS)), np.int16)
    stored[:length] = quantise(ecg, form.scale)
    digest = hashlib.blake2b(stored.tobytes(), digest_size=DIGEST_BYTES)
    digest.update(lead_valid.tobytes() + length.to_bytes(4, "little"))
    return Window(
        ecg=stored,
        lead_valid=lead_valid,
        length=length,
        offset=offset,
        digest=digest.digest(),
    )
