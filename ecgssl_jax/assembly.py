"""From a checked experiment to what `train` runs: data, encoder, method, probes."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from ecgssl_jax import methods, settings, sharding
from ecgssl_jax.data import masks as masks_lib
from ecgssl_jax.data.pipeline import Pipeline, check_crop, select_records
from ecgssl_jax.data.prepared import PreparedSet, open_prepared
from ecgssl_jax.evaluation.features import statistics_of
from ecgssl_jax.evaluation.online import Probe, make_probe
from ecgssl_jax.experiment import Data, Experiment
from ecgssl_jax.methods.base import Method
from ecgssl_jax.models.encoders import compute_dtype, make_encoder
from ecgssl_jax.settings import ConfigError, near
from ecgssl_jax.train import Task


def open_set(data: Data, name: str) -> PreparedSet:
    """The prepared set `name`; the embedded one is made on first use."""
    path = Path(data.root) / name
    if name == "synthetic" and not path.exists():
        from ecgssl_jax.data.publishing import prepare_synthetic

        prepare_synthetic(path, num_records=data.synthetic_records)
    return open_prepared(path)


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
        if module.name not in ("base", "ema")
    ]
    if name not in known:
        raise ConfigError(
            f"config.method.name: unknown method {name!r}{near(str(name), known)}"
        )
    module = importlib.import_module(f"ecgssl_jax.methods.{name}")
    method_settings = settings.build(module.Settings, values, "config.method")
    encoder = make_encoder(experiment.model, dtype=compute_dtype(experiment.dtype))
    try:
        return module.build(method_settings, encoder, steps=experiment.steps)
    except ValueError as error:
        raise ConfigError(f"config.method: {error}") from error


def make_pipeline(experiment: Experiment, prepared: PreparedSet) -> Pipeline:
    """The batches of the run; raises ConfigError where the set does not fit."""
    data = experiment.data
    check_crop(prepared, data.crop)
    patch_size = experiment.model.get("patch_size")
    num_patches, masks = 0, None
    if patch_size:
        if data.crop % patch_size:
            raise ConfigError(
                f"config.model.patch_size: {patch_size} does not divide the crop of "
                f"{data.crop} samples (config.data.crop)"
            )
        num_patches = data.crop // patch_size
    if experiment.masks is not None:
        if not num_patches:
            raise ConfigError("config.masks: masks need a model with a patch_size")
        values = dict(experiment.masks)
        kind = values.pop("kind", None)
        try:
            masks = masks_lib.build(kind, num_patches, **values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"config.masks: {error}") from error
    return Pipeline(
        prepared=prepared,
        data=data,
        records=select_records(prepared, data.folds),
        masks=masks,
        num_patches=num_patches,
        seed=experiment.seed,
        batch_size=experiment.batch_size,
    )


def make_task(experiment: Experiment) -> Task:
    """Opens the data and builds everything; nothing is trained yet."""
    method = make_method(experiment)
    mesh = sharding.make_mesh(experiment.mesh)
    sharding.check_batch(experiment.batch_size // experiment.optim.accumulate, mesh)
    evaluators = make_evaluators(experiment, method, mesh)
    prepared = open_set(experiment.data, experiment.data.name)
    pipeline = make_pipeline(experiment, prepared)
    return Task(
        method=method,
        statistics=statistics_of([prepared]),
        example=pipeline.example(),
        batches=pipeline.batches,
        evaluators=evaluators,
    )


def make_evaluators(
    experiment: Experiment, method: Method, mesh: Any
) -> dict[str, Probe]:
    """Name -> evaluator; each on the prepared set that its settings name."""
    evaluators = {}
    for name, values in experiment.evaluators.items():
        path = f"config.evaluators.{name}"
        kind = values.get("kind", "probe")
        if kind != "probe":
            raise ConfigError(f"{path}.kind: unknown evaluator {kind!r}; known: probe")
        evaluators[name] = make_probe(
            values,
            path,
            prepared=open_set(experiment.data, values.get("data", "synthetic")),
            method=method,
            crop=experiment.data.crop,
            clip=experiment.data.clip,
            mesh=mesh,
        )
    return evaluators
