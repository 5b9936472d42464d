"""The one training loop: restore, step, log, evaluate, save.

The order within step s (counted from 0), in every run:
  1. take the batch of step s; dispatch the update;
  2. read the metrics of step s - 1, so that the device never waits for the host;
     stop if its loss or gradient was not finite (that update was not applied);
  3. log, evaluate and save what is due at step s + 1.

SIGTERM or Ctrl-C to any process travels beside the next batch, in the entries of that
process's devices: every process reads of it in the metrics of the same step, saves,
and exits.
"""

import contextlib
import dataclasses
import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging

from ecgssl_jax import processes, reporting, sharding
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.checkpoint_manifest import DamagedCheckpointError
from ecgssl_jax.errors import UserError
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.settings import ConfigError, changes
from ecgssl_jax.state import TrainState
from ecgssl_jax.step import STOP, Setup, set_up
from ecgssl_jax.task import Batch, Task, closing
from ecgssl_jax.watchdog import Watchdog

_SIGTERM_EXIT = 128 + signal.SIGTERM
# Of a config, what a run keeps to its end: with another it would be none of the two.
_FIXED = ("seed", "method", "masks", "views", "start")
# Of the parameters, a share that should have been divided.
_MUCH = 0.2


class TrainingDiverged(UserError, RuntimeError):
    """A loss or gradient that is not finite; the update was not applied."""


class DeviceMemoryError(UserError, RuntimeError):
    """A run that the memory of the devices is too small for."""


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
        `workdir` than the experiment has, or another run (`_check_same_run`).
      CheckpointError: no intact checkpoint in `workdir`, or one of another model.
      CheckpointWriteError: a checkpoint could not be written.
      DeviceMemoryError: a device has too little memory.
      SystemExit: with code 143 after SIGTERM or Ctrl-C; the state is saved.

    Where `stall_seconds` are spent in waiting for a batch, for the metrics of a step, for
    an evaluator, or for a checkpoint to be read or saved, the process ends with code 75.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    meta = {**task.meta, **(meta or {})}
    kept = {**meta, "tokens": task.tokens}  # of checkpoints; too much for run.json

    setup = set_up(experiment, task)
    with _exhausted_memory_explained(experiment), contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(experiment.stall_seconds))
        # ---- Restore ----
        keep = experiment.checkpoint.keep
        saved = Checkpointer(str(workdir / "checkpoints"), keep=keep)
        stack.callback(saved.close)
        # Two, so that going back beyond the best one finds the one before.
        best = Checkpointer(str(workdir / "best"), keep=2)
        stack.callback(best.close)
        # By the newest, though it may turn out to be damaged: before its arrays, which
        # would only say that they differ.
        with contextlib.suppress(DamagedCheckpointError):
            _check_same_run(saved.latest_meta() or {}, kept, workdir)
        with watchdog.waiting("the checkpoint was not read by all processes"):
            restored = saved.restore(setup.abstract)
        state, progress = restored or (_first(setup, task), {})
        start = int(state.step)
        with watchdog.waiting("other processes did not begin"):
            best.discard_after(start)
        _say_sizes(experiment, setup, state.params)
        _check_same_run(progress, kept, workdir)
        if start:
            _say_changes(start, progress, kept)
        if start >= experiment.steps:
            _already_finished(workdir, start, experiment.steps)
            return state
        if start:
            reporting.say(f"continuing {workdir} at step {start}")
        if jax.process_index() == 0:
            reporting.write_description(workdir, {"start": start, **meta})

        # ---- Loop ----
        writer = reporting.MetricWriter(workdir, step=start)
        stack.callback(writer.close)
        loop = _Loop(
            experiment=experiment,
            task=task,
            saved=saved,
            best=best,
            writer=writer,
            watchdog=watchdog,
            clock=reporting.Clock(progress.get("elapsed_seconds", 0.0)),
            meta=kept,
            best_score=_score_of(best, meta),
        )
        stop = stack.enter_context(_stop_on_signal())
        resident = None if task.resident is None else task.resident()
        # Closed, the pipeline's threads end before the interpreter does.
        batches = stack.enter_context(
            closing(task.batches(start, experiment.steps, setup.rows))
        )
        return _make_steps(loop, setup, state, start, batches, resident, stop)


def _say_sizes(experiment: Experiment, setup: Setup, params: Any) -> None:
    parameters = sum(x.size for x in jax.tree.leaves(params))
    reporting.say(
        f"{parameters / 1e6:.2f} M parameters, mesh {dict(setup.mesh.shape)} of "
        f"{setup.mesh.devices.flat[0].device_kind}, "
        f"{experiment.steps} steps of {experiment.batch_size}"
    )
    whole = sharding.whole_share(params, setup.mesh)
    if whole > _MUCH:
        reporting.say(
            f"config.mesh: each device holds {whole:.0%} of the parameters whole, of "
            "whose dimensions none is a multiple of fsdp or tensor; smaller axes "
            "divide more"
        )


def _say_changes(start: int, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for part in ("config", "evaluated"):
        for change in changes(then.get(part), now.get(part), part):
            reporting.say(f"changed since step {start}: {change}")


def _first(setup: Setup, task: Task) -> TrainState:
    """The state of step 0."""
    state = setup.first()
    return state if task.start is None else task.start(state)


def _make_steps(
    loop: "_Loop",
    setup: Setup,
    state: TrainState,
    start: int,
    batches: Iterator[Batch],
    resident: Any,
    stop: threading.Event,
) -> TrainState:
    """All steps from `start` on, in the order that this file's docstring gives."""
    steps = loop.experiment.steps
    calm, alarmed = (
        sharding.one_for_each_device(flag, setup.mesh) for flag in (False, True)
    )
    pending, stopping = None, False
    watchdog = loop.watchdog
    loop.clock.start()
    for step in range(start, steps):
        with watchdog.waiting("the data brought no batch"):
            local = next(batches, None)
        if local is None:
            raise ValueError(f"the batches end before step {step + 1}")
        batch = setup.put(local)
        loop.clock.got_data()
        signalled = alarmed if stop.is_set() else calm
        state, metrics = setup.update(state, batch, resident, signalled)
        if step == start:
            loop.clock.start()  # compiling is not a step's time
        with watchdog.waiting("neither devices nor other processes finished a step"):
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
        if stopping and step + 1 < steps:
            loop.wait()
            reporting.say(
                f"stopped by a signal; step {step + 1} is saved, the same command "
                "continues there"
            )
            raise SystemExit(_SIGTERM_EXIT)
    # While a signal still waits for what is being written.
    loop.wait()
    return state


def _check_same_run(
    before: Mapping[str, Any], now: Mapping[str, Any], workdir: Path
) -> None:
    """Whether a run may continue one that left a checkpoint.

    Args:
      before: of that checkpoint, its `meta`; empty where there is none.
      now: of this run, what it will save as such.

    Raises:
      ConfigError: another objective or seed, or other prepared sets, folds or tokens.
    """
    elsewhere = "choose another workdir for this one"
    former, config = (meta.get("config") or {} for meta in (before, now))
    was, is_now = ((each.get("method") or {}).get("name") for each in (former, config))
    if before and was != is_now:
        raise ConfigError(
            f"{workdir} holds a run of the method {was!r}, not of {is_now!r}; "
            f"{elsewhere}"
        )
    for part in _FIXED if before else ():
        path = f"config.{part}"
        differing = list(changes(former.get(part), config.get(part), path))
        if differing:
            raise ConfigError(
                f"{workdir} holds a run with another {part} ({'; '.join(differing)}); "
                f"{elsewhere}"
            )
    if "data" in before:
        sets = [tuple(meta.get("data") or ()) for meta in (before, now)]
        differing = [f"the sets {' and '.join(map(str, sets))}"]
        if sets[0] == sets[1]:
            differing = list(changes(before["data"], now.get("data"), "data"))
        if differing:
            raise ConfigError(
                f"{workdir} was trained on other data than this run would be "
                f"({'; '.join(differing)}); give it the sets and folds that it began "
                f"with, or {elsewhere}"
            )
    if "tokens" in before and any(changes(before["tokens"], now["tokens"])):
        # Not what differs: a vocabulary is as long as a book.
        raise ConfigError(
            f"{workdir} was trained with another vocabulary than the prepared sets "
            "give now: what it learnt of a token would go to another one; bring back "
            "the sets and the version of this package that the run began with, or "
            f"{elsewhere}"
        )


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


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """What happens between steps, and what it remembers."""

    experiment: Experiment
    task: Task
    saved: Checkpointer
    best: Checkpointer
    writer: reporting.MetricWriter
    watchdog: Watchdog
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
        stopping = bool(values.pop(STOP))
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

    def wait(self) -> None:
        """Blocks until all that is being saved is on disk."""
        with self._saving():
            self.best.wait()
            self.saved.wait()

    def _saving(self) -> contextlib.AbstractContextManager[None]:
        return self.watchdog.waiting("a checkpoint was not saved by all processes")

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
                with self.watchdog.waiting(f"the evaluator {name} did not finish"):
                    found = list(evaluator.run(state))
                values = {f"{name}/{key}": float(value) for key, value in found}
                self.writer.write(step, values)
                shown = "  ".join(f"{k} {v:.4f}" for k, v in values.items())
                reporting.say(f"step {step}  {shown}")
                self._keep_best(step, state, values)
        if save or is_last or step % self.experiment.checkpoint.every == 0:
            self.writer.sync()
            # Or a kill between the two could lose the best step for good: it is not
            # evaluated again once it is saved here.
            with self._saving():
                self.best.wait()
                self.saved.save(step, state, self._progress())

    def _keep_best(self, step: int, state: TrainState, values: Mapping[str, float]):
        score = values.get(self.experiment.checkpoint.best)
        if score is None:
            return
        better = self.best_score is None or score > self.best_score
        # Every process fits a probe of its own, and rounds it in its own way; but they
        # save together.
        with self._saving():
            if processes.of_first_process(better and math.isfinite(score)):
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
def _exhausted_memory_explained(experiment: Experiment) -> Iterator[None]:
    """Raises DeviceMemoryError where JAX finds no memory on a device."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found = str(error).splitlines()[0][:300]
        ways = [
            f"Lower config.batch_size, now {experiment.batch_size}",
            (
                "compute each step in parts, by config.optim.accumulate="
                f"{2 * experiment.optim.accumulate}, where the method allows it"
            ),
        ]
        if experiment.model.get("remat") != "full":
            ways.append("compute activations twice, by config.model.remat='full'")
        if experiment.data.cache == "device":
            ways.append(
                "keep the data set out of that memory, by config.data.cache='host'"
            )
        raise DeviceMemoryError(
            f"the memory of a device is exhausted ({found}). {'; or '.join(ways)}"
        ) from error


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that signals to stop set; the former handlers come back at the end.

    SIGTERM, SIGINT, and those by which SLURM tells that the time is nearly over.

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

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    former = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in former.items():
            # None: installed by other than Python, as by JAX for several processes.
            signal.signal(number, handler or signal.SIG_DFL)
