"""Processes of one job: which GPUs they take, and what the loss of one looks like."""

import jax
import pytest

from ecgssl_jax import processes
from ecgssl_jax.settings import ConfigError

EIGHT = "0,1,2,3,4,5,6,7"


@pytest.mark.parametrize(
    ("tasks", "number", "visible", "on_node", "devices"),
    [
        ("1(x2)", "0", EIGHT, "8", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("2(x2)", "1", EIGHT, "8", [4, 5, 6, 7]),
        ("8", "3", EIGHT, "8", [3]),
        ("4", "3", "6,7", "8", [0, 1]),  # it sees its own
        ("4", "1", "0", "", [0]),
        ("2", "1", "", "8", None),
    ],
)
def test_a_task_of_slurm_takes_its_share_of_the_gpus(
    tasks, number, visible, on_node, devices
):
    environment = {
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_LOCALID": number,
        "CUDA_VISIBLE_DEVICES": visible,
        "SLURM_GPUS_ON_NODE": on_node,
    }
    assert processes._devices_of_task(environment) == devices


def test_without_slurm_jax_decides():
    assert processes._devices_of_task({"CUDA_VISIBLE_DEVICES": EIGHT}) is None


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something"), True),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), False),
    ],
)
def test_the_loss_of_another_is_told_by_the_error_or_its_cause(
    monkeypatch, error, lost
):
    assert not processes.lost_another(error)  # one process has no others
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert processes.lost_another(error) == lost
    try:
        raise RuntimeError("while saving") from error
    except RuntimeError as outer:
        assert processes.lost_another(outer) == lost


@pytest.mark.parametrize("port", ["", "0", "99999", "x"])
def test_an_address_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        processes.initialise(f"localhost:{port}", 2, 0)


def test_what_jax_does_not_find_out_is_a_line(monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConfigError, match="give --coordinator, --num_processes"):
        processes.initialise("auto", None, None)


@pytest.mark.parametrize("count", ["", "abc", "1"])
def test_odd_variables_are_no_job_of_several(monkeypatch, count):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", count)
    processes.initialise(None, None, None)
