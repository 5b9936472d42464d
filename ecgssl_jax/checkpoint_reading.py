"""Checkpoints read without the program that wrote them: arrays of NumPy, by path."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from ecgssl_jax import checkpoint_manifest as manifest
from ecgssl_jax import digest
from ecgssl_jax.checkpoint_manifest import DamagedCheckpointError

STATE = "state"  # folder of a step's arrays


def load_params(
    path: str | epath.Path, *, subtree: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """A checkpoint as NumPy arrays, without knowing the state it was saved from.

    Reads, and verifies by digest, only what `subtree` names. In a folder of several
    checkpoints a damaged newest one is logged and the one before is read;
    `meta["step"]` says which it was.

    Args:
      path: "<workdir>", "<workdir>/checkpoints", "<workdir>/best", or one step's
        folder below these.
      subtree: path of a subtree such as "params" or "extra/target"; None for all.

    Returns:
      Nested dictionary of arrays (fields, keys and indices become string keys; PRNG
      keys come as their uint32 data), or one array if `subtree` names one; and `meta`.

    Raises:
      FileNotFoundError: there is no checkpoint at `path`.
      KeyError: the checkpoint has nothing under `subtree`.
      DamagedCheckpointError: no checkpoint at `path` is intact.
    """
    folders = _find(absolute(path))
    findings = []
    for folder in folders:
        try:
            return _load_numpy(folder, subtree)
        except DamagedCheckpointError as error:
            logging.error("%s", error)
            findings.append(f"\n  {error}")
    raise DamagedCheckpointError(
        f"no intact checkpoint at {path}:{''.join(findings)}\nRead another folder, or "
        "copy an intact checkpoint there."
    )


def saved_meta(path: str | epath.Path) -> dict[str, Any]:
    """`meta` of the newest checkpoint at `path` that tells it; empty where none does.

    Args:
      path: as for `load_params`.
    """
    try:
        folders = _find(absolute(path))
    except FileNotFoundError:
        return {}
    for folder in folders:
        # What else is damaged is for those to say who read the arrays.
        with contextlib.suppress(DamagedCheckpointError):
            return manifest.read(folder).meta
    return {}


def _find(path: epath.Path) -> list[epath.Path]:
    """Folders of checkpoints at `path`, newest first."""
    if (path / STATE).exists() or (path / manifest.FOLDER).exists():
        return [path]
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    names = ocp.path.step.standard_name_format()
    steps = {found.step: epath.Path(found.path) for found in names.find_all(folder)}
    if not steps:
        there = "which does not exist"
        if folder.is_dir():
            content = sorted(child.name for child in folder.iterdir())
            there = f"which holds {content[:10] or 'nothing'}"
        raise FileNotFoundError(
            f"no checkpoint in {folder}, {there}; expected folders named by their "
            "step. Pass the workdir of a run, its checkpoints or best folder, or one "
            "step's folder"
        )
    return [steps[step] for step in sorted(steps, reverse=True)]


def _load_numpy(folder: epath.Path, subtree: str | None) -> tuple[Any, dict[str, Any]]:
    saved = manifest.read(folder)
    wanted = [
        path
        for path in saved.arrays
        if subtree is None or path == subtree or path.startswith(f"{subtree}/")
    ]
    if not wanted:
        top = sorted({path.split("/")[0] for path in saved.arrays})
        raise KeyError(f"{folder} holds nothing under {subtree!r}; it has {top}")
    arrays = read_arrays(
        folder,
        {
            path: ocp.RestoreArgs(restore_type=np.ndarray)
            for path in wanted
            if 0 not in saved.arrays[path]["shape"]
        },
    )
    for path in set(wanted) - set(arrays):
        entry = saved.arrays[path]
        arrays[path] = np.zeros(entry["shape"], jax.numpy.dtype(entry["dtype"]))
    digests = {path: digest.digest_numpy(arrays[path]) for path in wanted}
    manifest.compare_digests(folder, saved, digests)
    if subtree is not None and wanted == [subtree]:
        return arrays[subtree], saved.meta
    tree: dict[str, Any] = {}
    for path in wanted:
        keys = path.removeprefix(f"{subtree}/" if subtree else "").split("/")
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = arrays[path]
    return tree, saved.meta


def read_arrays(folder: epath.Path, targets: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of `targets` (path -> Orbax's restore arguments), not verified.

    Raises:
      DamagedCheckpointError: they cannot be read.
    """
    if not targets:
        return {}
    handler = ocp.PyTreeCheckpointHandler()
    try:
        return handler.restore(
            folder / STATE,
            args=ocp.args.PyTreeRestore(
                item={path: 0 for path in targets},
                restore_args=dict(targets),
                partial_restore=True,
            ),
        )
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise  # the machine's trouble, not the checkpoint's
    except Exception as error:
        # The tree and its shapes were compared before, so what fails now is reading;
        # Orbax and tensorstore have no common class for that.
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: its arrays cannot be read: "
            + manifest.brief(error)
        ) from error
    finally:
        handler.close()


def absolute(path: str | epath.Path) -> epath.Path:
    """The path as Orbax has it, which refuses relative ones."""
    return epath.Path(path).expanduser().absolute()
