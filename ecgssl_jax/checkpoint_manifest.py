"""What a checkpoint says of itself, and how far it may differ from a run's state.

The manifest is a JSON document with a checksum of its own: the arrays' paths, shapes,
dtypes and digests, and whatever the caller wants to know when it resumes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from ecgssl_jax.errors import UserError
from ecgssl_jax.rules import path_string

FOLDER = "manifest"
_FORMAT = 1
_SHOWN = 5  # differing arrays that a message names


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says which, why and what to do."""


class DamagedCheckpointError(CheckpointError):
    """What is on disk is not what was saved."""


class MismatchedCheckpointError(CheckpointError):
    """An intact checkpoint of a state with other paths, shapes or dtypes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds. arrays: path -> {"shape", "dtype", "digest"}."""

    step: int
    meta: dict[str, Any]
    arrays: dict[str, dict[str, Any]]


def read(folder: epath.Path) -> Manifest:
    """The manifest of one step's folder.

    Raises:
      DamagedCheckpointError: it is missing, unreadable or altered.
      CheckpointError: another version of this package wrote it.
    """
    file = folder / FOLDER / "metadata"
    try:
        content = json.loads(file.read_text())
        body, checksum = content["body"], content["sha256"]
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: cannot read {file}: {brief(error)}"
        ) from error
    if _sha256(body) != checksum:
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {file} does not match its checksum"
        )
    if body["format"] != _FORMAT:
        raise CheckpointError(
            f"checkpoint {folder} has format {body['format']}, this version reads "
            f"{_FORMAT}: use the version of ecgssl_jax that wrote it"
        )
    return Manifest(step=body["step"], meta=body["meta"], arrays=body["arrays"])


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The document to write, with a checksum. Raises TypeError if meta is not JSON."""
    # Through JSON and back, so that the checksum is of what a reader will parse.
    content = {"format": _FORMAT, **dataclasses.asdict(manifest)}
    body = json.loads(json.dumps(content))
    return {"body": body, "sha256": _sha256(body)}


def _sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def compare_digests(
    folder: epath.Path, manifest: Manifest, digests: Mapping[str, str]
) -> None:
    """Raises DamagedCheckpointError unless `digests` (by path) are those saved."""
    differing = [
        path
        for path, value in digests.items()
        if value != manifest.arrays[path]["digest"]
    ]
    if differing:
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {len(differing)} of {len(digests)} "
            f"arrays are not what was saved: {_listing(differing)}"
        )


def compare_signatures(
    folder: epath.Path, manifest: Manifest, abstract: Mapping[str, Any]
) -> None:
    """Raises MismatchedCheckpointError unless paths, shapes and dtypes agree."""
    saved = {path: _show(entry) for path, entry in manifest.arrays.items()}
    asked = {path: _show(signature(leaf)) for path, leaf in abstract.items()}
    differing = [
        f"{path}: saved {saved.get(path, 'nothing')}, "
        f"the run has {asked.get(path, 'nothing')}"
        for path in {**asked, **saved}
        if saved.get(path) != asked.get(path)
    ]
    if differing:
        raise MismatchedCheckpointError(
            f"checkpoint {folder} is intact, but of another model or optimiser: "
            f"{len(differing)} of its arrays differ from this run's:\n  "
            + _listing(differing, "\n  ")
            + "\nContinue with the config that the checkpoint was saved with, or "
            "choose another workdir for this one."
        )


def brief(error: Exception) -> str:
    """The first cause, without the pages of specification tensorstore appends."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).partition("[source locations=")[0].splitlines() or [""]
    # The end of a chain of causes is the one to mend.
    line = (
        lines[0] if len(lines[0]) <= 500 else f"{lines[0][:200]} ... {lines[0][-250:]}"
    )
    return f"{type(error).__name__}: {line}"


def _listing(items: list[str], separator: str = ", ") -> str:
    more = len(items) - _SHOWN
    shown = [*items[:_SHOWN], f"and {more} more"] if more > 0 else items
    return separator.join(shown)


def named_arrays(tree: Any) -> dict[str, Any]:
    """Leaves by path, such as "params/head/kernel", in the order of the tree."""
    named: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = path_string(key_path)
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            raise TypeError(
                f"state leaf {path!r} is a {type(leaf).__name__}; checkpoints hold "
                "jax.Arrays only: wrap it in jnp.asarray, or put it into `meta`"
            )
        if leaf.sharding is None:
            raise TypeError(
                f"state leaf {path!r} has no sharding: give its ShapeDtypeStruct one"
            )
        if len(key_path) != path.count("/") + 1:
            raise ValueError(
                f"state leaf {path!r} has no unique path: keep it in a dataclass or "
                "dictionary, with no '/' in its keys"
            )
        named[path] = leaf
    return named


def signature(leaf: Any) -> dict[str, Any]:
    """Shape and dtype as the manifest has them."""
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _show(signature: Mapping[str, Any]) -> str:
    return f"{signature['dtype']}{signature['shape']}"
