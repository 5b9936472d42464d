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
      WorkdirError: files cannot be made there, another run is in it, or a process has
        another folder of that name.
    """
    if not processes.is_first():
        _look_for_mark(workdir)
        yield
        return
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
        _leave_mark(workdir)
        yield


def _mark(workdir: Path) -> Path:
    """A name that the first process draws, and that nobody has looked for before."""
    drawn = np.array([secrets.randbits(31)], np.int32)
    return workdir / f".job-{processes.array_of_first_process(drawn)[0]}"


def _leave_mark(workdir: Path) -> None:
    """For the other processes to find, if there are any."""
    if jax.process_count() == 1:
        return
    mark = _mark(workdir)
    mark.touch()
    try:
        processes.wait_for_all("mark left")
        processes.wait_for_all("mark found")
    finally:
        mark.unlink(missing_ok=True)


def _look_for_mark(workdir: Path) -> None:
    mark = _mark(workdir)
    processes.wait_for_all("mark left")
    if not mark.exists():
        raise WorkdirError(
            f"--workdir={workdir}: this process does not see what the first one writes "
            "there; it must be a folder that all of them share"
        )
    processes.wait_for_all("mark found")
