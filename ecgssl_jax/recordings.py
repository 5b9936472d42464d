"""Recordings of any kind, prepared or raw, through an encoder, batch by batch."""

import argparse
import csv
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ecgssl_jax import prepare
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.source import Source
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.data.whole import read_whole
from ecgssl_jax.data.workers import usable_cores
from ecgssl_jax.embeddings_file import Columns
from ecgssl_jax.encoder import Encoder
from ecgssl_jax.errors import UserError
from ecgssl_jax.evaluation.features import statistics_of
from ecgssl_jax.number_list import numbers

_RECORDS = 1024  # at a time

# Record ids, further columns, and features by their name.
Batch = tuple[Sequence[str], Columns, dict[str, np.ndarray]]


def shared_arguments() -> argparse.ArgumentParser:
    """The arguments that every kind of recordings has, without those of an output."""
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add(
        "--encoder",
        required=True,
        help="a run's workdir or one of its steps, or an exported encoder",
    )
    add(
        "--checkpoint",
        choices=("best", "newest"),
        default="best",
        help="of the run's checkpoints; default best, by its online probe",
    )
    add("--statistics", help="the training set whose mean and deviation normalise")
    add("--workers", type=int, default=usable_cores(), help="processes that read")
    return shared


def add_sources(
    parser: argparse.ArgumentParser, shared: argparse.ArgumentParser
) -> None:
    """A sub-command for each kind of recordings."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="SOURCE")
    prepared = kinds.add_parser("prepared", help="a prepared set", parents=[shared])
    prepared.add_argument("--source", required=True, help="its folder")
    prepared.add_argument(
        "--folds", type=numbers, help="such as 9 or 1-8; default: all"
    )
    prepare.add_sources(kinds, shared)


@dataclasses.dataclass(kw_only=True, eq=False)
class Recordings:
    """What a command line names.

    Attributes:
      total: how many there are.
      found: batches of those that can be used.
      rejected: (record, reason) of the others, as far as they have been read.
      used: how many have been used.
    """

    total: int
    found: Iterator[Batch]
    rejected: list[tuple[str, str]]
    used: int = 0

    def batches(self) -> Iterator[Batch]:
        """All batches, with a progress bar; raises UserError if there is none."""
        with tqdm(total=self.total, unit=" records", disable=None) as progress:
            for batch in self.found:
                yield batch
                self.used += len(batch[0])
                progress.update(self.used + len(self.rejected) - progress.n)
        if not self.used:
            first = ""
            if self.rejected:
                first = f"; the first, {self.rejected[0][0]}: {self.rejected[0][1]}"
            raise UserError(f"none of {self.total} recordings can be used{first}")

    def name_rejected(self, output: Path) -> None:
        """Writes OUTPUT.rejected.csv if some could not be used, and says so."""
        path = output.with_name(f"{output.name}.rejected.csv")
        if not self.rejected:
            path.unlink(missing_ok=True)  # of an earlier output
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("record", "reason"), *self.rejected])
        print(f"{len(self.rejected)} recordings are left out; {path} says why")


def open_recordings(
    encoder: Encoder, args: argparse.Namespace, *, own_statistics: bool
) -> Recordings:
    """The recordings of a command line of `add_sources`.

    Args:
      own_statistics: whether those of a prepared set are normalised by its statistics,
        instead of those of the encoder's training set.

    Raises:
      UserError, OSError: recordings that are not there or do not fit.
    """
    rejected: list[tuple[str, str]] = []
    if args.kind == "prepared":
        total, found = _of_prepared_set(encoder, args, own_statistics)
    else:
        # Of a rate of its own, so that nobody has to look for the recordings' rates.
        source = prepare.make_source(
            argparse.Namespace(**vars(args), rate=encoder.rate)
        )
        print(source.description)
        total = source.num_records
        found = _of_recordings(encoder, source, rejected, args.workers)
    return Recordings(total=total, found=found, rejected=rejected)


def _of_prepared_set(
    encoder: Encoder, args: argparse.Namespace, own_statistics: bool
) -> tuple[int, Iterator[Batch]]:
    prepared = open_prepared(args.source)
    encoder.frozen.check(prepared)
    rows = np.arange(len(prepared))
    fold = prepared.index["fold"]
    if args.folds is not None:
        rows = np.flatnonzero(np.isin(fold, args.folds))
        if not len(rows):
            present = sorted(set(fold.tolist()))
            raise UserError(
                f"--folds: {prepared.name} has no record in {list(args.folds)}, only in "
                f"{present}"
            )
    statistics = statistics_of([prepared])
    if not own_statistics:
        # The scale is of the integers that the set holds.
        trained = encoder.statistics
        statistics = dataclasses.replace(trained, scale=statistics.scale)

    def batches():
        ids, patients = (prepared.index[name] for name in ("record_id", "patient_hash"))
        for start in range(0, len(rows), _RECORDS):
            part = rows[start : start + _RECORDS]
            columns = {"patient_hash": list(patients[part]), "fold": fold[part]}
            columns["offset"] = prepared.index["offset"][part]
            found = encoder.frozen.encode_signals(prepared, part, statistics)
            yield list(ids[part]), columns, found

    return len(rows), batches()


def _of_recordings(
    encoder: Encoder,
    source: Source,
    rejected: list[tuple[str, str]],
    workers: int,
) -> Iterator[Batch]:
    """Batches of what can be used; the others go into `rejected`, with the reason."""
    readings = read_whole(
        source,
        rate=encoder.rate,
        at_least=encoder.crop,
        scale=encoder.scale,
        workers=workers,
    )
    while part := list(itertools.islice(readings, _RECORDS)):
        ids, windows = [], []
        for name, found in part:
            if isinstance(found, RecordError):
                rejected.append((name, str(found).removeprefix(f"{name}: ")))
                continue
            ids.append(name)
            windows.append(found)
        if ids:
            yield ids, {}, encoder.encode_windows(windows)
