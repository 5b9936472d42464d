"""One run in a workdir at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from ecgssl_jax import processes
from ecgssl_jax.errors import UserError


class WorkdirError(UserError):
    """A workdir that this run cannot have; only the first process looks."""


@contextlib.contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, which it makes.

    Raises:
      WorkdirError: files cannot be made there, or another run is in it.
    """
    if not processes.is_first():
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
        yield
