"""What supervised training begins with: an encoder of another run, a probe on it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ecgssl_jax import processes, reporting, runs
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import probes
from ecgssl_jax.evaluation.budget import Budget, draw
from ecgssl_jax.evaluation.features import extract, make_feature_function, statistics_of
from ecgssl_jax.evaluation.provenance import learnt_from, selected_on
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.methods.base import Method
from ecgssl_jax.settings import ConfigError, changes
from ecgssl_jax.state import TrainState

# Of a model, what its parameters do not depend on.
_FREE = ("remat", "drop_path")
# Of the patients, those that select the probe's strength.
_HELD_OUT = Budget(share=0.1)


def make_start(
    experiment: Experiment,
    method: Method,
    mixture: Mixture,
    labels: tuple[np.ndarray, np.ndarray] | None,
    mesh: jax.sharding.Mesh,
) -> tuple[Callable[[TrainState], TrainState] | None, Mapping[str, Any]]:
    """-> what changes the first state (None for nothing), and what a checkpoint keeps.

    Args:
      labels: of the mixture's records [N, Y], and which are known.

    Raises:
      FileNotFoundError, CheckpointError: no such run, or a damaged one.
      ConfigError: an encoder of another shape or rate, or a method without classifier.
    """
    start = experiment.start
    if start.encoder is None and not start.probe:
        return None, {}
    if labels is None:
        raise ConfigError(
            f"config.start: the method {experiment.method['name']} learns from no "
            "labels; an encoder to begin with is for supervised training"
        )
    parts: list[Callable[[TrainState], TrainState]] = []
    meta: dict[str, Any] = {}
    if start.encoder is not None:
        trained = runs.load_encoder(start.encoder, start.checkpoint)
        check_same(experiment, mixture, trained.run)
        meta = {
            "checkpoint": str(trained.run.checkpoint),
            "step": trained.run.step,
            "data": dict(trained.run.data),
            "learnt_from": list(learnt_from(trained.method)),
            "selected_on": selected_on(trained.run),
            "began_with": dict(trained.run.began_with),
        }
        parts.append(functools.partial(_with_encoder, trained))
    if start.probe:
        fit = _Fit(experiment=experiment, method=method, mixture=mixture, mesh=mesh)
        parts.append(functools.partial(_with_probe, fit, *labels))

    def begin(state: TrainState) -> TrainState:
        for part in parts:
            state = part(state)
        return state

    return begin, meta


def check_same(experiment: Experiment, mixture: Mixture, run: runs.Run) -> None:
    """Raises ConfigError unless the run's encoder is the one that the config describes."""
    path = f"config.start.encoder: {run.checkpoint} has another model"
    was, is_now = (
        {key: value for key, value in each.model.items() if key not in _FREE}
        for each in (run.experiment, experiment)
    )
    differing = list(changes(was, is_now, "config.model"))
    if differing:
        raise ConfigError(
            f"{path} ({'; '.join(differing)}); give config.model as it was there"
        )
    name, rate = next((name, each["rate"]) for name, each in run.data.items())
    if rate != mixture.rate:
        raise ConfigError(
            f"config.start.encoder: trained at {rate:g} Hz ({name}), but "
            f"{mixture.sets[0].name} has {mixture.rate:g} Hz; prepare it again with "
            f"--rate={rate:g}"
        )


def _with_encoder(trained: runs.FrozenEncoder, state: TrainState) -> TrainState:
    """The state with the run's encoder in it."""
    params, statistics = trained.method.kept(*trained.parameters)
    where = f"{trained.run.checkpoint}: encoder"
    kept = [
        _like(tree["encoder"], runs.structured(found, tree["encoder"], where))
        for tree, found in ((state.params, params), (state.extra, statistics))
    ]
    reporting.say(
        f"beginning with the encoder of {trained.run.checkpoint}, after "
        f"{trained.run.step} steps"
    )
    return dataclasses.replace(
        state,
        params={**state.params, "encoder": kept[0]},
        extra={**state.extra, "encoder": kept[1]},
    )


def _like(former: Any, found: Any) -> Any:
    """The arrays of `found`, laid out over the devices as those of `former`."""

    def one(old: jax.Array, new: Any) -> jax.Array:
        new = np.asarray(new, old.dtype)
        return jax.make_array_from_callback(
            old.shape, old.sharding, lambda index: new[index]
        )

    return jax.tree.map(one, former, found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fit:
    """What a probe is fitted with."""

    experiment: Experiment
    method: Method
    mixture: Mixture
    mesh: jax.sharding.Mesh


def _with_probe(
    fit: _Fit, labels: np.ndarray, known: np.ndarray, state: TrainState
) -> TrainState:
    """The state with a classifier that is a linear probe on its encoder's features."""
    mixture = fit.mixture
    # Records whose labels say nothing are not encoded.
    records = mixture.records[known[mixture.records].any(axis=1)]
    reporting.say(f"fitting a linear probe to {len(records)} records to begin with")
    pooled = np.concatenate(
        [
            _encode(fit, state, prepared, records[inside] - first)
            for prepared, first, inside in _by_set(mixture, records)
        ]
    )
    patients = mixture.patients[records]
    held_out = draw(
        _HELD_OUT,
        patients,
        labels[records],
        known[records],
        population=int(mixture.patients.max()) + 1,
        seed=fit.experiment.seed,
    )
    try:
        probe = probes.linear_probe(
            pooled, labels[records], known=known[records], held_out=held_out
        )
    except ValueError as error:
        raise ConfigError(f"config.start.probe: {error}") from error
    # The probe standardises; the classifier does not.
    kernel = probe.weights * probe.scale[:, None]
    found = {"kernel": kernel, "bias": probe.bias - probe.mean @ kernel}
    found = {name: processes.array_of_first_process(x) for name, x in found.items()}
    classifier = _like(state.params["classifier"], {"out": found})
    return dataclasses.replace(state, params={**state.params, "classifier": classifier})


def _by_set(mixture: Mixture, records: np.ndarray):
    """(set, its first number, [n] bool: which of the records are its own)."""
    for prepared, first in zip(mixture.sets, mixture.first, strict=True):
        inside = (records >= first) & (records < first + len(prepared))
        if inside.any():
            yield prepared, first, inside


def _encode(
    fit: _Fit, state: TrainState, prepared: PreparedSet, rows: np.ndarray
) -> np.ndarray:
    data = fit.experiment.data
    return extract(
        make_feature_function(fit.method, fit.mesh, clip=data.clip),
        state.params,
        state.extra,
        prepared,
        rows,
        statistics=statistics_of([prepared]),
        crop=data.crop,
        batch_size=256,
        mesh=fit.mesh,
    )["pooled"]
