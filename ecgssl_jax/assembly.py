"""From a checked experiment to what `train` runs: data, encoder, method, probes."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax import device_cache, processes, reporting, sharding
from ecgssl_jax.annotations import check_batches, labelled_part, make_labels, make_texts
from ecgssl_jax.build_method import make_method
from ecgssl_jax.data import masks as masks_lib
from ecgssl_jax.data.host_cache import check_memory
from ecgssl_jax.data.mixture import Mixture, check_crop, select_records
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.data.prepared import PreparedSet, open_prepared
from ecgssl_jax.data.text import Texts, shared_vocabulary
from ecgssl_jax.evaluation.features import statistics_of
from ecgssl_jax.evaluation.labels import labels_of
from ecgssl_jax.evaluation.online import (
    PREDICTIONS,
    PROBE_METRICS,
    Probe,
    ProbeSettings,
    evaluator_settings,
    make_probe,
)
from ecgssl_jax.experiment import EMBEDDED, Data, Experiment
from ecgssl_jax.methods.base import Method
from ecgssl_jax.settings import ConfigError, near
from ecgssl_jax.signals import prepare_views
from ecgssl_jax.signals.views import build_views, check_views
from ecgssl_jax.start import make_start
from ecgssl_jax.step import check_shapes
from ecgssl_jax.task import Task

Masks = masks_lib.Multiblock | masks_lib.Blocks | masks_lib.Random


def open_set(data: Data, name: str) -> PreparedSet:
    """The prepared set `name`; the embedded one is made on first use.

    Raises:
      FileNotFoundError: it was never prepared; names the command that does.
      DamagedSetError: its files are not what was prepared.
    """
    path = Path(data.root) / name
    if name != EMBEDDED:
        return open_prepared(path)
    processes.on_first_process(functools.partial(_prepare_embedded, data, path))
    prepared = open_prepared(path)
    if len(prepared) != data.synthetic_records:
        reporting.say(
            f"{path} was made before, of {len(prepared)} records and not of "
            f"{data.synthetic_records}; delete it to have it made anew"
        )
    return prepared


def _prepare_embedded(data: Data, path: Path) -> None:
    if path.exists():
        return
    # The generator is slow to import and needed here only.
    from ecgssl_jax.data.readers.synthetic import synthetic_source
    from ecgssl_jax.data.workers import usable_cores
    from ecgssl_jax.data.writing import prepare_dataset

    reporting.say(f"making {data.synthetic_records} synthetic ECGs in {path}")
    source = synthetic_source(data.synthetic_records)
    # Another run may be making it at this moment: then that one is waited for.
    with contextlib.suppress(FileExistsError):
        prepare_dataset(source, path, wait=True, workers=usable_cores())


def make_masks(experiment: Experiment) -> tuple[Masks | None, int]:
    """-> what to mask, and N: the patches of a crop, 0 for models without.

    Raises:
      ConfigError: a patch size that does not divide the crop, an unknown kind of
        masks, or settings that do not fit it or the number of patches.
    """
    crop, patch_size = experiment.data.crop, experiment.model.get("patch_size")
    if patch_size and crop % patch_size:
        raise ConfigError(
            f"config.model.patch_size: {patch_size} does not divide the crop of "
            f"{crop} samples (config.data.crop)"
        )
    num_patches = crop // patch_size if patch_size else 0
    if experiment.masks is None:
        return None, num_patches
    if not num_patches:
        raise ConfigError("config.masks: masks need a model with a patch_size")
    values = dict(experiment.masks)
    kind = values.pop("kind", None)
    return masks_lib.build(kind, num_patches, **values), num_patches


def open_mixture(data: Data) -> Mixture:
    """The records to train on; raises as `open_set` and `make_mixture`."""
    return make_mixture(data, [open_set(data, each.name) for each in data.components])


def make_mixture(data: Data, sets: Sequence[PreparedSet]) -> Mixture:
    """The records to train on, out of the opened sets of `data.components`.

    Raises:
      ConfigError: a set that does not fit the crop, the others, or its folds.
    """
    rows = []
    for number, (component, prepared) in enumerate(
        zip(data.components, sets, strict=True)
    ):
        check_crop(prepared, data.crop)
        if data.rate not in (None, prepared.rate):
            raise ConfigError(
                f"config.data.rate: {data.rate:g} Hz, but {prepared.name} has "
                f"{prepared.rate:g} Hz; prepare it with --rate={data.rate:g}, or set "
                f"rate={prepared.rate:g} and suit data.crop ({data.crop} samples), and "
                "model.patch_size where there is one, to that"
            )
        path = f"config.data.mixture[{number}]" if data.mixture else "config.data"
        rows.append(select_records(prepared, component.folds, path=f"{path}.folds"))
    weights = [component.weight for component in data.components]
    return Mixture(
        sets=tuple(sets),
        rows=tuple(rows),
        weights=tuple(
            len(part) if weight is None else weight
            for part, weight in zip(rows, weights, strict=True)
        ),
    )


def make_pipeline(
    experiment: Experiment,
    mixture: Mixture,
    *,
    texts: Texts | None = None,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> Pipeline:
    """The batches of the run, with texts and labels where they are given.

    Raises:
      ConfigError: masks or labels that do not fit.
    """
    masks, num_patches = make_masks(experiment)
    return Pipeline(
        mixture=mixture,
        crop=experiment.data.crop,
        cache=experiment.data.cache,
        masks=masks,
        num_patches=num_patches,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        labels=labels,
        texts=texts,
    )


def make_task(experiment: Experiment, before: Mapping[str, Any] | None = None) -> Task:
    """Checks the config, opens the data and builds everything.

    What can be checked without data comes first; nothing is compiled, and no signal
    is read.

    Args:
      before: of a run that is continued, its checkpoint's `meta`; what it began with
        is not looked at again.

    Raises:
      ConfigError: a config that cannot be run.
      FileNotFoundError, DamagedSetError: as `open_set`.
    """
    method = make_method(experiment)
    make_masks(experiment)
    views = build_views(experiment.views)
    mesh = sharding.make_mesh(experiment.mesh)
    accumulate = experiment.optim.accumulate
    sharding.check_batch(experiment.batch_size, mesh.shape, accumulate=accumulate)
    probes = evaluator_settings(experiment.evaluators)
    check_best(experiment, probes, method)
    data = experiment.data
    mixture = open_mixture(data)
    check_views(views, samples=data.crop, leads=len(mixture.leads), rate=mixture.rate)
    texts, tokens = None, {}
    if method.text is not None:
        vocabulary = shared_vocabulary(mixture.sets)
        tokens = {"vocabulary": vocabulary.as_json()}
        reports = list(mixture.column("text"))
        texts = make_texts(reports, vocabulary, method.text, mixture.records)
    labels = None
    if method.labels is not None:
        labels = make_labels(mixture.sets, method.labels)
        by_size = all(each.weight is None for each in data.components)
        mixture = labelled_part(mixture, labels, method.labels, by_size=by_size)
    pipeline = make_pipeline(experiment, mixture, texts=texts, labels=labels)
    check_batches(experiment, method, pipeline)
    if data.cache == "host":
        check_memory(mixture)
    evaluators = make_evaluators(experiment, probes, mixture, method, mesh)
    check_yielded(experiment, evaluators)
    report_data(experiment, mixture)
    if before:
        begin, started = None, before.get("began_with", {})
    else:
        begin, started = make_start(experiment, method, mixture, pipeline.labels, mesh)
    task = Task(
        method=method,
        statistics=statistics_of(mixture.sets),
        example=pipeline.shapes(),
        batches=pipeline.batches,
        evaluators=evaluators,
        start=begin,
        meta={
            "began_with": started,
            "labels": list(label_names(method, mixture)),
            "records": len(mixture.records),
            "data": describe_mixture(data, mixture),
            "evaluated": {
                name: describe_data(evaluator.prepared)
                for name, evaluator in evaluators.items()
            },
        },
        tokens=tokens,
    )
    if views:
        make_views = functools.partial(
            prepare_views, views, rate=mixture.rate, clip=data.clip
        )
        task = dataclasses.replace(task, make_views=make_views)
    check_shapes(experiment, task)
    if data.cache != "device":
        return task
    return dataclasses.replace(
        task,
        resident=functools.partial(device_cache.load_records, mixture, mesh),
        materialise=device_cache.make_materialise(
            mesh, crop=data.crop, leads=len(mixture.leads)
        ),
    )


def report_data(experiment: Experiment, mixture: Mixture) -> None:
    """A line for each set: what is trained on, and its share of the batches."""
    data = experiment.data
    parts = zip(mixture.sets, mixture.rows, mixture.shares, strict=True)
    for prepared, rows, share in parts:
        line = (
            f"data {prepared.name}: {len(rows)} records at {prepared.rate:g} Hz, crops "
            f"of {data.crop / prepared.rate:g} s"
        )
        if len(mixture.sets) > 1:
            line += f", {share:.1%} of the rows"
        epochs = experiment.steps * experiment.batch_size * share / len(rows)
        reporting.say(f"{line}, {epochs:.3g} epochs")


def label_names(method: Method, mixture: Mixture) -> tuple[str, ...]:
    """Of the labels that the method learns, in their order; () for none."""
    if method.labels is None:
        return ()
    return labels_of(mixture.sets[0], method.labels.task).classes


def describe_data(prepared: PreparedSet) -> dict[str, Any]:
    """What a checkpoint keeps of a set that it was trained or evaluated on."""
    return {
        "name": prepared.name,
        "rate": prepared.rate,
        "leads": list(prepared.leads),
        "content_hash": prepared.metadata["content_hash"],
    }


def describe_mixture(data: Data, mixture: Mixture) -> dict[str, Any]:
    """What a run may not change: of each set, by its name in the config."""
    parts = zip(data.components, mixture.sets, strict=True)
    return {
        component.name: {
            **describe_data(prepared),
            "folds": component.folds and list(component.folds),
            # In which order, because statistics and rows go by it.
            "source": number,
        }
        for number, (component, prepared) in enumerate(parts)
    }


def make_evaluators(
    experiment: Experiment,
    probes: Mapping[str, ProbeSettings],
    mixture: Mixture,
    method: Method,
    mesh: Any,
) -> dict[str, Probe]:
    """Name -> evaluator; each on the prepared set that its settings name.

    Args:
      mixture: what is trained on, whose sampling rate the probes' sets must have.
    """
    evaluators = {}
    for name, probe in probes.items():
        path = f"config.evaluators.{name}"
        probed = open_set(experiment.data, probe.data)
        if probed.rate != mixture.rate:
            raise ConfigError(
                f"{path}.data: {probed.name} has {probed.rate:g} Hz, the set to train "
                f"on, {mixture.sets[0].name}, {mixture.rate:g} Hz; prepare one of them "
                "with the other's --rate"
            )
        check_crop(probed, experiment.data.crop)
        evaluators[name] = make_probe(
            probe,
            path,
            prepared=probed,
            method=method,
            classes=label_names(method, mixture),
            crop=experiment.data.crop,
            clip=experiment.data.clip,
            mesh=mesh,
        )
    return evaluators


def check_best(
    experiment: Experiment, probes: Mapping[str, ProbeSettings], method: Method
) -> None:
    """Raises ConfigError if no evaluator yields the metric of `checkpoint.best`."""
    best = experiment.checkpoint.best
    metrics = [*PROBE_METRICS, *([] if method.labels is None else [PREDICTIONS])]
    known = [f"{name}/{metric}" for name in probes for metric in metrics]
    if known and best not in known:
        raise ConfigError(
            f"config.checkpoint.best: no evaluator yields {best!r}{near(best, known)}"
        )


def check_yielded(experiment: Experiment, evaluators: Mapping[str, Probe]) -> None:
    """Raises ConfigError if the evaluator of `checkpoint.best` cannot yield its metric.

    Such as that of predictions of labels that its set has not.
    """
    name, _, metric = experiment.checkpoint.best.partition("/")
    if name not in evaluators or metric in evaluators[name].metrics:
        return
    found = [f"{name}/{each}" for each in evaluators[name].metrics]
    raise ConfigError(
        f"config.checkpoint.best: {experiment.checkpoint.best} cannot be had of "
        f"{evaluators[name].prepared.name}, its labels and the folds of "
        f"config.evaluators.{name}; take one of {', '.join(found)}"
    )
