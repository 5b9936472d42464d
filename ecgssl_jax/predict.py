"""Probabilities of labels for recordings, prepared or raw, as a CSV file.

    python -m ecgssl_jax.predict wfdb --encoder=runs/finetuned --source=folder \\
        --output=predictions.csv
    python -m ecgssl_jax.predict prepared --encoder=runs/finetuned \\
        --source=data/mine --folds=9 --output=predictions.csv

Of a model that was trained on labels (`configs/supervised.py`): a line for each
recording, a column for each label, the mean of its windows' log-odds as a probability. In a
prepared set a long recording is several records, told by their `offset`, samples from its
start.
Recordings are read as by `python -m ecgssl_jax.embed`, and all, prepared or raw, normalised
by the statistics of the set that the model was trained on.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from absl import logging

from ecgssl_jax import encoder as encoders
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.output_folder import check_writable, whole_file
from ecgssl_jax.recordings import add_sources, open_recordings, shared_arguments


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = shared_arguments()
    shared.add_argument("--output", required=True, type=Path, help="the CSV file")
    add_sources(parser, shared)
    return parser


def main(argv: list[str] | None = None) -> None:
    keep_freed_memory()
    silence_echoes()
    logging.set_verbosity(logging.ERROR)
    args = make_parser().parse_args(argv)
    with exit_with_message("predict"):
        predict(args)


def predict(args: argparse.Namespace) -> None:
    """Writes the probabilities that the command line asks for.

    Raises:
      UserError, OSError: with what is wrong with the model, the recordings or the
        output.
    """
    check_writable(args.output.parent)
    encoder = encoders.load(
        args.encoder, which=args.checkpoint, statistics=args.statistics
    )
    labels = encoder.frozen.run.labels
    if not labels:
        raise UserError(
            f"--encoder={args.encoder}: was not trained on labels (or is an export, "
            "which has no classifier); configs/supervised.py fine-tunes it"
        )
    # What a recording is told must not depend on those beside it.
    source = open_recordings(encoder, args, own_statistics=False)
    with (
        whole_file(args.output) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        # Of a prepared set, in which a long recording is several records.
        parts = ["offset"] if args.kind == "prepared" else []
        writer.writerow(["record_id", *parts, *labels])
        for ids, columns, found in source.batches():
            logits = found["logits"].astype(np.float64)
            probabilities = 1 / (1 + np.exp(-logits))
            places = zip(ids, *(columns[part] for part in parts), strict=True)
            for place, row in zip(places, probabilities, strict=True):
                writer.writerow([*place, *(f"{value:.6g}" for value in row)])
    print(f"{args.output}: {source.used} recordings, {len(labels)} labels")
    source.name_rejected(args.output)


if __name__ == "__main__":
    main()
