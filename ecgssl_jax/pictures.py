"""Pictures of a run: its curves, and the records of its batches with their masks."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ecgssl_jax import plots, reporting
from ecgssl_jax.assembly import make_pipeline
from ecgssl_jax.data.prepared import PreparedSet, open_prepared
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
    (figure,) = draw_records(experiment, prepared, 1).values()
    return figure


def draw_records(
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
