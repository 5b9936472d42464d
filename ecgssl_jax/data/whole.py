"""Whole recordings, prepared as those of a set, for programs that keep none."""

import math
from collections.abc import Iterator, Sequence

from ecgssl_jax.data.convert import Format, Window, convert
from ecgssl_jax.data.findings import REJECT, Finding, Thresholds
from ecgssl_jax.data.readers.source import Source, Task
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.stretches import present_length
from ecgssl_jax.data.workers import run_tasks


def whole_window(record: Record, *, rate: float, at_least: int, scale: float) -> Window:
    """The whole recording as one window, with room for `at_least` samples.

    Args:
      rate: of the window, Hz.
      scale: millivolts of one int16 step.

    Raises:
      RecordError: it cannot be used; why, and which of its leads could not be.
    """
    # One sample more than there can be: what remains would be another window.
    samples = math.ceil(present_length(record.ecg) * rate / record.rate) + 1
    form = Format(rate=rate, length=max(samples, at_least), scale=scale)
    windows, findings = convert(record, form, Thresholds())
    if not windows:
        raise RecordError(f"{record.id}: {_reason(findings)}")
    return windows[0]


def read_whole(
    source: Source, *, rate: float, at_least: int, scale: float, workers: int
) -> Iterator[tuple[str, Window | RecordError]]:
    """All recordings of a source, in order, read and prepared by worker processes."""
    arguments = ((task, rate, at_least, scale) for task in source.tasks)
    for part in run_tasks(_read, arguments, workers=workers):
        yield from part


def _read(
    task: Task, rate: float, at_least: int, scale: float
) -> list[tuple[str, Window | RecordError]]:
    found = []
    for name, record in task():
        if isinstance(record, Record):
            try:
                record = whole_window(record, rate=rate, at_least=at_least, scale=scale)
            except RecordError as error:
                record = error
        found.append((name, record))
    return found


def _reason(findings: Sequence[Finding]) -> str:
    """Why a recording was rejected, and which of its leads could not be used."""
    (last,) = (each for each in findings if each.decision == REJECT)
    unusable: dict[str, list[str]] = {}
    for each in findings:
        unusable.setdefault(each.finding, []).extend(each.leads)
    leads = [
        f"; {what}: {', '.join(found)}" for what, found in unusable.items() if found
    ]
    return f"{last.finding}: {last.detail}{''.join(leads)}"
