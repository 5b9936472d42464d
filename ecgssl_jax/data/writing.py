"""Writes a prepared set: all cores, every record accounted for, all or nothing.

Two passes. The first reads, checks and converts the records and puts their
signals into scratch files; only then is it known which records are kept, where
they stand and which are duplicates. The second turns scratch files into
array_record shards and deletes them one by one, so that little more than the
size of the set is ever needed. Both work in a hidden folder beside the output,
which one rename puts in its place.
"""

import dataclasses
import importlib.metadata
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ecgssl_jax.data import index, prepared, shards, text
from ecgssl_jax.data.convert import Format
from ecgssl_jax.data.findings import Thresholds, write_quality
from ecgssl_jax.data.first_pass import (
    Part,
    check_rejections,
    drop_duplicates,
    read_parts,
)
from ecgssl_jax.data.publishing import building_folder
from ecgssl_jax.data.readers.source import Source, SourceError
from ecgssl_jax.data.reports import canonical_texts, summarise
from ecgssl_jax.data.workers import run_tasks
from ecgssl_jax.leads import LEADS

_SHARD_BYTES = 64 * 2**20
# A reader keeps every shard open, and processes may often open 1,024 files only.
_MAX_SHARDS = 512
_LARGEST_RATE = 100_000.0
# Millivolts: a tenth of a normal R wave.
_LARGEST_SCALE = 0.1


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
        sentences.
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
        for name in ("rate", "seconds", "scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, found {value:g}")
        if self.rate is not None and self.rate > _LARGEST_RATE:
            raise ValueError(
                f"rate must be at most {_LARGEST_RATE:g} Hz, found {self.rate:g}"
            )
        if self.scale > _LARGEST_SCALE:
            raise ValueError(
                f"scale must be at most {_LARGEST_SCALE:g} mV, found {self.scale:g}: "
                "steps as large as the waves leave nothing of them"
            )
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(
                f"max_rejected must be a share, 0 to 1, found {self.max_rejected:g}"
            )
        if self.vocabulary_size < text.SMALLEST_VOCABULARY:
            raise ValueError(
                f"vocabulary_size must be at least {text.SMALLEST_VOCABULARY}, found "
                f"{self.vocabulary_size}"
            )


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
      SourceError: no rate given where the source has several, windows without a
        sample, a patient in two folds, no record left, or too many rejected. In the last case only
        `<output>.quality.csv` is written, which names every finding.
    """
    output = Path(output)
    beside = output.with_name(f"{output.name}.quality.csv")
    form = _format(source, settings)
    with building_folder(
        output, marker=prepared.MARKER, overwrite=overwrite, wait=wait
    ) as folder:
        parts = read_parts(source, form, settings.thresholds, folder, workers)
        kept = drop_duplicates(parts)
        findings = check_rejections(
            parts,
            sum(map(len, kept)),
            seconds=settings.seconds,
            max_rejected=settings.max_rejected,
            beside=beside,
            report=report,
        )
        columns = _columns(parts, kept)
        index.hash_patients(columns, output.name, settings.salt)
        index.check_folds(columns)
        version = folder / prepared.VERSION
        version.mkdir()
        written = _second_pass(
            parts, kept, columns, form, version, output.name, workers
        )
        shards.write_index(version / prepared.INDEX, columns)
        write_quality(version / prepared.QUALITY, findings)
        texts = _write_vocabulary(version, columns["text"], settings, report)
        metadata = {
            **_describe(source, output.name, settings, form),
            **_figures(columns),
            "columns_sha256": shards.columns_sha256(columns),
            "texts": texts,
            "findings": _counts(f"{x.decision}: {x.finding}" for x in findings),
            **shards.describe(written, form.scale),
        }
        prepared.write_metadata(version, metadata)
        shards.write_tfds_metadata(
            version,
            output.name,
            length=form.length,
            num_labels=len(source.labels),
            shards=metadata["shards"],
            description=source.description,
        )
    # Left by an earlier attempt that was stopped.
    beside.unlink(missing_ok=True)
    return prepared.open_prepared(output)


def _format(source: Source, settings: Settings) -> Format:
    if settings.rate is None and len(source.rates) != 1:
        found = ", ".join(f"{rate:g}" for rate in source.rates) or "none"
        raise SourceError(
            f"the records are sampled at {found} Hz; choose one rate for all with "
            "--rate"
        )
    rate = float(source.rates[0] if settings.rate is None else settings.rate)
    length = round(settings.seconds * rate)
    if length < 1:
        raise SourceError(
            f"a window of {settings.seconds:g} s holds no sample at {rate:g} Hz; make "
            "it longer with --seconds, or the rate higher with --rate"
        )
    return Format(rate=rate, length=length, scale=settings.scale)


def _columns(
    parts: Sequence[Part], kept: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """The index of all kept windows, in order; takes the parts' columns away."""
    pairs = [pair for pair in zip(parts, kept, strict=True) if len(pair[1])]
    # One column after another, so that none is there twice for long.
    return {
        name: np.concatenate([part.columns.pop(name)[rows] for part, rows in pairs])
        for name in tuple(pairs[0][0].columns)
    }


def _describe(
    source: Source, name: str, settings: Settings, form: Format
) -> dict[str, Any]:
    """What the set is and how it was asked for."""
    return {
        "name": name,
        "source": source.description,
        "settings": dataclasses.asdict(settings) | {"salt": bool(settings.salt)},
        "package_version": _package_version(),
        **dataclasses.asdict(form),
        "unit": "mV",
        "leads": LEADS,
        "labels": source.labels,
        "label_table": source.label_table,
    }


def _figures(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How many records, patients, and records of each fold the index has."""
    folds, counts = np.unique(columns["fold"], return_counts=True)
    return {
        "num_records": len(columns["length"]),
        "num_patients": int(columns["patient"].max()) + 1,
        "folds": dict(zip(map(str, folds.tolist()), counts.tolist(), strict=True)),
    }


def _second_pass(
    parts: Sequence[Part],
    kept: Sequence[np.ndarray],
    columns: Mapping[str, np.ndarray],
    form: Format,
    version: Path,
    name: str,
    workers: int,
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


def _write_vocabulary(
    version: Path,
    reports: Sequence[str] | np.ndarray,
    settings: Settings,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Trains and writes the vocabulary, if there is any text.

    Returns:
      `summarise` of the reports, and the vocabulary's size.
    """
    texts = canonical_texts(reports, sort_phrases=settings.sort_phrases)
    model = text.train_vocabulary(texts, settings.vocabulary_size)
    size = 0
    if model is not None:
        (version / prepared.VOCABULARY).write_bytes(model)
        size = text.Vocabulary(model=model).size
    summary = {**summarise(texts), "vocabulary_size": size}
    if size:
        report(
            f"{summary['num_texts']} of {len(texts)} records have a report, "
            f"{summary['num_distinct']} distinct; "
            f"{summary['share_repeated']:.1%} of the reports are repeated; vocabulary "
            f"of {size} pieces"
        )
    return summary


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _package_version() -> str:
    try:
        return importlib.metadata.version("ecgssl_jax")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
