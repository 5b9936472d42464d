"""One run in a workdir at a time."""

import contextlib
import fcntl
import secrets
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from ecgssl_jax import processes
from ecgssl_jax.errors import UserError


class WorkdirError(UserError):
    """A workdir that this run cannot have."""


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, which it makes.

    Raises:
      WorkdirError: in all processes, where files cannot be made there, another run is in
        it, or a process has another folder of that name.
    """
    with contextlib.ExitStack() as stack:
        problem = None
        if processes.is_first():
            try:
                stack.enter_context(_locked(workdir))
            except WorkdirError as error:
                problem = error
        if processes.of_first_process(problem is not None):
            raise problem or WorkdirError(
                f"--workdir={workdir}: the first process cannot have it, and says why"
            )
        _check_shared(workdir)
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise WorkdirError(
            f"--workdir={workdir}: cannot write there ({error}); choose another folder"
        ) from error
    # The kernel drops the lock with the process, however that ends.
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirError(
                f"--workdir={workdir}: another run is in it; wait for it, end it, or "
                "choose another folder"
            ) from None
        yield


def _check_shared(workdir: Path) -> None:
    """Whether all processes see what the first one leaves there."""
    if jax.process_count() == 1:
        return
    # A name that nobody has looked for before.
    drawn = np.array([secrets.randbits(31)], np.int32)
    mark = workdir / f".job-{processes.array_of_first_process(drawn)[0]}"
    if processes.is_first():
        mark.touch()
    try:
        processes.wait_for_all("mark left")
        without = processes.of_all_processes(not mark.exists())
    finally:
        if processes.is_first():
            mark.unlink(missing_ok=True)
    if without:
        raise WorkdirError(
            f"--workdir={workdir}: the processes {without} do not see what the first one "
            "writes there; it must be a folder that all of them share"
        )
