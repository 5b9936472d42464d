"""A folder that appears complete or not at all."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def building_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields a scratch folder that becomes `output` if the block succeeds.

    It stands beside `output`, hidden, so that one rename publishes it. If the
    block fails it is removed; what a killed process leaves there, the next one
    removes.

    Raises:
      FileExistsError: `output` exists and `overwrite` is not given.
      RuntimeError: another process is building `output` at this moment.
    """
    building = output.with_name(f".{output.name}.incomplete")
    replaced = output.with_name(f".{output.name}.replaced")
    output.parent.mkdir(parents=True, exist_ok=True)
    if replaced.exists() and not output.exists():
        # Killed between the two renames below: the old set is still the set.
        replaced.rename(output)
    if output.exists() and not overwrite:
        raise FileExistsError(
            f"{output} exists already; pass --overwrite to replace it, or choose "
            "another --output"
        )
    building.mkdir(exist_ok=True)
    # The kernel drops the lock with the process, however that ends.
    lock = os.open(building, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another process is preparing {output}; wait for it or end it first"
            ) from None
        try:
            _empty(building)
            yield building
            _sync(building)
            if output.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                output.rename(replaced)
            building.rename(output)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        os.close(lock)


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
