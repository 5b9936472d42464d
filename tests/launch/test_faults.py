"""The main job on a disk that fills up, and killed over and over again."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import jax
import numpy as np
import pytest

from ecgssl_jax import reporting
from ecgssl_jax.checkpoint_reading import load_params
from tests.launch import jobs

STEPS = 600  # enough for twenty kills
SHORT = 150


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def start(root, workdir, processes=1, steps=STEPS):
    settings = {
        "steps": steps,
        "batch_size": 8,
        "log_every": 1,
        "checkpoint.every": 25,
        "evaluators.probe": None,
        "data.synthetic_records": 120,
        "data.root": root,
        "model": {"width": 32, "depth": 1, "num_heads": 2, "patch_size": 50},
        "method.predictor_depth": 1,
    }
    return jobs.start(settings, workdir, processes=processes)


def finish(job):
    """-> exit code, and what it said; kills it if it hangs."""
    watch = threading.Timer(jobs.LONGEST, jobs.stop, [job])
    watch.start()
    try:
        said = job.communicate()[0]
    finally:
        watch.cancel()
    return job.returncode, said


def outcome(workdir, last=STEPS):
    """-> parameters, steps in the log, and their losses."""
    tree, meta = load_params(workdir)
    assert meta["step"] == last
    found = [x for x in reporting.read_metrics(workdir) if "loss" in x]
    return tree, [x["step"] for x in found], [x["loss"] for x in found]


def assert_nothing_lost(workdir, whole, last=STEPS):
    tree, steps, losses = outcome(workdir, last)
    assert steps == list(range(1, last + 1))
    expected, _, expected_losses = whole
    assert losses == expected_losses
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def undisturbed(root, workdir, steps=STEPS):
    code, said = finish(start(root, workdir, steps=steps))
    assert code == 0, said
    return outcome(workdir, steps)


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    return undisturbed(root, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(
        command, capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_ends_the_job_with_a_word_and_costs_nothing(
    root, small_disk, tmp_path
):
    expected = undisturbed(root, tmp_path / "whole", SHORT)
    workdir = small_disk / "run"
    job = start(root, workdir, steps=SHORT)
    ballast = small_disk / "ballast"

    def saved():
        return any(path.name.isdigit() for path in workdir.glob("checkpoints/*"))

    # Once something is saved, nothing more fits.
    while not saved() and job.poll() is None:
        time.sleep(0.02)
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    code, said = finish(job)
    assert code == 1, said
    assert "No space left" in said and "Traceback" not in said, said
    ballast.unlink()
    code, said = finish(start(root, workdir, steps=SHORT))
    assert code == 0, said
    assert "continuing" in said
    assert_nothing_lost(workdir, expected, SHORT)


def kill_at_random(job, rng):
    """Kills one of its processes with -9, at its start or after some steps."""
    patience = rng.uniform(0, 4) if rng.random() < 0.2 else None
    steps = rng.randint(1, 40)
    begun = time.monotonic()
    while job.poll() is None:
        if patience is not None:
            if time.monotonic() - begun > patience:
                break
            time.sleep(0.05)
            continue
        line = job.stdout.readline()
        steps -= "step" in line and "loss" in line
        if steps == 0:
            time.sleep(rng.uniform(0, 0.02))
            break
    listed = subprocess.run(
        ["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=False
    )
    children = [int(x) for x in listed.stdout.split()]
    if children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(children), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_random_kills_cost_nothing(processes, root, whole, tmp_path):
    rng = random.Random(processes)
    kills = 0
    while kills < 20:
        job = start(root, tmp_path, processes)
        kill_at_random(job, rng)
        code, said = finish(job)
        if code == 0:
            pytest.fail(f"finished after {kills} kills: more steps are needed")
        assert code in (137, 1, 75), said
        kills += 1
    code, said = finish(start(root, tmp_path, processes))
    assert code == 0, said
    if processes == 1:
        assert_nothing_lost(tmp_path, whole)
    else:
        _, steps, losses = outcome(tmp_path)
        assert steps == list(range(1, STEPS + 1))
        np.testing.assert_allclose(losses, whole[2], rtol=1e-4)
