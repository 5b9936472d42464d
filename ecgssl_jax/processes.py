"""Several processes that train together, and what the first of them does for all."""

import argparse
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from ecgssl_jax.settings import ConfigError

# Preparing a data set is what the others may have to wait for.
_WAIT_SECONDS = 6 * 3600
# Variables of launchers that start several tasks; JAX reads the rest itself.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


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
    """
    named = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [flag for flag, value in named.items() if value is None]
    if coordinator == "auto" or (len(missing) == 3 and _has_several_tasks()):
        jax.distributed.initialize()
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
    if not coordinator.rpartition(":")[2].isdigit():
        raise ConfigError(f"--coordinator={coordinator}: expected HOST:PORT")
    jax.distributed.initialize(coordinator, num_processes, process_id)


def _has_several_tasks() -> bool:
    return any(int(os.environ.get(name, "1")) > 1 for name in _TASKS)


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
        _wait_for_all("on_first_process")


def of_first_process(decision: bool) -> bool:
    """The first process's decision, in all of them.

    For what they find out each for itself, and must do together.
    """
    if jax.process_count() == 1:
        return decision
    _wait_for_all("of_first_process")
    return bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))


def array_of_first_process(array: np.ndarray) -> np.ndarray:
    """The first process's array, in all of them: each would round in its own way."""
    if jax.process_count() == 1:
        return array
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def _wait_for_all(occasion: str) -> None:
    # Not a barrier of devices: those give up after half a minute.
    wait = multihost.get_barrier_sync_fn()
    wait(key=occasion, timeout_ms=_WAIT_SECONDS * 1000)
