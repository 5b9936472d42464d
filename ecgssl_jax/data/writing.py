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
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ecgssl_jax.data import prepared, shards
from ecgssl_jax.data.convert import Format, Window, convert
from ecgssl_jax.data.publishing import building_folder
from ecgssl_jax.data.quality import REJECT, Finding, Thresholds
from ecgssl_jax.data.readers.source import Source, SourceError, Task
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.workers import run_tasks
from ecgssl_jax.leads import LEADS

_SHARD_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a set is prepared.

    Attributes:
      rate: sampling rate of the prepared set, Hz; None keeps the source's.
      seconds: length of a window.
      scale: millivolts of one int16 step. One microvolt is finer than the noise
        of any electrocardiograph and leaves room for +-32 mV.
      max_rejected: largest share of windows that may be rejected.
      thresholds: of the quality pass.
      salt: mixed into the patients' hashes. Without a secret one, whoever knows
        the identifiers of the source can recompute the hashes.
    """

    rate: float | None = None
    seconds: float = 10.0
    scale: float = 0.001
    max_rejected: float = 0.05
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    salt: str = ""

    def __post_init__(self):
        if not (self.seconds > 0 and self.scale > 0 and (self.rate or 1) > 0):
            raise ValueError(
                f"rate {self.rate}, seconds {self.seconds} and scale {self.scale} must "
                "be positive"
            )
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"max_rejected is a share, not {self.max_rejected}")


@dataclasses.dataclass(kw_only=True)
class _Part:
    """What the first pass returns for one task: its rows, less their signals.

    `sums` holds, for each row, count, sum and sum of squares per lead of its
    valid samples, in int16 steps: exact, so that the statistics do not depend
    on how the records were divided among workers.
    """

    scratch: Path
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sums: list[np.ndarray] = dataclasses.field(default_factory=list)
    digests: list[bytes] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)
    num_read: int = 0


def prepare_dataset(
    source: Source,
    output: str | Path,
    *,
    settings: Settings = Settings(),
    overwrite: bool = False,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> prepared.PreparedSet:
    """Prepares `source` as the set `output` (`<root>/<name>`) and opens it.

    Args:
      source: the recordings.
      output: folder of the set; its last part is the set's name.
      settings: how.
      overwrite: replace a set that is there.
      workers: processes; 1 works in this one.
      report: receives the summary.

    Raises:
      FileExistsError: there is a set already, and `overwrite` is not given.
      SourceError: no rate given where the source has several, no record left, or
        too many rejected. No set is written then, only `<output>.quality.csv`,
        which names every finding.
    """
    output = Path(output)
    rate = _target_rate(source, settings)
    form = Format(
        rate=rate, length=round(settings.seconds * rate), scale=settings.scale
    )
    with building_folder(output, overwrite=overwrite) as folder:
        parts = _first_pass(source, form, settings.thresholds, folder, workers)
        kept = _drop_duplicates(parts)
        findings = [finding for part in parts for finding in part.findings]
        _check_rejections(parts, kept, findings, output, settings, report)
        columns = _columns(parts, kept, output.name, source.labels, settings)
        version = folder / prepared.VERSION
        version.mkdir()
        entries, digest = _second_pass(
            parts, kept, columns, form, version, output.name, workers
        )
        shards.write_index(version / prepared.INDEX, columns)
        write_quality(version / prepared.QUALITY, findings)
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
            "statistics": _statistics(parts, kept, form.scale),
            "findings": _counts(f"{x.decision}: {x.finding}" for x in findings),
            "shards": entries,
            "records_sha256": digest,
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
    part = _Part(scratch=scratch)
    with scratch.open("wb") as file:
        for id, reading in task():
            part.num_read += 1
            try:
                if isinstance(reading, RecordError):
                    raise reading
                windows, findings = convert(reading, form, thresholds)
                rows = [_row(reading, window, labels) for window in windows]
            except RecordError as error:
                part.findings.append(
                    Finding(
                        record=id,
                        finding="unreadable",
                        decision=REJECT,
                        detail=str(error),
                    )
                )
                continue
            part.findings.extend(findings)
            part.rows.extend(rows)
            for window in windows:
                file.write(window.ecg.astype("<i2").tobytes())
                part.sums.append(_sums(window))
                part.digests.append(window.digest)
    return part


def _row(record: Record, window: Window, labels: Sequence[str]) -> dict[str, Any]:
    values = np.array([record.labels.get(name, np.nan) for name in labels])
    valid = ~np.isnan(values)
    if not np.isin(values[valid], (0, 1)).all():
        raise RecordError(f"{record.id}: labels must be 0 or 1, found {values[valid]}")
    return {
        "record_id": record.id,
        "patient": record.patient,
        "fold": record.fold,
        "length": window.length,
        "offset": window.offset,
        "lead_valid": window.lead_valid,
        "labels": np.where(valid, values, 0).astype(np.uint8),
        "labels_valid": valid.astype(np.uint8),
        "text": record.text,
        "attributes": json.dumps(
            dict(record.attributes), ensure_ascii=False, default=str
        ),
    }


def _sums(window: Window) -> np.ndarray:
    ecg = window.ecg[: window.length].astype(np.int64)
    count = np.full(len(LEADS), window.length)
    return np.stack([count, ecg.sum(0), (ecg * ecg).sum(0)]) * window.lead_valid


def _drop_duplicates(parts: Sequence[_Part]) -> list[np.ndarray]:
    """The rows of each part that are kept; reports the others."""
    first: dict[bytes, str] = {}
    kept = []
    for part in parts:
        rows = []
        for row, digest in enumerate(part.digests):
            name, offset = part.rows[row]["record_id"], part.rows[row]["offset"]
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


def _check_rejections(parts, kept, findings, output, settings, report):
    """Prints the summary. Raises SourceError if too little is left."""
    num_kept = sum(map(len, kept))
    # Of a long recording, a window counts; what is left over at its end does not.
    rejected = {
        (each.record, each.offset)
        for each in findings
        if each.decision == REJECT and each.finding != "remainder"
    }
    total = num_kept + len(rejected)
    num_read = sum(part.num_read for part in parts)
    windows = f"{num_kept} windows of {settings.seconds:g} s kept"
    lines = [f"{num_read} records read; {windows}, {len(rejected)} rejected"]
    counts = Counter((each.decision, each.finding) for each in findings)
    for (decision, finding), count in sorted(counts.items()):
        lines.append(f"  {decision:6}  {count:6d}  {finding}")
    report("\n".join(lines))
    if num_kept and len(rejected) <= settings.max_rejected * total:
        return
    if not total:
        raise SourceError("the source holds no records")
    beside = output.with_name(f"{output.name}.quality.csv")
    write_quality(beside, findings)
    first = next(each for each in findings if each.decision == REJECT)
    raise SourceError(
        f"{len(rejected)} of {total} windows rejected, more than the share of "
        f"{settings.max_rejected:g} that --max-rejected allows. The first: "
        f"{first.record}: {first.finding}: {first.detail}. All findings are in {beside}"
    )


def _columns(parts, kept, name, labels, settings) -> dict[str, Any]:
    """The index of all kept rows, in order; patients numbered and hashed."""
    rows = [
        part.rows[row]
        for part, chosen in zip(parts, kept, strict=True)
        for row in chosen
    ]
    hashes = [hash_patient(name, row, settings.salt) for row in rows]
    numbers: dict[str, int] = {}
    for value in hashes:
        numbers.setdefault(value, len(numbers))
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]}
    columns["patient"] = np.array([numbers[value] for value in hashes], np.int32)
    columns["patient_hash"] = hashes
    for key in ("fold", "length", "offset"):
        columns[key] = np.array(columns[key], np.int32)
    for key in ("labels", "labels_valid"):
        columns[key] = np.stack(columns[key]).reshape(len(rows), len(labels))
    columns["lead_valid"] = np.stack(columns["lead_valid"])
    return columns


def hash_patient(name: str, row: Mapping[str, Any], salt: str = "") -> str:
    """16 hexadecimal digits, equal for equal patients of the set `name`.

    A record whose patient is unknown counts as a patient of its own.
    """
    patient = row["patient"]
    identity = f"patient:{patient}" if patient else f"record:{row['record_id']}"
    text = f"{name}\0{salt}\0{identity}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _second_pass(parts, kept, columns, form, version, name, workers):
    record_bytes = 2 * form.length * len(LEADS)
    groups: list[list[tuple[Path, np.ndarray]]] = []
    size = _SHARD_BYTES
    for part, rows in zip(parts, kept, strict=True):
        if len(rows) == 0:
            part.scratch.unlink()
            continue
        if size >= _SHARD_BYTES:
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
    entries, digest = [], hashlib.sha256()
    with tqdm(total=start, unit="record", desc="writing") as bar:
        for entry, digests in run_tasks(shards.write_shard, arguments, workers=workers):
            entries.append(entry)
            digest.update(b"".join(digests))
            bar.update(entry["num_records"])
    return entries, digest.hexdigest()


def _statistics(parts, kept, scale: float) -> dict[str, list[float]]:
    """Mean and standard deviation of each lead, millivolts."""
    sums = np.zeros((3, len(LEADS)), np.int64)
    for part, rows in zip(parts, kept, strict=True):
        for row in rows:
            sums += part.sums[row]
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
