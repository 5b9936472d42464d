"""A job of two nodes on a real SLURM: put back, told to stop, and killed on the way."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ecgssl_jax.checkpoint_reading import load_params
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from tests.launch import cluster

pytest.importorskip("submitit")
ROOT = Path(__file__).resolve().parents[2]
STEPS = 400


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    try:
        with cluster.running(tmp_path_factory.mktemp("slurm") / "cluster") as config:
            yield {**os.environ, "SLURM_CONF": str(config)}
    except cluster.UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Of a run of so many small steps, a checkpoint every hundred."""
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(64), root / "synthetic", report=lambda _: None)
    settings = {
        "model": dict(name="vit", width=8, depth=1, num_heads=1, patch_size=50),
        "method.projector": dict(hidden=(8,), out=8),
        "evaluators.probe": None,
        "batch_size": 8,
        "log_every": 1,
        "checkpoint.every": 100,
        "data.folds": None,
    }
    flags = [f"--config.{key}={value!r}" for key, value in settings.items()]
    return [f"--config=configs/simclr.py:root={root},steps={STEPS}", *flags]


class Job:
    """Submitted, and what can be done to it."""

    def __init__(self, environment, folder, arguments):
        self.environment, self.folder = environment, folder
        self.workdir = folder / "run"
        words = [sys.executable, "-m", "launch.slurm", "--nodes=2", "--time=30"]
        words += [
            f"--logs={folder / 'logs'}",
            "--env=JAX_PLATFORMS=cpu",
            "--env=XLA_FLAGS=",
        ]
        words += ["--", *arguments, f"--workdir={self.workdir}"]
        said = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        self.number = said.stdout.split()[1].rstrip(";")

    def call(self, *words):
        found = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    def step(self):
        try:
            lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
            return json.loads(lines[-1])["step"]
        except (OSError, IndexError, ValueError):
            return 0

    def wait_for_step(self, step, seconds=240):
        until = time.monotonic() + seconds
        while self.step() < step:
            assert time.monotonic() < until, self.logs()
            time.sleep(0.2)

    def wait_for_end(self, seconds=300):
        until = time.monotonic() + seconds
        while self.call("squeue", "-h", "-j", self.number, "-o", "%T"):
            assert time.monotonic() < until, self.logs()
            time.sleep(0.5)

    def logs(self):
        return "\n".join(
            path.read_text() for path in sorted((self.folder / "logs").glob("*.out"))
        )


def parameters(workdir):
    return {str(k): v for k, v in load_params(str(workdir / "checkpoints"))[0].items()}


# One test, since workers that run tests beside each other would each start a cluster.
def test_nothing_that_happens_to_a_job_changes_what_it_learns(
    slurm, arguments, tmp_path
):
    wrong = Job(slurm, tmp_path / "wrong", [*arguments, "--config.stepz=3"])
    wrong.wait_for_end()
    assert "stepz" in wrong.logs() and "back into the queue" not in wrong.logs()

    quiet = Job(slurm, tmp_path / "quiet", arguments)
    quiet.wait_for_step(STEPS)
    quiet.wait_for_end()

    job = Job(slurm, tmp_path / "stormy", arguments)
    job.wait_for_step(30)
    job.call("scontrol", "requeue", job.number)
    job.wait_for_step(120)
    job.call("scancel", "--signal=TERM", job.number)
    job.wait_for_step(220)
    # The newest of the processes that train in this workdir: a task of the job.
    job.call("pkill", "-KILL", "-n", "-f", f"workdir={job.workdir}$")
    job.wait_for_step(STEPS)
    job.wait_for_end()

    said = job.logs()
    assert said.count("stopped by a signal") == 2  # as the first process tells
    assert "code 143, back into the queue" in said
    assert "code 137, back into the queue" in said
    assert said.count(f"continuing {job.workdir} at step") == 3
    expected, found = parameters(quiet.workdir), parameters(job.workdir)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        for one, other in zip(leaves(value), leaves(found[name]), strict=True):
            np.testing.assert_array_equal(one, other)


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    return [np.asarray(tree)]
