"""Whether results can be written, before they are computed; and files that are whole."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


def check_writable(folder: str | Path) -> None:
    """Makes nothing: where the folder is still missing, its nearest parent counts.

    Raises:
      OSError: files cannot be made there.
    """
    path = Path(folder).absolute()
    try:
        existing = next(each for each in (path, *path.parents) if each.exists())
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error}); choose another folder with --output"
        ) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place once the context ends well.

    So nobody finds half of it, and what was there before stays if it does not. Makes
    the folder where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that no other writer has.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
