"""The one training loop: restore, step, log, evaluate, save.

The order within step s (counted from 0), in every run:
  1. take the batch of step s; dispatch the update;
  2. read the metrics of step s - 1, so that the device never waits for the host;
     stop if its loss or gradient was not finite (that update was not applied);
  3. log, evaluate and save what is due at step s + 1.

SIGTERM or Ctrl-C to any process travels with that process's rows of the next batch:
every process reads of it in the metrics of the same step, saves, and exits.
"""

import contextlib
import dataclasses
import functools
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from ecgssl_jax import reporting, sharding
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.evaluation.online import Evaluator
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.manifest import DamagedCheckpointError
from ecgssl_jax.methods.base import Method
from ecgssl_jax.optim import make_optimiser, schedules
from ecgssl_jax.settings import ConfigError, changes
from ecgssl_jax.signals import Statistics, prepare
from ecgssl_jax.state import TrainState, abstract_state, make_init

Batch = Mapping[str, Any]

_STOP = "stop_requested"
_SIGTERM_EXIT = 128 + signal.SIGTERM


class TrainingDiverged(RuntimeError):
    """A loss or gradient that is not finite; the update was not applied."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to train, on what: all that `train` needs besides the experiment.

    Attributes:
      method: the objective.
      statistics: of the prepared sets.
      example: one global batch, as `materialise` completes it; only its shapes and
        dtypes matter.
      batches: (start, stop, rows) -> an iterator of the batches of those steps, only
        the given rows of each; NumPy arrays. If it has a `close`, that is called
        however the run ends.
      evaluators: name -> evaluator.
      make_views: (rng, batch, statistics) -> the views of `config.views`, as the
        method has them; None where it asks for none.
      materialise: completes a batch within the step, such as by fetching its
        signals from `resident`; None where batches are complete.
      resident: () -> arrays that stay on the devices for `materialise`.
      meta: what the parameters belong to, such as the signals' sampling rate; kept
        in every checkpoint.
    """

    method: Method
    statistics: Statistics
    example: Batch
    batches: Callable[[int, int, slice], Iterator[Batch]]
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    make_views: Callable[[jax.Array, Batch, Statistics], Any] | None = None
    materialise: Callable[[Batch, Any], Batch] | None = None
    resident: Callable[[], Any] | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def train(
    experiment: Experiment,
    task: Task,
    workdir: str | Path,
    *,
    meta: Mapping[str, Any] | None = None,
) -> TrainState:
    """Trains, or continues, the experiment in `workdir`, and returns the last state.

    Args:
      meta: kept in every checkpoint beside `task.meta`; of "config", a continued run
        says what has changed.

    Raises:
      TrainingDiverged: at the first loss or gradient that is not finite.
      ConfigError: a batch or rules that do not fit the mesh; more steps in
        `workdir` than the experiment has, or a run on other data.
      CheckpointError: no intact checkpoint in `workdir`, or one of another model.
      CheckpointWriteError: a checkpoint could not be written.
      SystemExit: with code 143 after SIGTERM or Ctrl-C; the state is saved.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    meta = {**task.meta, **(meta or {})}

    # ---- Mesh ----
    mesh = sharding.make_mesh(experiment.mesh)
    accumulate = experiment.optim.accumulate
    sharding.check_batch(experiment.batch_size, mesh, accumulate=accumulate)
    batch_sharding = sharding.batch_sharding(mesh)
    rows = sharding.process_rows(batch_sharding, experiment.batch_size)

    # ---- State: shapes, then shardings, then arrays ----
    optimiser = make_optimiser(experiment.optim, experiment.steps)
    clip = experiment.data.clip
    init = make_init(task.method, optimiser, task.statistics, clip=clip)
    example = jax.eval_shape(dict, task.example)
    rules = experiment.rules or sharding.TRANSFORMER_RULES
    abstract = abstract_state(init, example, mesh, rules)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    # ---- Restore ----
    saved = Checkpointer(str(workdir / "checkpoints"), keep=experiment.checkpoint.keep)
    # Two, so that going back beyond the best one finds the one before.
    best = Checkpointer(str(workdir / "best"), keep=2)
    with contextlib.ExitStack() as stack:
        stack.callback(saved.close)
        stack.callback(best.close)
        restored = saved.restore(abstract)
        if restored is None:
            state, progress = _first_state(init, example, shardings, experiment), {}
        else:
            state, progress = restored
        start = int(state.step)
        best.discard_after(start)
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        reporting.say(
            f"{parameters / 1e6:.2f} M parameters, mesh {dict(mesh.shape)}, "
            f"{experiment.steps} steps of {experiment.batch_size}"
        )
        if start >= experiment.steps:
            _already_finished(workdir, start, experiment.steps)
            return state
        if start:
            reporting.say(f"continuing {workdir} at step {start}")
            _check_data(progress.get("data"), meta.get("data"), workdir)
            for part in ("config", "evaluated"):
                for change in changes(progress.get(part), meta.get(part), part):
                    reporting.say(f"changed since that step: {change}")
        if jax.process_index() == 0:
            reporting.write_description(workdir, {"start": start, **meta})

        # ---- Loop ----
        update = make_update(experiment, task, mesh, shardings)
        writer = reporting.MetricWriter(workdir, step=start)
        stack.callback(writer.close)
        loop = _Loop(
            experiment=experiment,
            task=task,
            saved=saved,
            best=best,
            writer=writer,
            clock=reporting.Clock(progress.get("elapsed_seconds", 0.0)),
            meta=meta,
            best_score=_score_of(best, meta),
        )
        stop = stack.enter_context(_stop_on_signal())
        resident = None if task.resident is None else task.resident()
        batches = task.batches(start, experiment.steps, rows)
        # Ends the pipeline's threads before the interpreter does.
        stack.callback(getattr(batches, "close", lambda: None))
        pending, stopping = None, False
        loop.clock.start()
        for step in range(start, experiment.steps):
            local = next(batches, None)
            if local is None:
                raise ValueError(f"the batches end before step {step + 1}")
            batch = sharding.to_devices(
                {**local, _STOP: np.full(rows.stop - rows.start, stop.is_set())},
                batch_sharding,
                experiment.batch_size,
                rows.start,
            )
            loop.clock.got_data()
            state, metrics = update(state, batch, resident)
            if step == start:
                loop.clock.start()  # compiling is not a step's time
            if pending is not None:
                stopping = loop.read(*pending)
            pending = (step + 1, metrics)
            due = stopping or loop.due(step + 1)
            if due:
                stopping |= loop.read(*pending)
                pending = None
            loop.clock.stepped()
            if due:
                loop.after(step + 1, state, save=stopping)
                loop.clock.start()
            if stopping and step + 1 < experiment.steps:
                best.wait()
                saved.wait()
                reporting.say(
                    f"stopped by a signal; step {step + 1} is saved, the same command "
                    "continues there"
                )
                raise SystemExit(_SIGTERM_EXIT)
        # While a signal still waits for what is being written.
        best.wait()
        saved.wait()
    return state


def _first_state(
    init: Callable, example: Batch, shardings: Any, experiment: Experiment
) -> TrainState:
    def first(rng):
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in example.items()}
        return init(rng, zeros)

    # With the step's own shardings, or the second step would compile again.
    return jax.jit(first, out_shardings=shardings)(jax.random.key(experiment.seed))


def _already_finished(workdir: Path, start: int, steps: int) -> None:
    if start > steps:
        raise ConfigError(
            f"config.steps: {steps}, but {workdir} holds a run of {start} steps; "
            "choose another workdir"
        )
    reporting.say(
        f"{workdir} has finished its {steps} steps; nothing to train. Choose another "
        "workdir for a new run"
    )


def _check_data(saved: Any, found: Any, workdir: Path) -> None:
    """Raises ConfigError unless the prepared set is the one that the run began with."""
    differing = list(changes(saved, found, "data"))
    if saved is not None and differing:
        raise ConfigError(
            f"{workdir} was trained on other data than the prepared set that is there "
            f"now ({'; '.join(differing)}); bring that set back, or choose another "
            "workdir"
        )


def _score_of(best: Checkpointer, meta: Mapping[str, Any]) -> float | None:
    """The score that the best checkpoint on disk has, which the next must exceed.

    None where it was scored by another metric, or by other evaluators.
    """
    try:
        saved = best.latest_meta()
    except DamagedCheckpointError as error:
        logging.error("%s; the next probe's takes its place", error)
        return None
    if saved is None:
        return None
    if any(changes(_scored_by(saved), _scored_by(meta))):
        return None
    return saved["best_score"]


def _scored_by(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What says how a run's checkpoints are scored: of its config, and the sets."""
    config = meta.get("config") or {}
    evaluators = {
        name: {key: value for key, value in (values or {}).items() if key != "every"}
        for name, values in (config.get("evaluators") or {}).items()
    }
    best = (config.get("checkpoint") or {}).get("best")
    sets = meta.get("evaluated") or {}
    return {"best": best, "evaluators": evaluators, "sets": sets}


def make_update(
    experiment: Experiment, task: Task, mesh: jax.sharding.Mesh, shardings: Any
) -> Callable[[TrainState, Batch, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted step: (state, batch, resident) -> state, metrics.

    It donates the state.
    """
    method, settings = task.method, experiment.optim
    optimiser = make_optimiser(settings, experiment.steps)
    learning_rate, weight_decay = schedules(settings, experiment.steps)

    def update(state: TrainState, batch: Batch, resident: Any):
        rng = jax.random.fold_in(jax.random.key(experiment.seed), state.step)
        batch = dict(batch)
        stopping = batch.pop(_STOP, np.zeros((), bool)).any()
        if task.materialise is not None:
            batch = dict(task.materialise(batch, resident))
        if task.make_views is not None:
            views_rng, rng = jax.random.split(rng)
            views = task.make_views(views_rng, batch, state.statistics)
            batch["views"] = views
        batch["ecg"] = prepare(batch, state.statistics, clip=experiment.data.clip)
        loss_and_gradient = jax.value_and_grad(method.loss, has_aux=True)
        loss, extra, metrics, gradient = _accumulate(
            loss_and_gradient, state, batch, rng, settings.accumulate
        )
        gradient_norm = optax.tree.norm(gradient)
        updates, optimiser_state = optimiser.update(
            gradient, state.optimiser, state.params
        )
        params = optax.apply_updates(state.params, updates)
        extra = method.after_update(params, extra, state.step + 1)
        healthy = state.healthy & jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            extra=extra,
            optimiser=optimiser_state,
        )
        new = jax.tree.map(functools.partial(jnp.where, healthy), new, state)
        metrics = {
            **metrics,
            "loss": loss,
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate(state.step),
            "weight_decay": weight_decay(state.step),
            "healthy": healthy,
            _STOP: stopping,
        }
        return dataclasses.replace(new, healthy=healthy), metrics

    everywhere = sharding.replicated(mesh)
    return jax.jit(update, donate_argnums=0, out_shardings=(shardings, everywhere))


def _accumulate(loss_and_gradient, state, batch, rng, parts: int):
    """Mean loss, metrics and gradient over micro-batches, one after the other."""
    if parts == 1:
        (loss, (extra, metrics)), gradient = loss_and_gradient(
            state.params, state.extra, batch, rng
        )
        return loss, extra, metrics, gradient

    def split(x):
        # Row r goes to part r mod parts: every device keeps its own rows.
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def one(carry, inputs):
        extra, total = carry
        part, number = inputs
        (loss, (extra, metrics)), gradient = loss_and_gradient(
            state.params, extra, part, jax.random.fold_in(rng, number)
        )
        total = jax.tree.map(lambda t, g: t + g / parts, total, gradient)
        return (extra, total), (loss, metrics)

    zero = jax.tree.map(jnp.zeros_like, state.params)
    (extra, gradient), (losses, metrics) = jax.lax.scan(
        one, (state.extra, zero), (jax.tree.map(split, batch), jnp.arange(parts))
    )
    return losses.mean(), extra, jax.tree.map(jnp.mean, metrics), gradient


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """What happens between steps, and what it remembers."""

    experiment: Experiment
    task: Task
    saved: Checkpointer
    best: Checkpointer
    writer: reporting.MetricWriter
    clock: reporting.Clock
    meta: dict[str, Any]
    best_score: float | None
    last: dict[str, float] = dataclasses.field(default_factory=dict)

    def read(self, step: int, metrics: Mapping[str, jax.Array]) -> bool:
        """Waits for a step's metrics; whether a process was asked to stop.

        Raises:
          TrainingDiverged: the step's loss or gradient is not finite.
        """
        values = {k: float(v) for k, v in jax.device_get(dict(metrics)).items()}
        stopping = bool(values.pop(_STOP))
        if not values.pop("healthy"):
            raise TrainingDiverged(
                f"training diverged at step {step}: loss {values['loss']}, gradient "
                f"norm {values['gradient_norm']}. The update was not applied; the last "
                f"checkpoint is step {self.saved.latest_step()}. Last metrics: "
                f"{json.dumps(self.last)}. Lower optim.learning_rate, set "
                "optim.clip_norm, or look at the records of this batch. If that "
                "checkpoint diverges again, move its folder away: the run then "
                "continues from the one before."
            )
        self.last = values
        return stopping

    def due(self, step: int) -> bool:
        """Whether anything happens after `step` updates."""
        every = [self.experiment.log_every, self.experiment.checkpoint.every]
        every += [e.every for e in self.task.evaluators.values()]
        return step == self.experiment.steps or any(step % n == 0 for n in every)

    def after(self, step: int, state: TrainState, *, save: bool) -> None:
        """Logs, evaluates and saves what is due after `step` updates."""
        is_last = step == self.experiment.steps
        if is_last or step % self.experiment.log_every == 0:
            rates = self.clock.report(self.experiment.batch_size)
            metrics = {**self.last, **rates}
            self.writer.write(step, metrics)
            line = reporting.progress_line(step, self.experiment.steps, metrics)
            reporting.say(line)
        for name, evaluator in self.task.evaluators.items():
            if is_last or step % evaluator.every == 0:
                values = {f"{name}/{k}": float(v) for k, v in evaluator.run(state)}
                self.writer.write(step, values)
                shown = "  ".join(f"{k} {v:.4f}" for k, v in values.items())
                reporting.say(f"step {step}  {shown}")
                self._keep_best(step, state, values)
        if save or is_last or step % self.experiment.checkpoint.every == 0:
            self.writer.sync()
            # Or a kill between the two could lose the best step for good: it is not
            # evaluated again once it is saved here.
            self.best.wait()
            self.saved.save(step, state, self._progress())

    def _keep_best(self, step: int, state: TrainState, values: Mapping[str, float]):
        score = values.get(self.experiment.checkpoint.best)
        if score is None or not math.isfinite(score):
            return
        if self.best_score is None or score > self.best_score:
            self.best_score = score
            self.best.save(step, state, self._progress())

    def _progress(self) -> dict[str, Any]:
        return {
            **self.meta,
            "seed": self.experiment.seed,
            "elapsed_seconds": self.clock.elapsed,
            "best_score": self.best_score,
        }


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the former handlers come back at the end.

    The second Ctrl-C ends the process at once.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number, frame):
        logging.warning("%s: saving after this step", signal.Signals(number).name)
        event.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = (signal.SIGTERM, signal.SIGINT)
    former = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in former.items():
            # None: installed by other than Python, as by JAX for several processes.
            signal.signal(number, handler or signal.SIG_DFL)
