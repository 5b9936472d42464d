"""Digests of source code, for what is kept of a computation and must go with its code."""

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ecgssl_jax.digest import digest_files

_PACKAGE = Path(__file__).parent


def digest_code(parts: Iterable[str], *used: object) -> str:
    """A digest of parts of this package, and of what objects were made by.

    Args:
      parts: files or folders of this package, such as 'models' or 'step.py'.
      used: objects whose classes may be defined elsewhere; then all code of their
        package counts, or, of a module that is in none, of the modules beside it that
        are in use.
    """
    files: list[Path] = []
    for part in parts:
        place = _PACKAGE / part
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    for each in used:
        files += sorted(set(_elsewhere(type(each))))
    return digest_files(files)


def _elsewhere(kind: type) -> Iterator[Path]:
    top, *within = kind.__module__.split(".")
    if top == __package__:
        return
    module = sys.modules.get(top)
    if within and module is not None:
        for folder in getattr(module, "__path__", ()):
            yield from Path(folder).rglob("*.py")
        return
    try:
        own = Path(inspect.getfile(kind))
    except (TypeError, OSError):  # of what was defined in a shell
        return
    yield own
    if "site-packages" in own.parts:
        return
    for other in list(sys.modules.values()):
        file = getattr(other, "__file__", None)
        if file and Path(file).is_relative_to(own.parent):
            yield Path(file)
