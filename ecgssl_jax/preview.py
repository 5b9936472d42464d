"""Pictures of what a config trains on: python -m ecgssl_jax.preview --config=FILE.

Draws the first records of step 0 as the run will see them, cropped, on ECG paper,
with the patches that the method sees (context) and those it predicts (targets).
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ecgssl_jax import plots
from ecgssl_jax.assembly import make_pipeline, open_set
from ecgssl_jax.config_files import load, split_overrides
from ecgssl_jax.data.prepared import DamagedSetError, PreparedSet
from ecgssl_jax.experiment import Experiment, parse
from ecgssl_jax.settings import ConfigError


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
    parser.add_argument("--records", type=int, default=4, help="how many")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Writes the pictures, and prints where they are."""
    try:
        rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
        args = make_parser().parse_args(rest)
        experiment = parse(load(args.config, overrides))
        prepared = open_set(experiment.data, experiment.data.name)
        figures = preview(experiment, prepared, args.records)
        for name, figure in figures.items():
            path = Path(args.output) / f"{name}.png"
            plots.save(figure, path)
            print(path)
    except (ConfigError, FileNotFoundError, DamagedSetError) as error:
        sys.exit(f"error: {error}")


def preview(
    experiment: Experiment, prepared: PreparedSet, records: int
) -> dict[str, Figure]:
    """File name -> picture, of the first `records` rows of the batch of step 0."""
    batch = make_pipeline(experiment, prepared).example()
    figures = {}
    for row in range(min(records, experiment.batch_size)):
        one = {name: values[row] for name, values in batch.items()}
        id = str(prepared.index["record_id"][one["record"]])
        name = f"{row:02d}-{re.sub(r'[^-.A-Za-z0-9_]+', '-', id)}"
        figures[name] = _draw(one, prepared, experiment, id)
    return figures


def _draw(
    one: dict[str, np.ndarray], prepared: PreparedSet, experiment: Experiment, id: str
) -> Figure:
    """One row of a batch, in millivolts."""
    ecg = one["ecg"].astype(np.float32) * prepared.scale
    # What lies beyond the record's end is padding, not signal.
    ecg[one.get("length", len(ecg)) :] = np.nan
    title = f"{prepared.name} {id}"
    labels = prepared.index["labels"][one["record"]]
    names = [n for n, holds in zip(prepared.labels, labels, strict=True) if holds]
    if names:
        title += f": {', '.join(names)}"
    paper = {
        "rate": prepared.rate,
        "leads": prepared.leads,
        "lead_valid": one["lead_valid"],
        "title": title,
    }
    if experiment.masks is None:
        return plots.ecg_paper(ecg, **paper)
    return plots.mask_preview(
        ecg,
        context=one["context"][one["context_valid"]],
        targets=one["targets"][one["targets_valid"]],
        patch_size=experiment.model["patch_size"],
        **paper,
    )


if __name__ == "__main__":
    main()
