"""Embeddings of recordings, prepared or raw, as a file.

    python -m ecgssl_jax.embed prepared --encoder=runs/jepa --source=data/synthetic \\
        --output=synthetic.parquet
    python -m ecgssl_jax.embed wfdb --encoder=exported --source=folder --output=x.npz
    python -m ecgssl_jax.embed manifest --encoder=exported --source=records.csv \\
        --source-rate=500 --unit=uV --leads=I,II,V1,V2,V3,V4,V5,V6 --output=x.parquet

Raw recordings are prepared on the way as `python -m ecgssl_jax.prepare` does it, each as
a whole, and normalised by the statistics of the encoder's training set; those of a
prepared set by the set's own, unless --statistics names a training set. What cannot be
used is left out and named in OUTPUT.rejected.csv. Only a batch is in memory at a time.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ecgssl_jax import encoder as encoders
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.embeddings_file import Columns, check_ending, open_writer
from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.output_folder import check_writable
from ecgssl_jax.recordings import add_sources, open_recordings, shared_arguments


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = shared_arguments()
    add = shared.add_argument
    add("--output", required=True, type=Path, help="the file: .parquet or .npz")
    add(
        "--features",
        choices=("pooled", "tokens", "by_lead"),
        default="pooled",
        help="a vector for each recording (the default), all of its tokens, or a vector "
        "for each lead, zeros where it is missing, of an encoder that sees them one by "
        "one (CLOCS with method.mode cmlc or cmsmlc)",
    )
    add_sources(parser, shared)
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
    leads = encoder.frozen.method.leads
    if args.features == "by_lead" and not leads:
        raise UserError(
            "--features=by_lead: this encoder sees all leads together; one that CLOCS "
            "trained with method.mode cmlc or cmsmlc sees them one by one"
        )
    own_statistics = args.statistics is None
    source = open_recordings(encoder, args, own_statistics=own_statistics)
    with open_writer(args.output) as writer:
        for ids, columns, found in source.batches():
            writer.write(_columns(ids, columns, found, args.features))
    print(f"{args.output}: {source.used} recordings, {args.features} features")
    if args.features == "by_lead":
        print(f"leads, in this order: {', '.join(leads)}")
    source.name_rejected(args.output)


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
