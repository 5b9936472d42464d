"""What ends because nothing comes, and what does not."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ecgssl_jax.watchdog import Watchdog

ROOT = Path(__file__).resolve().parents[1]


class Ends:
    """Takes messages in the place of ending the process."""

    def __init__(self):
        self.messages = []
        self.came = threading.Event()

    def __call__(self, message):
        self.messages.append(message)
        self.came.set()


def test_a_long_wait_ends_with_its_reason():
    ends = Ends()
    watchdog = Watchdog(0.05, end=ends, look=0.01)
    with watchdog, watchdog.waiting("nothing came"):
        assert ends.came.wait(20)
    (message,) = ends.messages
    assert message.startswith("nothing came in 0.05 s; the same command continues")


def test_short_waits_and_work_between_them_do_not():
    ends = Ends()
    with Watchdog(30, end=ends, look=0.001) as watchdog:
        for _ in range(20):
            with watchdog.waiting("nothing came"):
                time.sleep(0.002)
        time.sleep(0.05)
    assert not ends.messages


def test_time_outside_of_waits_does_not_count():
    ends = Ends()
    with Watchdog(0.02, end=ends, look=0.001) as watchdog:
        with watchdog.waiting("nothing came"):
            pass
        time.sleep(0.2)
    assert not ends.messages


def test_while_the_process_is_stopped_time_stands_still(monkeypatch):
    ends = Ends()
    times = iter([0.0, *(1000.0 * n for n in range(1, 6))])
    monkeypatch.setattr(
        "ecgssl_jax.watchdog.time.monotonic", lambda: next(times, 5000.0)
    )
    watchdog = Watchdog(30, end=ends, look=0.001)
    with watchdog, watchdog.waiting("nothing came"):
        assert not ends.came.wait(0.3)


def test_none_is_started_without_a_limit():
    before = threading.active_count()
    with Watchdog(0) as watchdog, watchdog.waiting("nothing came"):
        assert threading.active_count() == before


@pytest.mark.parametrize("stalls", ["data", "device"])
def test_a_run_that_stalls_ends_with_75_and_says_where(stalls, tmp_path):
    """On the loop itself, with a method of one weight."""
    program = f"""
import time
import numpy as np
from tests.test_step import Linear, batch_of
import dataclasses, jax, jax.numpy as jnp
from ecgssl_jax.experiment import Checkpoints, Data, Experiment
from ecgssl_jax.signals import Statistics
from ecgssl_jax.task import Task
from ecgssl_jax.train import train

class Method(Linear):
    def loss(self, params, extra, batch, rng):
        loss, rest = super().loss(params, extra, batch, rng)
        def wait(x):
            if {stalls!r} == "device" and x[0] == 3:
                time.sleep(60)
            return np.float32(0)
        number = batch["record"].astype(jnp.float32)
        zero = jax.pure_callback(wait, jax.ShapeDtypeStruct((), np.float32), jax.lax.stop_gradient(number))
        return loss + jax.lax.stop_gradient(zero), rest

def batches(start, stop, rows):
    for step in range(start, stop):
        if {stalls!r} == "data" and step == 3:
            time.sleep(60)
        yield dict(batch_of(step), record=np.full(8, step, np.int32))

tables = np.ones((1, 12), np.float32)
experiment = Experiment(
    steps=9, batch_size=8, data=Data(clip=None), model={{}}, method={{}}, log_every=1,
    stall_seconds=0.5, checkpoint=Checkpoints(every=2),
)
task = Task(
    method=Method(), batches=batches, example=dict(batch_of(0), record=np.zeros(8, np.int32)),
    statistics=Statistics(scale=tables, mean=0 * tables, std=tables),
)
train(experiment, task, {str(tmp_path)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 75, done.stderr[-2000:]
    expected = {
        "data": "error: the data brought no batch in 0.5 s",
        "device": "error: neither devices nor other processes finished a step in 0.5 s",
    }
    assert expected[stalls] in done.stderr
