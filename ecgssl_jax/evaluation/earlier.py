"""What earlier evaluations left in the same folder, which new ones must not replace."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgssl_jax.output_folder import whole_file
from ecgssl_jax.settings import changes

# Of results.json, what says which figures they are.
_IDENTITY = ("checkpoint", "data", "folds", "settings")
# Of the settings, what changes no figure.
_INDIFFERENT = ("cache", "report", "root")
_FILES = (
    "results.md",
    "results.json",
    "results.csv",
    "predictions.npz",
    "report.html",
    "report",
)


_READS = "test_reads.txt"


def count_test_read(folder: Path) -> int:
    """How often the test folds were read for results in the folder, this time included.

    Counted before they are read: whoever has seen a figure may have ended the process.
    """
    try:
        reads = int((folder / _READS).read_text(encoding="utf-8")) + 1
    except (OSError, ValueError):
        reads = 1
    with whole_file(folder / _READS) as partial:
        partial.write_text(f"{reads}\n", encoding="utf-8")
    return reads


def keep_earlier(folder: Path, document: Mapping[str, Any]) -> Path | None:
    """Moves results of other settings or of another checkpoint to folder/earlier/N.

    Args:
      document: what the new results.json will hold.

    Returns:
      where they are now; None where there were none, or the same ones.
    """
    try:
        before = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(before, dict):
        return None
    if not any(changes(_identity(before), _identity(document))):
        return None
    number = 1
    while (folder / "earlier" / str(number)).exists():
        number += 1
    place = folder / "earlier" / str(number)
    place.mkdir(parents=True)
    for name in _FILES:
        if (folder / name).exists():
            (folder / name).rename(place / name)
    return place


def _identity(document: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: document.get(key) for key in _IDENTITY}
    found["settings"] = {
        key: value
        for key, value in (found["settings"] or {}).items()
        if key not in _INDIFFERENT
    }
    return found
