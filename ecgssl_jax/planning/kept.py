"""Figures of programs that were compiled before, kept between runs of the planner."""

import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ecgssl_jax.code_digest import digest_code
from ecgssl_jax.output_folder import whole_file
from ecgssl_jax.planning.figures import Figures

_MAKERS = ("jax", "jaxlib", "libtpu", "flax", "optax")
# Variables that change what is compiled.
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_")


def folder() -> Path:
    """$XDG_CACHE_HOME/ecgssl_jax/plans, or ~/.cache/ecgssl_jax/plans."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ecgssl_jax" / "plans"


def kept(
    described: Mapping[str, Any], make: Callable[[], Figures], *used: object
) -> Figures:
    """The figures of what is described, or those that `make` makes, kept for next time.

    The code of this package and of what is used, the versions of what makes programs, and
    the flags of the environment count with it.
    """
    whole = {
        **described,
        "code": _code(),
        "used": digest_code([], *used),
        "versions": list(map(_version, _MAKERS)),
        "flags": {k: v for k, v in os.environ.items() if k.startswith(_FLAGS)},
    }
    text = json.dumps(whole, sort_keys=True, default=str)
    place = folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        return Figures.from_json(json.loads(place.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        pass  # Not there, or of no use.
    figures = make()
    try:
        with whole_file(place) as partial:
            partial.write_text(json.dumps(figures.as_json()))
    except OSError:
        pass  # It is only slower next time.
    return figures


@functools.cache
def _code() -> str:
    """A digest of the package's source code."""
    return digest_code(["."])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
