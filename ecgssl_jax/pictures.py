"""Pictures of a run: its curves, and the records of its batches with their masks."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ecgssl_jax import plots, reporting
from ecgssl_jax.assembly import make_mixture, make_pipeline
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals.views import TRANSFORMS, View, build_views, make_views


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
    data = experiment.data
    # Not `assembly.open_mixture`, which has all processes meet: only one of them draws.
    sets = [open_prepared(Path(data.root) / each.name) for each in data.components]
    (figure,) = draw_records(experiment, make_mixture(data, sets), 1).values()
    return figure


def draw_records(
    experiment: Experiment, mixture: Mixture, records: int
) -> dict[str, Figure]:
    """File name -> picture, of the first `records` rows of the batch of step 0.

    With views, also of each of them, in millivolts: before it is normalised.
    """
    batch = _first_batch(experiment, mixture, slice(records))
    views = {"": batch}
    for number, view in enumerate(build_views(experiment.views), 1):
        views[f"-view{number}"] = _transformed(batch, view, number, experiment, mixture)
    figures, ids = {}, mixture.column("record_id")
    for row, record in enumerate(batch["record"]):
        id = str(ids[record])
        for suffix, view in views.items():
            one = {name: values[row] for name, values in view.items()}
            name = f"{row:02d}-{re.sub(r'[^-.A-Za-z0-9_]+', '-', id)}{suffix}"
            title = f"{id}{suffix.replace('-', ', ')}"
            figures[name] = _draw(one, mixture, experiment, title)
    return figures


def draw_transforms(experiment: Experiment, mixture: Mixture) -> dict[str, Figure]:
    """Transform's name -> picture of it alone, with its defaults, on the first record.

    Those that do not fit the set are left out, with a message.
    """
    experiment = dataclasses.replace(experiment, masks=None)
    batch = _first_batch(experiment, mixture, slice(1))
    # The one setting without a default: half of what the run sees.
    needed = {"random_crop": {"seconds": experiment.data.crop / mixture.rate / 2}}
    figures = {}
    for number, name in enumerate(TRANSFORMS):
        try:
            ((step,),) = build_views([[(name, 1.0, needed.get(name, {}))]])
            changed = _transformed(batch, (step,), number, experiment, mixture)
        except ConfigError as error:
            reporting.say(f"left out {name}: {error}")
            continue
        one = {key: values[0] for key, values in changed.items()}
        figures[name] = _draw(one, mixture, experiment, name)
    return figures


def _first_batch(
    experiment: Experiment, mixture: Mixture, rows: slice
) -> dict[str, np.ndarray]:
    """Rows of the batch of step 0, in millivolts."""
    batch = make_pipeline(experiment, mixture).example()
    batch = {name: values[rows] for name, values in batch.items()}
    scales = np.array([prepared.scale for prepared in mixture.sets], np.float32)
    ecg = batch["ecg"].astype(np.float32) * scales[batch["source"], None, None]
    return batch | {"ecg": ecg}


def _transformed(
    batch: dict[str, np.ndarray],
    view: View,
    number: int,
    experiment: Experiment,
    mixture: Mixture,
) -> dict[str, np.ndarray]:
    """The batch, in millivolts, as one view shows it."""
    known = jax.tree.map(jnp.asarray, batch)
    means = np.stack([prepared.mean for prepared in mixture.sets])
    mean = means[batch["source"]][:, None, :]
    ((ecg, length),) = make_views(
        [view],
        jax.random.fold_in(jax.random.key(experiment.seed), number),
        # As in training, transforms see the distance from the leads' means.
        known["ecg"] - mean,
        known["lead_valid"],
        known.get("length"),
        rate=mixture.rate,
    )
    lengths = {} if length is None else {"length": np.asarray(length)}
    return batch | {"ecg": np.array(ecg) + mean} | lengths


def _draw(
    one: dict[str, np.ndarray], mixture: Mixture, experiment: Experiment, id: str
) -> Figure:
    """One row of a batch, in millivolts."""
    ecg = one["ecg"].copy()
    # What lies beyond the record's end is padding, not signal.
    ecg[one.get("length", len(ecg)) :] = np.nan
    prepared = mixture.sets[one["source"]]
    title = f"{prepared.name} {id}"
    labels = prepared.index["labels"][one["record"] - mixture.first[one["source"]]]
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
