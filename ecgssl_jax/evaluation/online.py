"""The evaluator that is run during training: a probe (`evaluation.base`)."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ecgssl_jax.data.mixture import select_records
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import collapse, metrics, probes
from ecgssl_jax.evaluation.features import extract, make_feature_function, statistics_of
from ecgssl_jax.evaluation.labels import KNOWN_TASKS, Labels, labels_of
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.methods.base import Method
from ecgssl_jax.settings import ConfigError, build, near
from ecgssl_jax.state import TrainState

# What a probe yields; the last one of methods that learn from labels.
PROBE_METRICS = ("macro_auroc", "rankme", "feature_std")
PREDICTIONS = "predictions_auroc"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """`config.evaluators.<name>` of kind 'probe'.

    A ridge regression on the mean-pooled features of a labelled prepared set, and
    whether those features have collapsed.

    Attributes:
      every: steps between runs.
      data: name of the prepared set, under `config.data.root`.
      train_folds, valid_folds: of that set. Without any to train on, there is no probe,
        but the macro AUROC of the predictions of a method that learns from labels.
      task: one of `evaluation.ptbxl.TASKS`, 'labels', the set's own, or 'every'.
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
    """Macro AUROC of a ridge probe, and monitors of collapse.

    Of a method that learns from labels, where the set has them, also that of its own
    predictions: `own`, of the validation records.
    """

    settings: ProbeSettings
    prepared: PreparedSet
    train: Labels | None
    valid: Labels
    own: Labels | None
    function: Any
    crop: int
    mesh: jax.sharding.Mesh

    @property
    def every(self) -> int:
        return self.settings.every

    @property
    def metrics(self) -> tuple[str, ...]:
        """What `run` yields."""
        probed = PROBE_METRICS if self.train is not None else PROBE_METRICS[1:]
        return (*probed, *([] if self.own is None else [PREDICTIONS]))

    def run(self, state: TrainState) -> Iterator[tuple[str, float]]:
        embed = functools.partial(
            extract,
            self.function,
            state.params,
            state.extra,
            self.prepared,
            statistics=statistics_of([self.prepared]),
            crop=self.crop,
            batch_size=256,
            mesh=self.mesh,
        )
        train, valid, own = self.train, self.valid, self.own
        found = embed(valid.rows)
        pooled = found["pooled"]
        trained = None if train is None else embed(train.rows)["pooled"]
        if not all(np.isfinite(x).all() for x in (trained, pooled) if x is not None):
            # The loop stops at the next loss, with what it knows of the step.
            yield from ((name, float("nan")) for name in self.metrics)
            return
        if train is not None and trained is not None:
            probe = probes.ridge_probe(trained, train.labels, known=train.known)
            macro = metrics.macro_auroc(probe.logits(pooled), valid.labels, valid.known)
            yield "macro_auroc", macro.value
        yield "rankme", float(collapse.rankme(pooled))
        yield "feature_std", float(pooled.std(axis=0).mean())
        if own is not None:
            logits = found["logits"][np.searchsorted(valid.rows, own.rows)]
            yield PREDICTIONS, metrics.macro_auroc(logits, own.labels, own.known).value


def evaluator_settings(evaluators: Mapping[str, Any]) -> dict[str, ProbeSettings]:
    """Name -> settings of `config.evaluators`, without their sets checked yet.

    Raises:
      ConfigError: another kind of evaluator, or settings that a probe does not have.
    """
    return {
        name: _probe_settings(values, f"config.evaluators.{name}")
        for name, values in evaluators.items()
    }


def selecting_probe(experiment: Experiment) -> tuple[str, ProbeSettings] | None:
    """Name and settings of the probe that marks the best checkpoint.

    The first one where none does, None where there is none.
    """
    found = evaluator_settings(experiment.evaluators)
    name = experiment.checkpoint.best.partition("/")[0]
    if name not in found:
        name = next(iter(found), name)
    return (name, found[name]) if name in found else None


def _probe_settings(values: Mapping[str, Any], path: str) -> ProbeSettings:
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
    both = sorted(set(settings.train_folds) & set(settings.valid_folds))
    if both:
        raise ConfigError(
            f"{path}: folds {both} are in train_folds and in valid_folds; a probe must "
            "not select checkpoints by what it was trained on"
        )
    if settings.task not in KNOWN_TASKS:
        hint = near(settings.task, KNOWN_TASKS)
        raise ConfigError(f"{path}.task: unknown task {settings.task!r}{hint}")
    return settings


def make_probe(
    settings: ProbeSettings,
    path: str,
    *,
    prepared: PreparedSet,
    method: Method,
    classes: Sequence[str] = (),
    crop: int,
    clip: float | None,
    mesh: jax.sharding.Mesh,
) -> Probe:
    """The evaluator on an opened set; raises ConfigError where they do not fit.

    Args:
      classes: the labels that the method learns, in their order.
    """
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
        part = labels.take(places)
        if not _kinds(part).all(axis=0).any():
            raise ConfigError(
                f"{path}.{name}: no label of {prepared.name} has known positives and "
                f"negatives among the {len(places)} labelled records of folds "
                f"{list(folds)}; take more folds, or leave the probe out with "
                f"{path}=None"
            )
        return part

    train = part("train_folds") if settings.train_folds else None
    valid = part("valid_folds")
    own = _own_labels(method, classes, prepared, valid.rows)
    if train is None and own is None:
        raise ConfigError(
            f"{path}.train_folds: there are none, and the method predicts no label of "
            f"{prepared.name} that could be scored instead"
        )
    return Probe(
        settings=settings,
        prepared=prepared,
        train=train,
        valid=valid,
        own=own,
        function=make_feature_function(method, mesh, clip=clip),
        crop=crop,
        mesh=mesh,
    )


def _own_labels(
    method: Method, classes: Sequence[str], prepared: PreparedSet, rows: np.ndarray
) -> Labels | None:
    """Of these records, the labels that the method learns; None where there are none."""
    if method.labels is None:
        return None
    try:
        labels = labels_of(prepared, method.labels.task)
    except ConfigError:
        return None
    own = labels.take(np.flatnonzero(np.isin(labels.rows, rows)))
    return (
        own if own.classes == tuple(classes) and _kinds(own).all(axis=0).any() else None
    )


def _kinds(labels: Labels) -> np.ndarray:
    """[2, Y] bool: whether a known record has the label, and whether one has not."""
    return np.stack(
        [(labels.known & (labels.labels == value)).any(axis=0) for value in (1, 0)]
    )
