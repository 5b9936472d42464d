"""From a checked experiment to what `train` runs: data, encoder, method, probes."""

import contextlib
import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax import (
    device_cache,
    methods,
    processes,
    reporting,
    settings,
    sharding,
)
from ecgssl_jax.data import masks as masks_lib
from ecgssl_jax.data.pipeline import Pipeline, check_crop, select_records
from ecgssl_jax.data.prepared import PreparedSet, open_prepared
from ecgssl_jax.data.text import Texts, encode_sets, open_vocabulary
from ecgssl_jax.evaluation.features import statistics_of
from ecgssl_jax.evaluation.labels import labels_of
from ecgssl_jax.evaluation.online import (
    PROBE_METRICS,
    Probe,
    ProbeSettings,
    make_probe,
    probe_settings,
)
from ecgssl_jax.experiment import Data, Experiment
from ecgssl_jax.methods.base import LabelShape, Method, TextShape
from ecgssl_jax.models.encoders import compute_dtype, make_encoder
from ecgssl_jax.settings import ConfigError, near
from ecgssl_jax.signals import prepare_views
from ecgssl_jax.signals.views import build_views, check_views
from ecgssl_jax.train import Task

EMBEDDED = "synthetic"

Masks = masks_lib.Multiblock | masks_lib.Blocks | masks_lib.Random


def open_set(data: Data, name: str) -> PreparedSet:
    """The prepared set `name`; the embedded one is made on first use.

    Raises:
      FileNotFoundError: it was never prepared; names the command that does.
      DamagedSetError: its files are not what was prepared.
    """
    path = Path(data.root) / name
    if name == EMBEDDED:
        processes.on_first_process(functools.partial(_prepare_embedded, data, path))
    return open_prepared(path)


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


def make_method(experiment: Experiment) -> Method:
    """The method that `config.method.name` names, on the config's encoder.

    Raises:
      ConfigError: no such method, or settings that it does not have.
    """
    values = dict(experiment.method)
    name = values.pop("name", None)
    known = [
        module.name
        for module in pkgutil.iter_modules(methods.__path__)
        if module.name not in ("base", "ema", "embeddings")
    ]
    if name not in known:
        raise ConfigError(
            f"config.method.name: unknown method {name!r}{near(str(name), known)}"
        )
    module = importlib.import_module(f"ecgssl_jax.methods.{name}")
    method_settings = settings.build(module.Settings, values, "config.method")
    encoder = make_encoder(experiment.model, dtype=compute_dtype(experiment.dtype))
    try:
        method = module.build(
            method_settings, encoder, steps=experiment.steps, masks=experiment.masks
        )
    except ValueError as error:
        raise ConfigError(f"config.method: {error}") from error
    if len(experiment.views) not in method.num_views:
        raise ConfigError(
            f"config.views: {name} takes {' or '.join(map(str, method.num_views))} "
            f"views of a record, found {len(experiment.views)}"
        )
    if method.couples_rows and experiment.optim.accumulate > 1:
        raise ConfigError(
            f"config.optim.accumulate: {name} compares all rows of a batch, which "
            "cannot be split into micro-batches; leave it at 1 and save memory with "
            "config.model.remat=True, or by more devices"
        )
    return method


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
    try:
        return masks_lib.build(kind, num_patches, **values), num_patches
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.masks: {error}") from error


def make_pipeline(
    experiment: Experiment,
    prepared: PreparedSet,
    text: TextShape | None = None,
    labels: LabelShape | None = None,
) -> Pipeline:
    """The batches of the run, with texts and labels where they are asked for.

    Raises:
      ConfigError: the set does not fit.
    """
    masks, num_patches = make_masks(experiment)
    data = experiment.data
    check_crop(prepared, data.crop)
    return Pipeline(
        prepared=prepared,
        data=data,
        records=select_records(prepared, data.folds),
        masks=masks,
        num_patches=num_patches,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        labels=None if labels is None else make_labels(prepared, labels),
        texts=None if text is None else make_texts(prepared, text),
    )


def make_labels(
    prepared: PreparedSet, shape: LabelShape
) -> tuple[np.ndarray, np.ndarray]:
    """A task's labels of all records [N, Y], and which are known.

    Raises:
      ConfigError: the set has no such task, or another number of labels.
    """
    try:
        found = labels_of(prepared, shape.task)
    except ConfigError as error:
        raise ConfigError(f"config.method.task: {error}") from error
    if len(found.classes) != shape.num_labels:
        raise ConfigError(
            f"config.method.num_labels: {shape.num_labels}, but task {shape.task!r} of "
            f"{prepared.name} has {len(found.classes)} labels"
        )
    labels = np.zeros((len(prepared), shape.num_labels), np.int8)
    known = np.zeros(labels.shape, bool)
    labels[found.rows], known[found.rows] = found.labels, found.valid
    return labels, known


def make_texts(prepared: PreparedSet, text: TextShape) -> Texts:
    """The set's reports as tokens.

    Raises:
      ConfigError: a set without reports, or a vocabulary larger than the method's.
    """
    vocabulary = open_vocabulary(prepared)
    if vocabulary.size > text.vocabulary_size:
        raise ConfigError(
            f"config.method.vocabulary_size: {text.vocabulary_size}, but the vocabulary "
            f"of {prepared.name} has {vocabulary.size} tokens; set it to at least that"
        )
    (texts,) = encode_sets([prepared], vocabulary, text.length)
    has_text = texts.ids >= 0
    distinct = len(np.unique(texts.ids[has_text]))
    reporting.say(
        f"texts: {has_text.sum()} of {len(texts.ids)} records have one, {distinct} are "
        f"distinct, {texts.share_cut:.1%} are cut to {text.length} tokens"
    )
    return texts


def make_task(experiment: Experiment) -> Task:
    """Checks the config, opens the data and builds everything.

    What can be checked without data comes first; nothing is compiled, and no signal
    is read.

    Raises:
      ConfigError: a config that cannot be run.
      FileNotFoundError, DamagedSetError: as `open_set`.
    """
    method = make_method(experiment)
    make_masks(experiment)
    views = build_views(experiment.views)
    mesh = sharding.make_mesh(experiment.mesh)
    accumulate = experiment.optim.accumulate
    sharding.check_batch(experiment.batch_size, mesh, accumulate=accumulate)
    probes = {
        name: probe_settings(values, f"config.evaluators.{name}")
        for name, values in experiment.evaluators.items()
    }
    check_best(experiment, probes)
    prepared = open_set(experiment.data, experiment.data.name)
    check_views(
        views,
        samples=experiment.data.crop,
        leads=len(prepared.leads),
        rate=prepared.rate,
    )
    pipeline = make_pipeline(experiment, prepared, method.text, method.labels)
    evaluators = make_evaluators(experiment, probes, prepared, method, mesh)
    reporting.say(
        f"data {prepared.name}: {len(pipeline.records)} records at {prepared.rate:g} "
        f"Hz, crops of {experiment.data.crop / prepared.rate:g} s"
    )
    task = Task(
        method=method,
        statistics=statistics_of([prepared]),
        example=pipeline.shapes(),
        batches=pipeline.batches,
        evaluators=evaluators,
        meta={
            "data": describe_data(prepared),
            "evaluated": {
                name: describe_data(evaluator.prepared)
                for name, evaluator in evaluators.items()
            },
        },
    )
    if views:
        make_views = functools.partial(
            prepare_views, views, rate=prepared.rate, clip=experiment.data.clip
        )
        task = dataclasses.replace(task, make_views=make_views)
    if experiment.data.cache != "device":
        return task
    return dataclasses.replace(
        task,
        resident=functools.partial(
            device_cache.load_set, prepared, pipeline.records, mesh
        ),
        materialise=device_cache.make_materialise(
            mesh, crop=experiment.data.crop, leads=len(prepared.leads)
        ),
    )


def describe_data(prepared: PreparedSet) -> dict[str, Any]:
    """What a checkpoint keeps of a set that it was trained or evaluated on."""
    return {
        "name": prepared.name,
        "rate": prepared.rate,
        "leads": list(prepared.leads),
        "content_hash": prepared.metadata["content_hash"],
    }


def make_evaluators(
    experiment: Experiment,
    probes: Mapping[str, ProbeSettings],
    prepared: PreparedSet,
    method: Method,
    mesh: Any,
) -> dict[str, Probe]:
    """Name -> evaluator; each on the prepared set that its settings name.

    Args:
      prepared: the set to train on, whose sampling rate the probes' sets must have.
    """
    evaluators = {}
    for name, probe in probes.items():
        path = f"config.evaluators.{name}"
        probed = open_set(experiment.data, probe.data)
        if probed.rate != prepared.rate:
            raise ConfigError(
                f"{path}.data: {probed.name} has {probed.rate:g} Hz, the set to train "
                f"on, {prepared.name}, {prepared.rate:g} Hz; prepare one of them with "
                "the other's --rate"
            )
        check_crop(probed, experiment.data.crop)
        evaluators[name] = make_probe(
            probe,
            path,
            prepared=probed,
            method=method,
            crop=experiment.data.crop,
            clip=experiment.data.clip,
            mesh=mesh,
        )
    return evaluators


def check_best(experiment: Experiment, probes: Mapping[str, ProbeSettings]) -> None:
    """Raises ConfigError if no evaluator yields the metric of `checkpoint.best`."""
    best = experiment.checkpoint.best
    known = [f"{name}/{metric}" for name in probes for metric in PROBE_METRICS]
    if known and best not in known:
        raise ConfigError(
            f"config.checkpoint.best: no evaluator yields {best!r}{near(best, known)}"
        )
