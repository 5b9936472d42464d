"""The loop in two processes, one device each, that do not see the same of the host."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ecgssl_jax import reporting
from ecgssl_jax.checkpoint_reading import load_params

ROOT = Path(__file__).resolve().parents[1]

# A linear model of one weight per lead. argv: address of the first process, number of
# this one, workdir, mesh axis with both devices, step at which SIGTERM comes to the
# second process (or -1), and the scores of this one's evaluations.
RUN = """
import dataclasses, json, os, signal, sys
import jax
address, number, workdir, axis, sigterm_at, scores = sys.argv[1:]
jax.distributed.initialize(address, 2, int(number))
import numpy as np
from ecgssl_jax.experiment import Checkpoints, Data, Experiment, Mesh
from ecgssl_jax.signals import Statistics
from ecgssl_jax.task import Task
from ecgssl_jax.train import train

class Linear:
    def init(self, rng, batch):
        return {"kernel": jax.random.normal(rng, (12, 2))}, {}

    def loss(self, params, extra, batch, rng):
        predicted = batch["ecg"].mean(axis=1) @ params["kernel"]
        return ((predicted - 1) ** 2).mean(), (extra, {})

    def after_update(self, params, extra, step):
        return extra

@dataclasses.dataclass(frozen=True)
class Scores:
    scores: list
    every: int = 4

    def run(self, state):
        yield "score", self.scores[int(state.step) // 4 - 1]

def batch_of(step):
    ecg = np.random.default_rng(step).normal(size=(8, 6, 12)).astype(np.float32)
    valid = np.ones((8, 12), bool)
    return {"ecg": ecg, "source": np.zeros(8, np.int32), "lead_valid": valid}

def batches(start, stop, rows):
    for step in range(start, stop):
        if step == int(sigterm_at) and number == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        yield {name: array[rows] for name, array in batch_of(step).items()}

tables = np.ones((1, 12), np.float32)
experiment = Experiment(
    steps=12, batch_size=8, data=Data(clip=None), model={}, method={}, log_every=1,
    mesh=Mesh(**{"data": 1, axis: 2}),
    checkpoint=Checkpoints(every=100, keep=3, best="probe/score"),
)
task = Task(
    method=Linear(), batches=batches, example=batch_of(0),
    statistics=Statistics(scale=tables, mean=0 * tables, std=tables),
    evaluators={"probe": Scores(json.loads(scores))},
)
train(experiment, task, workdir)
"""


def run_two(workdir, *, axis="data", sigterm_at=-1, scores=("[1, 2, 3]",) * 2):
    """-> exit codes and what each wrote to stderr."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=1"
    runs = [
        subprocess.Popen(
            [
                *[sys.executable, "-c", RUN, address, str(number), str(workdir)],
                *[axis, str(sigterm_at), scores[number]],
            ],
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": flags,
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        ends = [run.communicate(timeout=100)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    return [run.returncode for run in runs], "\n".join(ends)[-4000:]


@pytest.mark.parametrize("axis", ["data", "tensor"])
def test_a_signal_to_one_process_stops_both_on_any_mesh(tmp_path, axis):
    codes, err = run_two(tmp_path, axis=axis, sigterm_at=4)
    assert codes == [143, 143], err
    assert load_params(tmp_path)[1]["step"] == 5


def test_the_best_is_what_the_first_process_finds_best(tmp_path):
    codes, err = run_two(tmp_path, scores=("[1, 1, 2]", "[1, 1.001, 0.999]"))
    assert codes == [0, 0], err
    meta = load_params(tmp_path / "best")[1]
    assert (meta["step"], meta["best_score"]) == (12, 2)
    steps = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert steps == ["12", "4"]
    assert len(reporting.read_metrics(tmp_path)) == 15
