"""One run on two processes, then on one, then on four, each time on another mesh."""

import re
import signal
import threading

import numpy as np
import pytest

from ecgssl_jax import reporting
from tests.launch import jobs

STEPS = 45
SETTINGS = dict(
    {"data.synthetic_records": 120, "evaluators.probe": None},
    steps=STEPS,
    batch_size=16,
    log_every=1,
    model={"width": 32, "depth": 2, "num_heads": 2, "patch_size": 50},
)
# Processes, devices of each, the mesh, and after which step it is told to stop.
TWO = (2, 2, dict(data=2, fsdp=2))
ONE = (1, 1, dict(data=1))
FOUR = (4, 1, dict(data=1, fsdp=2, tensor=2))
LEGS = ((*TWO, 10), (*ONE, 25), (*FOUR, None))
SHORT = ((*TWO, 10), (*ONE, None))


def run(root, workdir, processes, devices, mesh, stop):
    """-> exit code, and what the job printed."""
    flags = {**SETTINGS, "data.root": str(root)}
    flags |= {f"mesh.{axis}": size for axis, size in mesh.items()}
    job = jobs.start(flags, workdir, processes=processes, devices=devices)
    said = []
    watch = threading.Timer(jobs.LONGEST, jobs.stop, [job])
    watch.start()
    try:
        assert job.stdout is not None
        for line in job.stdout:
            said.append(line)
            if f"step {stop}/" in re.sub(" +", " ", line):
                job.send_signal(signal.SIGTERM)
        return job.wait(timeout=60), "".join(said)
    finally:
        watch.cancel()
        jobs.stop(job)


def losses(workdir):
    found = [x for x in reporting.read_metrics(workdir) if "loss" in x]
    return [x["step"] for x in found], np.array([x["loss"] for x in found])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("legs", [SHORT, pytest.param(LEGS, marks=pytest.mark.slow)])
def test_a_run_continues_on_other_numbers_of_processes(root, tmp_path, legs):
    code, said = run(root, tmp_path / "one", 1, 1, dict(data=1), None)
    assert code == 0, said
    for number, leg in enumerate(legs):
        code, said = run(root, tmp_path / "legs", *leg)
        assert code == (143 if leg[-1] else 0), said
        if number:
            assert "continuing" in said
    steps, found = losses(tmp_path / "legs")
    assert steps == list(range(1, STEPS + 1))
    expected = losses(tmp_path / "one")[1]
    assert len(np.unique(expected)) > STEPS / 2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
