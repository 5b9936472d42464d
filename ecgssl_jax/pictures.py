"""What the end of a run draws into its workdir: curves, and what was masked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ecgssl_jax import plots, reporting
from ecgssl_jax.assembly import make_pipeline
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.experiment import Experiment


def draw_run(experiment: Experiment, workdir: str | Path) -> list[Path]:
    """Draws loss_curve.png, probe_curve.png and masks.png; returns what was drawn.

    A run without evaluators has no probe curve, one without masks no picture of
    them.
    """
    workdir = Path(workdir)
    drawn = []
    for name, figure in _figures(experiment, workdir):
        path = workdir / f"{name}.png"
        plots.save(figure, path)
        drawn.append(path)
    return drawn


def _figures(experiment: Experiment, workdir: Path) -> Iterator[tuple[str, Figure]]:
    lines = reporting.read_metrics(workdir)

    def series(name: str) -> list[tuple[float, float]]:
        found = [(x["step"], x[name]) for x in lines if name in x]
        # Values that were not finite are null in the file.
        return [(step, np.nan if y is None else y) for step, y in found]

    yield "loss_curve", plots.loss_curve({"loss": series("loss")}, title=workdir.name)
    names = [f"{name}/macro_auroc" for name in experiment.evaluators]
    if names:
        curves = {name: series(name) for name in names}
        yield "probe_curve", plots.probe_curve(curves, title=workdir.name)
    if experiment.masks is not None:
        yield "masks", _masks(experiment)


def _masks(experiment: Experiment) -> Figure:
    """The first record of step 0, with its context and its targets."""
    # Not `assembly.open_set`, which has all processes meet: only one of them draws.
    prepared = open_prepared(Path(experiment.data.root) / experiment.data.name)
    batch = make_pipeline(experiment, prepared).example()
    ecg = batch["ecg"][0] * np.float32(prepared.scale)
    if "length" in batch:
        ecg[batch["length"][0] :] = np.nan
    record = prepared.index["record_id"][batch["record"][0]]
    return plots.mask_preview(
        ecg,
        context=batch["context"][0][batch["context_valid"][0]],
        targets=batch["targets"][0][batch["targets_valid"][0]],
        patch_size=experiment.model["patch_size"],
        rate=prepared.rate,
        leads=prepared.leads,
        lead_valid=batch["lead_valid"][0],
        title=f"{prepared.name} {record}: context and targets",
    )
