"""An encoder as files that need no run: safetensors, JSON, and a StableHLO program.

    python -m ecgssl_jax.export --workdir=runs/jepa-ptbxl --output=exported

`ecgssl_jax.load("exported")` reads it back; `ecgssl_jax.interop.exported` says how the
program runs where this package is not installed.
"""

import argparse
from pathlib import Path

import numpy as np
from absl import logging

from ecgssl_jax import encoder as encoders
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.errors import exit_with_message
from ecgssl_jax.interop import exported
from ecgssl_jax.leads import LEADS
from ecgssl_jax.output_folder import check_writable


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workdir", required=True, help="folder of the run, or of one of its steps")
    add("--output", required=True, help="folder of the files; an export is replaced")
    add(
        "--checkpoint",
        choices=("best", "newest"),
        default="best",
        help="of the run's checkpoints; default best, by its online probe",
    )
    add(
        "--statistics",
        help="the set, of those trained on, by which recordings are normalised; "
        "default: the first",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    silence_echoes()
    logging.set_verbosity(logging.ERROR)
    args = make_parser().parse_args(argv)
    with exit_with_message("export"):
        folder = Path(args.output)
        check_writable(folder)
        exported.check_folder(folder)
        encoder = encoders.load(
            args.workdir, which=args.checkpoint, statistics=args.statistics
        )
        exported.save(encoder.frozen, encoder.statistics, folder)
        difference = largest_difference(encoder, folder)
    for name in (exported.ARRAYS, exported.DESCRIPTION, exported.PROGRAM):
        size = (folder / name).stat().st_size
        print(f"{folder / name}  {size / 1e6:.1f} MB")
    print(
        f"step {encoder.frozen.run.step} of {args.workdir}; on noise, the program's "
        f"features differ from the checkpoint's by {difference:.1g} at most"
    )


def largest_difference(encoder: encoders.Encoder, folder: Path) -> float:
    """Between pooled features of the checkpoint and of the program, on noise."""
    random = np.random.default_rng(0)
    shape = (4, encoder.crop, len(LEADS))
    # In whole microvolts, as recordings are stored.
    ecg = np.round(random.normal(scale=0.3, size=shape), 3).astype(np.float32)
    program = exported.read_program(folder)
    full = np.full(len(ecg), encoder.crop, np.int32)
    valid = np.ones((len(ecg), len(LEADS)), bool)
    found = program.call(ecg=ecg, lead_valid=valid, length=full)
    same = encoder(ecg, rate=encoder.rate, leads=LEADS, unit="mV")
    return float(np.abs(np.asarray(found["pooled"]) - same["pooled"]).max())


if __name__ == "__main__":
    main()
