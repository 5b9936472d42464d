"""Several processes that train together, and what the first of them does for all."""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from ecgssl_jax.launched import check_platform, end_with_launcher
from ecgssl_jax.settings import ConfigError

# Preparing a data set is what the others may have to wait for.
_WAIT_SECONDS = 6 * 3600
# Variables of launchers that start several tasks; JAX reads the rest itself.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# What XLA, Gloo and JAX's service for jobs say where another process is gone.
_GONE = re.compile(
    r"gloo|connection (reset|closed|refused)|coordination|heartbeat|barrier|"
    r"deadline_exceeded|unavailable",
    re.IGNORECASE,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """By which launchers tell a process what it is."""
    add = parser.add_argument
    add("--coordinator", help="HOST:PORT of the first process, or auto")
    add("--num_processes", type=int, help="of the job")
    add("--process_id", type=int, help="this one's number, from 0")


def initialise(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of one job; to be called before anything uses a device.

    With no arguments a job of several tasks under SLURM or Open MPI is recognised;
    anything else is a job of one process. 'auto' has JAX find out, as on TPU pods.

    Args:
      coordinator: HOST:PORT of the first process, 'auto', or None.
      num_processes: of the job.
      process_id: this one's number, from 0.

    Raises:
      ConfigError: some of the three are missing, or the number is out of range.
      DevicesError: there are none of the devices that the job asked for.
    """
    end_with_launcher()
    # It would take SIGTERM, and nobody would hear of it before there is a first step.
    jax.config.update("jax_enable_preemption_service", False)
    _join(coordinator, num_processes, process_id)
    check_platform(jax.default_backend())


def _join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the job, if it is one of several processes."""
    named = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [flag for flag, value in named.items() if value is None]
    if coordinator == "auto" or (len(missing) == 3 and _has_several_tasks()):
        try:
            jax.distributed.initialize(local_device_ids=_devices_of_task(os.environ))
        except ValueError as error:
            raise ConfigError(
                f"JAX does not find out by itself what this process is ({error}); give "
                f"{', '.join(named)}"
            ) from error
        return
    if len(missing) == 3:
        return
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing: a job of several processes needs all of "
            f"{', '.join(named)}, or --coordinator=auto"
        )
    assert coordinator is not None
    assert num_processes is not None and process_id is not None
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process_id={process_id}: expected 0 to {num_processes - 1} for "
            f"--num_processes={num_processes}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator={coordinator}: expected HOST:PORT")
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        # What is said here counts, also within a job of SLURM.
        cluster_detection_method="deactivate",
    )


def _has_several_tasks() -> bool:
    counts = [os.environ.get(name, "") for name in _TASKS]
    return any(count.isdigit() and int(count) > 1 for count in counts)


def _devices_of_task(environment: Mapping[str, str]) -> list[int] | None:
    """The GPUs of a task of SLURM, among those it sees; None to leave them to JAX.

    JAX would give each task one. Tasks that see all GPUs of their node share them
    evenly; those that see their own take these.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if not visible or not tasks:
        return None
    count, here = len(visible.split(",")), int(tasks[0])
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    if here == 1 or (on_node.isdigit() and count < int(on_node)) or count < here:
        return list(range(count))
    own, number = count // here, int(environment.get("SLURM_LOCALID", "0"))
    return list(range(own * number, own * (number + 1)))


def lost_another(error: BaseException) -> bool:
    """Whether it may be that another process was lost, by what an error and its causes say."""
    if jax.process_count() == 1:
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, jax.errors.JaxRuntimeError) or _GONE.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def check_same(described: Any) -> None:
    """Raises ConfigError, in all processes, unless all of them describe the same run.

    Args:
      described: what is written as JSON: config and data.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(described, sort_keys=True, default=str)
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    of_all = multihost_utils.process_allgather(own)
    others = np.flatnonzero((of_all != of_all[0]).any(axis=1)).tolist()
    if others:
        raise ConfigError(
            f"the processes {others} were started with another config, or have other "
            "data, than the process 0; all need the same command line and data"
        )


def is_first() -> bool:
    """Whether this is the process that writes logs and prints."""
    return jax.process_index() == 0


def on_first_process(action: Callable[[], None]) -> None:
    """Runs `action` on the first process while all others wait for it.

    They go on when it has failed, too: they must look for what it should have made.
    """
    try:
        if is_first():
            action()
    finally:
        wait_for_all("on_first_process")


def of_all_processes(found: bool) -> list[int]:
    """The numbers of the processes that found it so, in all of them."""
    if jax.process_count() == 1:
        return [0] if found else []
    wait_for_all("of_all_processes")
    return np.flatnonzero(multihost_utils.process_allgather(np.int32(found))).tolist()


def of_first_process(decision: bool) -> bool:
    """The first process's decision, in all of them.

    For what they find out each for itself, and must do together.
    """
    if jax.process_count() == 1:
        return decision
    wait_for_all("of_first_process")
    return bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))


def array_of_first_process(array: np.ndarray) -> np.ndarray:
    """The first process's array, in all of them: each would round in its own way."""
    if jax.process_count() == 1:
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def wait_for_all(occasion: str) -> None:
    """Until every process has come to this occasion."""
    if jax.process_count() == 1:
        return
    # Not a barrier of devices: those give up after half a minute.
    wait = multihost.get_barrier_sync_fn()
    wait(key=occasion, timeout_ms=_WAIT_SECONDS * 1000)
