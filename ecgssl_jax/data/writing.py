"""Writes a prepared set: all cores, every record accounted for, all or nothing.

Two passes. The first reads, checks and converts the records and puts their
signals into scratch files; only then is it known which records are kept, where
they stand and which are duplicates. The second turns scratch files into
array_record shards and deletes them one by one, so that little more than the
size of the set is ever needed. Both work in a hidden folder beside the output,
which one rename puts in its place.
"""

import csv
import dataclasses
import hashlib
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ecgssl_jax.data import index, prepared, shards, text
from ecgssl_jax.data.convert import Format, convert
from ecgssl_jax.data.publishing import building_folder
from ecgssl_jax.data.quality import REJECT, Finding, Thresholds
from ecgssl_jax.data.readers.source import Source, SourceError, Task
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.data.workers import run_tasks
from ecgssl_jax.leads import LEADS

_SHARD_BYTES = 64 * 2**20
# A reader keeps every shard open, and processes may often open 1,024 files only.
_MAX_SHARDS = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a set is prepared.

    Attributes:
      rate: sampling rate of the prepared set, Hz; None keeps the source's.
      seconds: length of a window.
      scale: millivolts of one int16 step. One microvolt is finer than the noise
        of any electrocardiograph and leaves room for +-32 mV.
      max_rejected: largest share that may be rejected, of the windows and of the
        recordings.
      thresholds: of the quality pass.
      salt: mixed into the patients' hashes. Without a secret one, whoever knows
        the identifiers of the source can recompute the hashes.
      vocabulary_size: pieces of the reports' sub-word vocabulary, at most.
      sort_phrases: whether reports count as equal whatever the order of their
        phrases.
    """

    rate: float | None = None
    seconds: float = 10.0
    scale: float = 0.001
    max_rejected: float = 0.05
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    salt: str = ""
    vocabulary_size: int = 2000
    sort_phrases: bool = False

    def __post_init__(self):
        rate_fits = self.rate is None or self.rate > 0
        if not (self.seconds > 0 and self.scale > 0 and rate_fits):
            raise ValueError(
                f"rate {self.rate}, seconds {self.seconds} and scale {self.scale} must "
                "be positive"
            )
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"max_rejected is a share, not {self.max_rejected}")
        if self.vocabulary_size < text.SMALLEST_VOCABULARY:
            raise ValueError(
                f"vocabulary_size must be at least {text.SMALLEST_VOCABULARY}, found "
                f"{self.vocabulary_size}"
            )


@dataclasses.dataclass(kw_only=True)
class _Part:
    """What the first pass returns for one task: its windows, less their signals.

    Attributes:
      scratch: the file that has the signals.
      columns: `index.stack_rows` of the windows.
      digests: of the windows.
      findings: in all recordings.
      num_read: recordings.
      num_empty: recordings that yielded no window.
    """

    scratch: Path
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    digests: list[bytes] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    num_read: int = 0
    num_empty: int = 0


def prepare_dataset(
    source: Source,
    output: str | Path,
    *,
    settings: Settings = Settings(),
    overwrite: bool = False,
    wait: bool = False,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> prepared.PreparedSet:
    """Prepares `source` as the set `output` (`<root>/<name>`) and opens it.

    Args:
      source: the recordings.
      output: folder of the set; its last part is the set's name.
      settings: how.
      overwrite: replace a set that is there.
      wait: while another process prepares it, wait rather than fail.
      workers: processes; 1 works in this one.
      report: receives the summary.

    Raises:
      FileExistsError: there is a set already, and `overwrite` is not given; or
        something else, which is never replaced.
      PrepareError: another process is preparing it, or a worker was killed.
      SourceError: no rate given where the source has several, a patient in two
        folds, no record left, or too many rejected. In the last case only
        `<output>.quality.csv` is written, which names every finding.
    """
    output = Path(output)
    beside = output.with_name(f"{output.name}.quality.csv")
    rate = _target_rate(source, settings)
    form = Format(
        rate=rate, length=round(settings.seconds * rate), scale=settings.scale
    )
    with building_folder(
        output, marker=prepared.MARKER, overwrite=overwrite, wait=wait
    ) as folder:
        parts = _first_pass(source, form, settings.thresholds, folder, workers)
        kept = _drop_duplicates(parts)
        findings = [finding for part in parts for finding in part.findings]
        _check_rejections(parts, kept, findings, beside, settings, report)
        columns = _columns(parts, kept)
        index.hash_patients(columns, output.name, settings.salt)
        index.check_folds(columns)
        version = folder / prepared.VERSION
        version.mkdir()
        written = _second_pass(
            parts, kept, columns, form, version, output.name, workers
        )
        entries = [each.entry for each in written]
        digest = hashlib.sha256(b"".join(each.digests for each in written))
        sums = np.sum([each.sums for each in written], axis=0)
        shards.write_index(version / prepared.INDEX, columns)
        write_quality(version / prepared.QUALITY, findings)
        texts = _write_vocabulary(version, columns["text"], settings, report)
        metadata = {
            "name": output.name,
            "source": source.description,
            "settings": dataclasses.asdict(settings) | {"salt": bool(settings.salt)},
            "package_version": _package_version(),
            **dataclasses.asdict(form),
            "unit": "mV",
            "leads": LEADS,
            "labels": source.labels,
            "label_table": source.label_table,
            "num_records": len(columns["length"]),
            "num_patients": int(columns["patient"].max()) + 1,
            "folds": _counts(columns["fold"]),
            "texts": texts,
            "statistics": _statistics(sums, form.scale),
            "findings": _counts(f"{x.decision}: {x.finding}" for x in findings),
            "shards": entries,
            "records_sha256": digest.hexdigest(),
        }
        prepared.write_metadata(version, metadata)
        shards.write_tfds_metadata(
            version,
            output.name,
            length=form.length,
            num_labels=len(source.labels),
            shards=entries,
            description=source.description,
        )
    # Left by an earlier attempt that was stopped.
    beside.unlink(missing_ok=True)
    return prepared.open_prepared(output)


def _target_rate(source: Source, settings: Settings) -> float:
    if settings.rate is not None:
        return float(settings.rate)
    if len(source.rates) != 1:
        found = ", ".join(f"{rate:g}" for rate in source.rates) or "none"
        raise SourceError(
            f"the records are sampled at {found} Hz; choose one rate for all with "
            "--rate"
        )
    return source.rates[0]


def _first_pass(
    source: Source, form: Format, thresholds: Thresholds, folder: Path, workers: int
) -> list[_Part]:
    arguments = [
        (task, form, thresholds, source.labels, folder / f"scratch-{number:06d}")
        for number, task in enumerate(source.tasks)
    ]
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
) -> _Part:
    part, rows = _Part(scratch=scratch), []
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
                part.digests.append(window.digest)
    part.columns = index.stack_rows(rows)
    return part


def _drop_duplicates(parts: Sequence[_Part]) -> list[np.ndarray]:
    """The rows of each part that are kept; reports the others."""
    first: dict[bytes, str] = {}
    kept = []
    for part in parts:
        rows = []
        for row, digest in enumerate(part.digests):
            name = part.columns["record_id"][row]
            offset = int(part.columns["offset"][row])
            if digest in first:
                part.findings.append(
                    Finding(
                        record=name,
                        offset=offset,
                        finding="duplicate",
                        decision=REJECT,
                        detail=f"same samples as {first[digest]}",
                    )
                )
            else:
                first[digest] = f"{name} at offset {offset}" if offset else name
                rows.append(row)
        kept.append(np.array(rows, np.int64))
    return kept


def _check_rejections(parts, kept, findings, beside, settings, report):
    """Prints the summary. Raises SourceError if too little is left."""
    # Every window that was left out has one of these, and so has a recording that
    # gave none. What is left over at the end of a long recording does not count.
    rejections = [
        each
        for each in findings
        if each.decision == REJECT and each.finding != "remainder"
    ]
    num_kept, num_rejected = sum(map(len, kept)), len(rejections)
    num_read = sum(part.num_read for part in parts)
    num_empty = sum(part.num_empty for part in parts)
    windows = f"{num_kept} windows of {settings.seconds:g} s kept"
    lines = [f"{num_read} records read; {windows}, {num_rejected} rejected"]
    counts = Counter((each.decision, each.finding) for each in findings)
    for (decision, finding), count in sorted(counts.items()):
        lines.append(f"  {decision:6}  {count:6d}  {finding}")
    report("\n".join(lines))
    if not num_read:
        raise SourceError("the source holds no records")
    total = num_kept + num_rejected
    if not num_kept or num_rejected > settings.max_rejected * total:
        problem = f"{num_rejected} of {total} windows rejected"
    elif num_empty > settings.max_rejected * num_read:
        problem = f"{num_empty} of {num_read} recordings gave no window"
    else:
        return
    write_quality(beside, findings)
    first = rejections[0]
    raise SourceError(
        f"{problem}, more than the share of {settings.max_rejected:g} that "
        f"--max-rejected allows. The first: {first.record}: {first.finding}: "
        f"{first.detail}. All findings are in {beside}"
    )


def _columns(parts, kept) -> dict[str, np.ndarray]:
    """The index of all kept windows, in order."""
    pairs = [pair for pair in zip(parts, kept, strict=True) if len(pair[1])]
    return {
        name: np.concatenate([part.columns[name][rows] for part, rows in pairs])
        for name in pairs[0][0].columns
    }


def _second_pass(
    parts, kept, columns, form, version, name, workers
) -> list[shards.Written]:
    record_bytes = 2 * form.length * len(LEADS)
    enough = max(_SHARD_BYTES, record_bytes * sum(map(len, kept)) // _MAX_SHARDS)
    groups: list[list[tuple[Path, np.ndarray]]] = []
    size = enough
    for part, rows in zip(parts, kept, strict=True):
        if len(rows) == 0:
            part.scratch.unlink()
            continue
        if size >= enough:
            groups.append([])
            size = 0
        groups[-1].append((part.scratch, rows))
        size += len(rows) * record_bytes
    arguments, start = [], 0
    for number, group in enumerate(groups):
        count = sum(len(rows) for _, rows in group)
        path = version / shards.shard_file(name, number, len(groups))
        piece = {key: values[start : start + count] for key, values in columns.items()}
        arguments.append((path, group, (form.length, len(LEADS)), piece, start))
        start += count
    written = []
    with tqdm(total=start, unit="record", desc="writing") as bar:
        for each in run_tasks(shards.write_shard, arguments, workers=workers):
            written.append(each)
            bar.update(each.entry["num_records"])
    return written


def _write_vocabulary(version, reports, settings, report) -> dict[str, Any]:
    """Trains and writes the vocabulary, if there is any text.

    Returns:
      `text.summarise` of the reports, and the vocabulary's size.
    """
    texts = text.canonical_texts(reports, sort_phrases=settings.sort_phrases)
    model = text.train_vocabulary(texts, settings.vocabulary_size)
    size = 0
    if model is not None:
        (version / prepared.VOCABULARY).write_bytes(model)
        size = text.Vocabulary(model=model).size
    summary = {**text.summarise(texts), "vocabulary_size": size}
    if size:
        report(
            f"{summary['num_texts']} of {len(texts)} records have a report, "
            f"{summary['num_distinct']} distinct; "
            f"{summary['share_repeated']:.1%} of the reports are repeated; vocabulary "
            f"of {size} pieces"
        )
    return summary


def _statistics(sums: np.ndarray, scale: float) -> dict[str, list[float]]:
    """Mean and standard deviation of each lead, millivolts, from `Written.sums`."""
    count, total, squares = sums.astype(np.float64)
    # A lead that no record has: mean 0 and deviation 1 leave its zeros alone.
    mean = total / np.maximum(count, 1)
    variance = squares / np.maximum(count, 1) - mean**2
    std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)) * scale, 1.0)
    return {"mean": (mean * scale).tolist(), "std": std.tolist()}


def write_quality(path: Path, findings: Sequence[Finding]) -> None:
    """Writes quality.csv: one line for each finding."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["record", "finding", "decision", "detail", "offset"])
        for x in findings:
            writer.writerow([x.record, x.finding, x.decision, x.detail, x.offset])


def _counts(values) -> dict[str, int]:
    return {str(key): count for key, count in sorted(Counter(values).items())}


def _package_version() -> str:
    try:
        return importlib.metadata.version("ecgssl_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
