"""Metrics to JSONL, TensorBoard and the console; the run's clock."""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import logging

from ecgssl_jax.errors import UserError

METRICS = "metrics.jsonl"
_TENSORBOARD = "tensorboard"
_PACKAGES = (
    "ecgssl_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-cpu",
    "tensorflow",
    "tensorflow-datasets",
)


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that are whole.

    A last line that was cut short, as a kill leaves it, is left out without a word:
    its step is made again. Any other damaged line is left out with a warning.
    """
    path = Path(workdir) / METRICS
    if not path.exists():
        return []
    *texts, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    # Every line ends with a newline: what follows the last one was cut short.
    lines = [_parse_line(text) for text in texts]
    for number in [n for n, line in enumerate(lines, 1) if line is None]:
        logging.warning("%s: left out line %d, which is damaged", path, number)
    return [line for line in [*lines, _parse_line(last)] if line is not None]


def _parse_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return None
    numbers = all(x is None or isinstance(x, int | float) for x in line.values())
    return line if numbers else None


class LogWriteError(UserError, OSError):
    """Metrics could not be written."""


class MetricWriter:
    """Appends lines of {"step": s, name: value} to JSONL and TensorBoard.

    Opening it for a run that continues at `step` drops every line beyond that step,
    so that the logs are those of one uninterrupted run. Only the first process
    writes.
    """

    def __init__(self, workdir: str | Path, *, step: int):
        self._file = self._tensorboard = None
        if jax.process_index() != 0:
            return
        # The writer itself: `SummaryWriter` has a thread of its own, with which errors
        # get lost.
        from tensorboardX.event_file_writer import EventsWriter

        workdir = Path(workdir)
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        temporary = workdir / f"{METRICS}.new"
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, workdir / METRICS)
        # Event files cannot be cut: they are written anew.
        folder = workdir / _TENSORBOARD
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.*"):
            old.unlink()
        self._tensorboard = EventsWriter(str(folder / "events"))
        for line in kept:
            self._to_tensorboard(line)
        self._file = (workdir / METRICS).open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line; values that are not finite are written as null.

        Raises:
          LogWriteError: the disk is full, or gone.
        """
        if self._file is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = {"step": step, **finite}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._to_tensorboard(line)
        except OSError as error:
            raise LogWriteError(
                f"metrics could not be written to {self._file.name}: {error}. Make room "
                "there or look at its rights; the same command then continues from the "
                "last checkpoint that is whole"
            ) from error

    def sync(self) -> None:
        """Has the lines on disk before the checkpoint that relies on them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _to_tensorboard(self, line: Mapping[str, Any]) -> None:
        from tensorboardX.proto import event_pb2, summary_pb2

        assert self._tensorboard is not None
        summary = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        values = [
            summary.Value(tag=name, simple_value=value)
            for name, value in line.items()
            if name != "step" and value is not None
        ]
        event = event_pb2.Event(  # pyright: ignore[reportAttributeAccessIssue]
            wall_time=time.time(), step=line["step"], summary=summary(value=values)
        )
        self._tensorboard.write_event(event)
        self._tensorboard.flush()

    def close(self) -> None:
        """Ends both; what was written is on its way to the disk already."""
        for each in (self._file, self._tensorboard):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.close()


class Clock:
    """Splits the time of the steps into waiting for data and computing."""

    def __init__(self, elapsed: float = 0.0):
        """`elapsed`: seconds of training before an interruption."""
        self._mark = time.perf_counter()
        self._begin = self._mark - elapsed
        self._waiting = self._stepping = 0.0
        self._steps = 0

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, evaluations and saves included."""
        return time.perf_counter() - self._begin

    def start(self) -> None:
        """Begins a step: what went before (evaluation, saving) is not its time."""
        self._mark = time.perf_counter()

    def got_data(self) -> None:
        """The batch is there."""
        self._waiting += self._lap()

    def stepped(self) -> None:
        """The step was dispatched and the one before it has finished."""
        self._lap()
        self._steps += 1

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        self._stepping += lap
        return lap

    def report(self, batch_size: int) -> dict[str, float]:
        """Rates since the last report."""
        seconds, steps = max(self._stepping, 1e-9), max(self._steps, 1)
        rates = {
            "samples_per_second": batch_size * self._steps / seconds,
            "step_seconds": seconds / steps,
            "data_wait_seconds": self._waiting / steps,
            "compute_seconds": (seconds - self._waiting) / steps,
            "data_wait_share": self._waiting / seconds,
            "elapsed_seconds": self.elapsed,
        }
        self._waiting = self._stepping = 0.0
        self._steps = 0
        return rates


def progress_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """One console line: loss, samples/s, share of waiting, time left."""
    left = metrics["step_seconds"] * (steps - step)
    minutes, seconds = divmod(round(left), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"step {step:>{len(str(steps))}}/{steps}  loss {metrics['loss']:.4f}  "
        f"{metrics['samples_per_second']:,.0f} samples/s  "
        f"data {100 * metrics['data_wait_share']:.0f} %  "
        f"left {hours}:{minutes:02d}:{seconds:02d}"
    )


def say(text: str) -> None:
    """Prints on the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def write_description(workdir: Path, described: Mapping[str, Any]) -> None:
    """run.json: `described`, versions, devices, command and git revision.

    What it held before, of the parts of the run up to here, is kept under "earlier".
    """
    path = workdir / "run.json"
    earlier: list[Any] = []
    if path.exists():
        with contextlib.suppress(ValueError):  # somebody's edit
            former = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(former, dict):
                before = former.pop("earlier", [])
                earlier = [*(before if isinstance(before, list) else []), former]
    document = {**described, **describe_run(), "earlier": earlier}
    # A kill must not cost what it held before.
    written = path.with_suffix(".json.partial")
    written.write_text(json.dumps(document, indent=2, default=str), encoding="utf-8")
    written.replace(path)


def describe_run() -> dict[str, Any]:
    """Versions, devices, command and git revision, to be kept beside a run."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    return {
        "versions": versions,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "command": sys.argv,
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of the checkout this package runs from, '+' if it was changed."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    return revision and revision + ("+" if git("status", "--porcelain") else "")
