"""Embeddings of recordings, prepared or raw, as a file.

    python -m ecgssl_jax.embed prepared --encoder=runs/jepa --source=data/synthetic \\
        --output=synthetic.parquet
    python -m ecgssl_jax.embed wfdb --encoder=exported --source=folder --output=x.npz
    python -m ecgssl_jax.embed manifest --encoder=exported --source=records.csv \\
        --source-rate=500 --unit=uV --leads=I,II,V1,V2,V3,V4,V5,V6 --output=x.parquet

Raw recordings are prepared on the way as `python -m ecgssl_jax.prepare` does it, each as
a whole, and normalised by the statistics of the encoder's training set; those of a
prepared set by the set's own. What cannot be used is left out and named in
OUTPUT.rejected.csv. Only a batch is in memory at a time.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from ecgssl_jax import encoder as encoders
from ecgssl_jax import prepare
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.source import Source
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.data.whole import read_whole
from ecgssl_jax.data.workers import usable_cores
from ecgssl_jax.embeddings_file import Columns, check_ending, open_writer
from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.evaluation.features import statistics_of
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.number_list import numbers
from ecgssl_jax.output_folder import check_writable

_RECORDS = 1024  # at a time


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--encoder", required=True, help="a run's workdir, or an exported encoder")
    add("--output", required=True, type=Path, help="the file: .parquet or .npz")
    add(
        "--checkpoint",
        choices=("best", "newest"),
        default="best",
        help="of the run's checkpoints; default best, by its online probe",
    )
    add("--statistics", help="of raw recordings: the training set to normalise by")
    add(
        "--features",
        choices=("pooled", "tokens"),
        default="pooled",
        help="a vector for each recording, or all of its tokens; default pooled",
    )
    add("--workers", type=int, default=usable_cores(), help="processes that read")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="SOURCE")
    prepared = kinds.add_parser("prepared", help="a prepared set", parents=[shared])
    prepared.add_argument("--source", required=True, help="its folder")
    prepared.add_argument(
        "--folds", type=numbers, help="such as 9 or 1-8; default: all"
    )
    prepare.add_sources(kinds, shared)
    return parser


def main(argv: list[str] | None = None) -> None:
    keep_freed_memory()
    silence_echoes()
    logging.set_verbosity(logging.ERROR)
    args = make_parser().parse_args(argv)
    with exit_with_message("embed"):
        embed(args)


def embed(args: argparse.Namespace) -> None:
    """Writes the embeddings that the command line asks for.

    Raises:
      UserError, OSError: with what is wrong with the encoder, the recordings or the
        output.
    """
    check_ending(args.output)
    check_writable(args.output.parent)
    encoder = encoders.load(
        args.encoder,
        which=args.checkpoint,
        statistics=args.statistics,
        tokens=args.features == "tokens",
    )
    rejected: list[tuple[str, str]] = []
    if args.kind == "prepared":
        total, batches = _of_prepared_set(encoder, args)
    else:
        # Of a rate of its own, so that nobody has to look for the recordings' rates.
        source = prepare.make_source(
            argparse.Namespace(**vars(args), rate=encoder.rate)
        )
        print(source.description)
        total = source.num_records
        batches = _of_recordings(encoder, source, rejected, args.workers)
    written = 0
    with (
        open_writer(args.output) as writer,
        tqdm(total=total, unit=" records", disable=None) as progress,
    ):
        for ids, columns, found in batches:
            writer.write(_columns(ids, columns, found, args.features))
            written += len(ids)
            progress.update(written + len(rejected) - progress.n)
        if not written:
            raise UserError(
                f"none of {total} recordings can be used"
                + (
                    f"; the first, {rejected[0][0]}: {rejected[0][1]}"
                    if rejected
                    else ""
                )
            )
    print(f"{args.output}: {written} recordings, {args.features} features")
    if rejected:
        path = args.output.with_name(f"{args.output.name}.rejected.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("record", "reason"), *rejected])
        print(f"{len(rejected)} recordings are left out; {path} says why")


# Record ids, further columns, and features by their name.
Batch = tuple[Sequence[str], Columns, dict[str, np.ndarray]]


def _of_prepared_set(
    encoder: encoders.Encoder, args: argparse.Namespace
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
    encoder: encoders.Encoder,
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


def _columns(
    ids: Sequence[str], columns: Columns, found: dict[str, np.ndarray], features: str
) -> dict[str, Any]:
    """The columns of the file."""
    result = {"record_id": list(ids), **columns, "embedding": found[features]}
    if features == "tokens":
        tokens = found["tokens"]
        valid = found.get("tokens_valid", np.ones(tokens.shape[:2], bool))
        result |= {"valid": valid}
    return result


if __name__ == "__main__":
    main()
