"""Pictures of what a config trains on: python -m ecgssl_jax.preview --config=FILE.

Draws the first records of step 0 as the run will see them, cropped, on ECG paper,
with the patches that the method sees (context) and those it predicts (targets), and
each view of methods that compare views. With --transforms, every transform that a view
can have, alone.
"""

import argparse
import sys
from pathlib import Path

from ecgssl_jax import plots
from ecgssl_jax.assembly import open_mixture
from ecgssl_jax.config_files import load, split_overrides
from ecgssl_jax.errors import exit_with_message
from ecgssl_jax.experiment import parse
from ecgssl_jax.output_folder import check_writable
from ecgssl_jax.pictures import draw_records, draw_transforms


def make_parser() -> argparse.ArgumentParser:
    """The command line, less its --config.KEY=VALUE."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.preview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.KEY=VALUE replaces a setting of the config.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="FILE or FILE:ARGUMENT")
    parser.add_argument("--output", default="preview", help="folder for the pictures")
    parser.add_argument(
        "--transforms", action="store_true", help="also each transform on one record"
    )
    parser.add_argument("--records", type=_count, default=4, help="how many")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Writes the pictures, and prints where they are."""
    with exit_with_message("error"):
        rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
        args = make_parser().parse_args(rest)
        check_writable(args.output)
        experiment = parse(load(args.config, overrides))
        mixture = open_mixture(experiment.data)
        figures = draw_records(experiment, mixture, args.records)
        if args.transforms:
            figures |= draw_transforms(experiment, mixture)
        for name, figure in figures.items():
            path = Path(args.output) / f"{name}.png"
            plots.save(figure, path)
            print(path)


if __name__ == "__main__":
    main()
