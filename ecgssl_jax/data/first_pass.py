"""The first pass: records read, checked and converted, their signals on disk.

Only when all are read is it known which windows are kept, where they stand, and which
are duplicates of others.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ecgssl_jax.data import index
from ecgssl_jax.data.convert import DIGEST_BYTES, Format, convert
from ecgssl_jax.data.findings import REJECT, Finding, Thresholds, write_quality
from ecgssl_jax.data.readers.source import Source, SourceError, Task
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.data.workers import run_tasks


@dataclasses.dataclass(kw_only=True)
class Part:
    """What the first pass returns for one task: its windows, less their signals.

    Attributes:
      scratch: the file that has the signals.
      columns: `index.stack_rows` of the windows.
      digests: of the windows, one after the other.
      findings: in all recordings.
      num_read: recordings.
      num_empty: recordings that yielded no window.
    """

    scratch: Path
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    digests: bytes = b""
    findings: list[Finding] = dataclasses.field(default_factory=list)
    num_read: int = 0
    num_empty: int = 0


def read_parts(
    source: Source, form: Format, thresholds: Thresholds, folder: Path, workers: int
) -> list[Part]:
    """All recordings of the source; scratch files of their windows are in `folder`."""
    arguments = (
        (task, form, thresholds, source.labels, folder / f"scratch-{number:06d}")
        for number, task in enumerate(source.tasks)
    )
    parts = []
    with tqdm(total=source.num_records, unit="record", desc="reading") as bar:
        for part in run_tasks(_convert_task, arguments, workers=workers):
            parts.append(part)
            bar.update(part.num_read)
    return parts


def _convert_task(
    task: Task,
    form: Format,
    thresholds: Thresholds,
    labels: Sequence[str],
    scratch: Path,
) -> Part:
    part, rows, digests = Part(scratch=scratch), [], []
    with scratch.open("wb") as file:
        for id, reading in task():
            part.num_read += 1
            try:
                if isinstance(reading, RecordError):
                    raise reading
                windows, findings = convert(reading, form, thresholds)
                rows += [index.make_row(reading, window, labels) for window in windows]
            except RecordError as error:
                windows = []
                findings = [
                    Finding(
                        record=id,
                        finding="unreadable",
                        decision=REJECT,
                        detail=str(error),
                    )
                ]
            part.findings += findings
            part.num_empty += not windows
            for window in windows:
                file.write(window.ecg.astype("<i2").tobytes())
                digests.append(window.digest)
    part.columns, part.digests = index.stack_rows(rows), b"".join(digests)
    return part


def drop_duplicates(parts: Sequence[Part]) -> list[np.ndarray]:
    """The rows of each part that are kept, [n] int64; reports the others.

    Of windows of the same content the first one is kept.
    """
    digests = b"".join(part.digests for part in parts)
    digests = np.frombuffer(digests, f"V{DIGEST_BYTES}")
    _, firsts, which = np.unique(digests, return_index=True, return_inverse=True)
    originals = firsts[which]
    is_kept = originals == np.arange(len(digests))
    counts = [len(part.digests) // DIGEST_BYTES for part in parts]
    starts = np.cumsum([0, *counts])
    for row in np.flatnonzero(~is_kept).tolist():
        part, name, offset = _window(parts, starts, row)
        _, first, first_offset = _window(parts, starts, int(originals[row]))
        if first_offset:
            first = f"{first} at offset {first_offset}"
        part.findings.append(
            Finding(
                record=name,
                offset=offset,
                finding="duplicate",
                decision=REJECT,
                detail=f"same samples as {first}",
            )
        )
    return [np.flatnonzero(mask) for mask in np.split(is_kept, starts[1:-1])]


def _window(
    parts: Sequence[Part], starts: np.ndarray, row: int
) -> tuple[Part, str, int]:
    """Part, record and offset of the window `row` of all."""
    number = int(np.searchsorted(starts, row, side="right")) - 1
    columns, place = parts[number].columns, row - starts[number]
    name, offset = str(columns["record_id"][place]), int(columns["offset"][place])
    return parts[number], name, offset


def check_rejections(
    parts: Sequence[Part],
    num_kept: int,
    *,
    seconds: float,
    max_rejected: float,
    beside: Path,
    report: Callable[[str], None],
) -> list[Finding]:
    """Prints the summary.

    Args:
      num_kept: windows that are kept.
      seconds: their length.
      max_rejected: largest share that may be rejected.
      beside: the file that gets the findings if more are.

    Returns:
      The findings of all parts.

    Raises:
      SourceError: too little is left.
    """
    findings = [finding for part in parts for finding in part.findings]
    # Every window that was left out has one of these, and so has a recording that
    # gave none. What is left over at the end of a long recording does not count.
    rejections = [
        each
        for each in findings
        if each.decision == REJECT and each.finding != "remainder"
    ]
    num_rejected = len(rejections)
    num_read = sum(part.num_read for part in parts)
    num_empty = sum(part.num_empty for part in parts)
    windows = f"{num_kept} windows of {seconds:g} s kept"
    lines = [f"{num_read} records read; {windows}, {num_rejected} rejected"]
    counts = Counter((each.decision, each.finding) for each in findings)
    for (decision, finding), count in sorted(counts.items()):
        lines.append(f"  {decision:6}  {count:6d}  {finding}")
    report("\n".join(lines))
    if not num_read:
        raise SourceError("the source holds no records")
    total = num_kept + num_rejected
    if not num_kept or num_rejected > max_rejected * total:
        problem = f"{num_rejected} of {total} windows rejected"
    elif num_empty > max_rejected * num_read:
        problem = f"{num_empty} of {num_read} recordings gave no window"
    else:
        return findings
    write_quality(beside, findings)
    first = rejections[0]
    raise SourceError(
        f"{problem}, more than the share of {max_rejected:g} that "
        f"--max-rejected allows. The first: {first.record}: {first.finding}: "
        f"{first.detail}. All findings are in {beside}"
    )
