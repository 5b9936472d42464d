"""Features of a prepared set's records, computed once for each encoder.

Kept in a folder whose name is a hash of all that they depend on: the parameters bit by
bit, the code of models and methods, the set's content, the records, the windows and the
precision. Another checkpoint, or the same set prepared again, finds another folder. Several
processes may share the cache: the first to finish puts its folder in place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ecgssl_jax import __version__, digest
from ecgssl_jax.code_digest import digest_code
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.rules import path_string
from ecgssl_jax.runs import FrozenEncoder

# To be raised when features of the same parameters become others.
_VERSION = 2
# What features come from, of this package.
_CODE = ("evaluation/features.py", "methods", "models", "signals")
_DESCRIPTION = "features.json"
_RECORDS = 1024  # at a time
_TRIES = 2


def encode_cached(
    encoder: FrozenEncoder, prepared: PreparedSet, rows: np.ndarray, folder: str | Path
) -> dict[str, np.ndarray]:
    """As `encoder.encode(prepared, rows)`, from the cache where it can be.

    Args:
      folder: of the cache, made where it is missing.

    Returns:
      'pooled' [n, D] float32 and, if the encoder gives tokens, those of
      `evaluation.features.extract`, mapped from disk: they may exceed the memory.

    Raises:
      OSError: the cache cannot be written.
      ConfigError: as `encoder.check`.
    """
    encoder.check(prepared)
    described = describe(encoder, prepared, rows)
    text = json.dumps(described, sort_keys=True)
    place = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:32]
    for _ in range(_TRIES):
        found = _read(place)
        if found is not None:
            return found
        _write(place, described, _encode(encoder, prepared, rows), len(rows))
    found = _read(place)
    if found is None:
        raise OSError(
            f"the features in {place} cannot be read back as they were written; is the "
            "disk all right? --config.cache=False goes without"
        )
    return found


def describe(
    encoder: FrozenEncoder, prepared: PreparedSet, rows: np.ndarray
) -> dict[str, Any]:
    """All that features depend on."""
    experiment = encoder.run.experiment
    leaves = jax.tree.leaves_with_path(encoder.parameters)
    return {
        "version": _VERSION,
        "package": __version__,
        "code": digest_code(_CODE, encoder.method),
        "parameters": {
            path_string(path): digest.digest_numpy(np.asarray(x)) for path, x in leaves
        },
        "method": dict(experiment.method),
        "model": dict(experiment.model),
        "dtype": experiment.dtype,
        "backend": jax.default_backend(),
        "crop": experiment.data.crop,
        "clip": experiment.data.clip,
        "tokens": None if encoder.tokens is None else np.dtype(encoder.tokens).name,
        "set": prepared.metadata["content_hash"],
        "rows": hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest(),
    }


def _encode(
    encoder: FrozenEncoder, prepared: PreparedSet, rows: np.ndarray
) -> Iterator[Mapping[str, np.ndarray]]:
    """Features of the records, some at a time."""
    for start in range(0, len(rows), _RECORDS):
        yield encoder.encode(prepared, rows[start : start + _RECORDS])


def _read(place: Path) -> dict[str, np.ndarray] | None:
    """What is in the folder; None where it is missing or damaged."""
    try:
        content = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
        found = {
            name: np.load(place / f"{name}.npy", mmap_mode="r")
            for name in content["arrays"]
        }
    except (OSError, ValueError, KeyError):
        return None
    described = {name: _described(x) for name, x in found.items()}
    return found if described == content["arrays"] else None


def _described(array: np.ndarray) -> dict[str, Any]:
    """What tells a damaged array."""
    found = zlib.crc32(array.data.cast("B"))
    return {"shape": list(array.shape), "dtype": array.dtype.str, "crc32": found}


def _write(
    place: Path,
    described: Mapping[str, Any],
    parts: Iterator[Mapping[str, np.ndarray]],
    records: int,
) -> None:
    """All of it or nothing: a rename puts the folder in its place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=place.parent))
    try:
        arrays: dict[str, np.memmap] = {}
        start = 0
        for part in parts:
            for name, value in part.items():
                if name not in arrays:
                    arrays[name] = np.lib.format.open_memmap(
                        temporary / f"{name}.npy",
                        mode="w+",
                        dtype=value.dtype,
                        shape=(records, *value.shape[1:]),
                    )
                arrays[name][start : start + len(value)] = value
            start += len(part["pooled"])
        for array in arrays.values():
            array.flush()
        sums = {name: _described(array) for name, array in arrays.items()}
        text = json.dumps({**described, "arrays": sums}, indent=1)
        (temporary / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        if _read(place) is not None:
            return  # another process was faster
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        with contextlib.suppress(OSError):  # or just now
            os.replace(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
