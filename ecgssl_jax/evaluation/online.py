"""Evaluators: plug-ins that are run during training and yield (name, value)."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from ecgssl_jax.data.pipeline import select_records
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import collapse, metrics, probes, ptbxl
from ecgssl_jax.evaluation.features import extract, make_feature_function
from ecgssl_jax.evaluation.labels import Labels, labels_of
from ecgssl_jax.methods.base import Method
from ecgssl_jax.settings import ConfigError, build, near
from ecgssl_jax.state import TrainState

# What a probe yields.
PROBE_METRICS = ("macro_auroc", "rankme", "feature_std")


class Evaluator(Protocol):
    """`every` steps, and after the last one, `run` yields (name, value)."""

    @property
    def every(self) -> int: ...

    def run(self, state: TrainState) -> Iterator[tuple[str, float]]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """`config.evaluators.<name>` of kind 'probe'.

    A ridge regression on the mean-pooled features of a labelled prepared set, and
    whether those features have collapsed.

    Attributes:
      every: steps between runs.
      data: name of the prepared set, under `config.data.root`.
      train_folds, valid_folds: of that set.
      task: one of `evaluation.ptbxl.TASKS`, or 'labels': the set's own labels.
      max_records: of each of the two parts, at most; drawn once.
    """

    kind: str = "probe"
    every: int = 500
    data: str = "synthetic"
    train_folds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    valid_folds: tuple[int, ...] = (9,)
    task: str = "labels"
    max_records: int = 4000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """Macro AUROC of a ridge probe, and monitors of collapse."""

    settings: ProbeSettings
    prepared: PreparedSet
    train: Labels
    valid: Labels
    function: Any
    crop: int
    mesh: jax.sharding.Mesh

    @property
    def every(self) -> int:
        return self.settings.every

    def run(self, state: TrainState) -> Iterator[tuple[str, float]]:
        embed = functools.partial(
            extract,
            self.function,
            state.params,
            state.extra,
            self.prepared,
            crop=self.crop,
            batch_size=256,
            mesh=self.mesh,
        )
        train, valid = self.train, self.valid
        known, pooled = (embed(part.rows)["pooled"] for part in (train, valid))
        if not (np.isfinite(known).all() and np.isfinite(pooled).all()):
            # The loop stops at the next loss, with what it knows of the step.
            yield from ((name, float("nan")) for name in PROBE_METRICS)
            return
        probe = probes.ridge_probe(known, train.labels, labels_valid=train.valid)
        macro = metrics.macro_auroc(probe.logits(pooled), valid.labels, valid.valid)
        yield "macro_auroc", macro.value
        yield "rankme", float(collapse.rankme(pooled))
        yield "feature_std", float(pooled.std(axis=0).mean())


def probe_settings(values: Mapping[str, Any], path: str) -> ProbeSettings:
    """The settings at `path` of the config, without their set checked yet.

    Raises:
      ConfigError: another kind of evaluator, or settings that a probe does not have.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected a mapping, found {values!r}")
    kind = values.get("kind", "probe")
    if kind != "probe":
        raise ConfigError(f"{path}.kind: unknown evaluator {kind!r}; known are probe")
    settings = build(ProbeSettings, values, path)
    if settings.every < 1:
        raise ConfigError(f"{path}.every: expected at least 1, found {settings.every}")
    if settings.max_records < 1:
        raise ConfigError(
            f"{path}.max_records: expected at least 1, found {settings.max_records}"
        )
    known = ["labels", *ptbxl.TASKS]
    if settings.task not in known:
        raise ConfigError(
            f"{path}.task: unknown task {settings.task!r}{near(settings.task, known)}"
        )
    return settings


def make_probe(
    settings: ProbeSettings,
    path: str,
    *,
    prepared: PreparedSet,
    method: Method,
    crop: int,
    clip: float | None,
    mesh: jax.sharding.Mesh,
) -> Probe:
    """The evaluator on an opened set; raises ConfigError where they do not fit."""
    try:
        labels = labels_of(prepared, settings.task)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    rng = np.random.default_rng(0)

    def part(name: str) -> Labels:
        folds = getattr(settings, name)
        chosen = select_records(prepared, folds, path=f"{path}.{name}")
        places = np.flatnonzero(np.isin(labels.rows, chosen))
        places = np.sort(rng.permutation(places)[: settings.max_records])
        part = dataclasses.replace(
            labels,
            rows=labels.rows[places],
            labels=labels.labels[places],
            valid=labels.valid[places],
        )
        positive, negative = (
            (part.valid & (part.labels == value)).any(axis=0) for value in (1, 0)
        )
        if not (positive & negative).any():
            raise ConfigError(
                f"{path}.{name}: no label of {prepared.name} has known positives and "
                f"negatives among the {len(places)} labelled records of folds "
                f"{list(folds)}; take more folds, or leave the probe out with "
                f"{path}=None"
            )
        return part

    return Probe(
        settings=settings,
        prepared=prepared,
        train=part("train_folds"),
        valid=part("valid_folds"),
        function=make_feature_function(method, mesh, clip=clip, tokens=False),
        crop=crop,
        mesh=mesh,
    )
