"""Whether results can be written to a folder, before they are computed."""

import tempfile
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
