"""A folder that appears complete or not at all."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ecgssl_jax.errors import UserError


class PrepareError(UserError):
    """A failure to plan for: another process is preparing, a worker was killed."""


@contextlib.contextmanager
def building_folder(
    output: Path, *, marker: str, overwrite: bool = False, wait: bool = False
) -> Iterator[Path]:
    """Yields a scratch folder that becomes `output` if the block succeeds.

    It stands beside `output`, hidden, so that one rename publishes it. If the
    block fails it is removed; what a killed process leaves there, the next one
    removes.

    Args:
      output: the folder to publish.
      marker: a file that every folder holds that may be replaced.
      overwrite: replace `output` if it is empty or holds `marker`.
      wait: while another process is building `output`, wait for it.

    Raises:
      FileExistsError: `output` exists, and `overwrite` is not given or not enough.
      PrepareError: another process is building `output` at this moment.
    """
    building = output.with_name(f".{output.name}.incomplete")
    replaced = output.with_name(f".{output.name}.replaced")
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(building, output, wait):
        try:
            if replaced.exists() and not output.exists():
                # Killed between the two renames below: the old set is still the set.
                replaced.rename(output)
            check_output(output, marker, overwrite)
            _empty(building)
            yield building
            _sync(building)
            # What has appeared there meanwhile did not come from here.
            check_output(output, marker, overwrite)
            if output.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                output.rename(replaced)
            building.rename(output)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _locked(building: Path, output: Path, wait: bool) -> Iterator[None]:
    """Makes the folder and holds its lock, which ends with the process at the latest."""
    while True:
        building.mkdir(exist_ok=True)
        lock = os.open(building, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise PrepareError(
                    f"another process is preparing {output}; wait for it or end it "
                    "first"
                ) from None
            # Not so if the folder was published or removed before the lock came.
            if building.exists() and os.path.samestat(os.fstat(lock), building.stat()):
                yield
                return
        finally:
            os.close(lock)


def check_output(output: Path, marker: str, overwrite: bool) -> None:
    """Raises FileExistsError unless `building_folder` may publish there."""
    if not output.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{output} exists already; pass --overwrite to replace it, or choose "
            "another --output"
        )
    is_empty = output.is_dir() and not any(output.iterdir())
    if not is_empty and not (output / marker).exists():
        raise FileExistsError(
            f"{output} is no prepared set, for it has no {marker}: --overwrite does "
            "not replace it. Choose another --output, or remove it yourself"
        )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync(folder: Path) -> None:
    """Forces all files to disk: a rename must not outrun the data it publishes."""
    for path in [folder, *folder.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
