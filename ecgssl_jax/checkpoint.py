"""Checkpoints of the training state: asynchronous, atomic, verified, onto any mesh.

Orbax writes and reads the arrays. What it does not do is done here: it restores a
flipped bit, and zeros for a missing chunk, without a word. So each checkpoint holds a
manifest with a digest of every array (`ecgssl_jax.digest`); restoring recomputes them,
and falls back to the checkpoint before where they differ.

    <directory>/<step>/state       the arrays, by their path in the tree: "params/..."
    <directory>/<step>/manifest    paths, shapes, dtypes, digests, the caller's `meta`
    <directory>/<step>.damaged     moved aside by `restore`, for you to look at
"""

import contextlib
import functools
import logging as standard_logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from ecgssl_jax import checkpoint_manifest as manifest
from ecgssl_jax import digest, processes
from ecgssl_jax.checkpoint_manifest import DamagedCheckpointError
from ecgssl_jax.checkpoint_reading import STATE, absolute, read_arrays
from ecgssl_jax.errors import UserError


class CheckpointWriteError(UserError, RuntimeError):
    """A checkpoint that could not be written, such as to a full disk."""


class Checkpointer:
    """The checkpoints of one folder, the newest `keep` of them.

    Every process of a job makes one and calls the same methods in the same order;
    all of them see one file system. Close it, or use it in a `with` statement: a save
    is finished in the background.
    """

    def __init__(self, directory: str | epath.Path, *, keep: int = 2):
        """Makes the folder, and removes what a killed save left unfinished.

        Args:
          directory: local path or bucket URL, such as "<workdir>/checkpoints".
          keep: how many checkpoints stay; with 1, a damaged one has no predecessor.
        """
        if keep < 1:
            raise ValueError(f"keep={keep}: at least the newest checkpoint must stay")
        self._directory = absolute(directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            # Reading steps' metadata here would fail on a damaged one.
            lightweight_initialize=True,
            save_root_metadata=False,
            # Two managers that save the same step must not meet at one barrier.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=self._directory.name
            ),
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)
        if _is_first_process():
            for leftover in self._directory.glob("*.discarded"):
                leftover.rmtree()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Copies the state to the host, then writes it in the background.

        On return the state's buffers may be donated. What a background write runs
        into is raised by the next `save`, `wait` or `close`.

        Args:
          step: the state's step; greater than that of any checkpoint here.
          state: pytree of jax.Arrays, sharded in any way.
          meta: JSON-serialisable; tuples come back as lists. "step" is added.

        Raises:
          ValueError: the step is not beyond the newest checkpoint's.
          TypeError: a leaf is not a jax.Array, or `meta` is not JSON.
          CheckpointWriteError: this or the one before could not be written.
        """
        newest = self.latest_step()
        if newest is not None and step <= newest:
            raise ValueError(
                f"{self._directory} has a checkpoint of step {newest}; cannot save "
                f"step {step} after it: call discard_after({step - 1}) first"
            )
        arrays = manifest.named_arrays(state)
        stored = {path: _stored(array) for path, array in arrays.items()}
        digests = digest.digest_arrays(stored)
        document = manifest.Manifest(
            step=step,
            meta={**meta, "step": step},
            arrays={
                path: {**manifest.signature(array), "digest": digests[path]}
                for path, array in arrays.items()
            },
        )
        # Orbax refuses arrays without elements; the manifest has them.
        arrays = {path: array for path, array in stored.items() if array.size}
        parts = {
            STATE: ocp.args.PyTreeSave(arrays),
            manifest.FOLDER: ocp.args.JsonSave(manifest.to_json(document)),
        }
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**parts), force=True)

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest intact checkpoint, or None if the folder never had one.

        Damaged ones that are newer are logged and, once an intact one is found,
        renamed to "<step>.damaged", so that their steps can be saved again.

        Args:
          abstract_state: pytree of jax.ShapeDtypeStructs with shardings (or of
            arrays); any mesh will do, whichever mesh saved the checkpoint.

        Returns:
          The state, laid out by the shardings of `abstract_state`, and its `meta`.

        Raises:
          DamagedCheckpointError: there are checkpoints, but all are damaged.
          MismatchedCheckpointError: the newest readable one is of another state.
        """
        self.wait()
        abstract = manifest.named_arrays(abstract_state)
        findings: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            folder = self._directory / str(step)
            try:
                arrays, meta = _restore_verified(folder, abstract)
            except DamagedCheckpointError as error:
                findings[step] = str(error)
                logging.error("%s", error)
                continue
            self._move_aside(list(findings))
            logging.info("restored the checkpoint %s", folder)
            leaves = [arrays[path] for path in abstract]
            return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), meta
        self._refuse_fresh_start(findings)
        return None

    def discard_after(self, step: int) -> list[int]:
        """Deletes the checkpoints beyond `step`, and returns their steps.

        For the folder of best checkpoints after the run went back to an older step.
        """
        self.wait()
        beyond = [saved for saved in self._manager.all_steps() if saved > step]
        if _is_first_process():
            for saved in beyond:
                # Renamed first: a kill amid the deletion must not leave half a
                # checkpoint under a step's name.
                aside = self._directory / f"{saved}.discarded"
                (self._directory / str(saved)).rename(aside)
                aside.rmtree()
        self._synchronise("discard")
        return beyond

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, a save in progress included."""
        return self._manager.latest_step()

    def latest_meta(self) -> dict[str, Any] | None:
        """`meta` of the newest checkpoint, or None if there is none.

        Raises:
          DamagedCheckpointError: its manifest is damaged.
        """
        self.wait()
        step = self.latest_step()
        return None if step is None else manifest.read(self._directory / str(step)).meta

    def wait(self) -> None:
        """Blocks until the save in progress is on disk.

        Raises:
          CheckpointWriteError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes the save in progress, as `wait` does, and frees the threads."""
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if processes.lost_another(error):
                raise
            # Orbax raises what the file system, tensorstore or its threads do.
            raise CheckpointWriteError(
                f"a checkpoint could not be written to {self._directory}: "
                f"{manifest.brief(error)}. Make room there or look at its rights; the "
                "same command then continues from the last checkpoint that is whole"
            ) from error

    def _move_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if _is_first_process():
            for step in steps:
                folder = self._directory / str(step)
                target = self._directory / f"{step}.damaged"
                number = 2
                while target.exists():
                    target = self._directory / f"{step}.damaged-{number}"
                    number += 1
                logging.warning("moving the damaged %s to %s", folder, target.name)
                folder.rename(target)
        self._synchronise("damaged")

    def _synchronise(self, occasion: str) -> None:
        """Has every process see the folder as the first process left it."""
        if jax.process_count() > 1:
            name = f"{self._directory.name}:{occasion}"
            multihost_utils.sync_global_devices(name)
        self._manager.reload()

    def _refuse_fresh_start(self, findings: Mapping[int, str]) -> None:
        """Raises if the folder holds anything that was once a checkpoint."""
        aside = sorted(path.name for path in self._directory.glob("*.damaged*"))
        if not findings and not aside:
            return
        reasons = "".join(f"\n  {finding}" for finding in findings.values())
        raise DamagedCheckpointError(
            f"no intact checkpoint in {self._directory}: all of "
            f"{sorted(findings) or aside} are damaged.{reasons}\nNothing was changed. "
            "Copy an intact checkpoint back into this folder; or, to give up what was "
            "trained and start from step 0, move the folder away or choose another "
            "workdir."
        )


def silence_echoes() -> None:
    """Keeps the console free of tracebacks of what is raised anyway.

    For the first array that cannot be moved Orbax raises, after it has logged that in
    each of its threads, and closes its event loop; tensorstore then prints a traceback
    for every other array that still ends, and asyncio one for every task that has ended
    with one. For programs, once at their start.
    """
    for name in ("absl", "asyncio"):
        standard_logging.getLogger(name).addFilter(lambda record: not _is_echo(record))
    former = sys.unraisablehook

    def hook(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            former(unraisable)

    sys.unraisablehook = hook


def _is_echo(record: standard_logging.LogRecord) -> bool:
    if record.name == "asyncio":
        message = record.getMessage()
        return "never retrieved" in message and "orbax" in message
    return bool(record.exc_info) and "orbax" in record.pathname


def _restore_verified(
    folder: epath.Path, abstract: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Arrays by path, and meta. Raises DamagedCheckpointError in all processes alike.

    Reading uses no barriers, so that a process which fails to read leaves no other
    waiting; then all processes agree before the digests, which are collective.
    """
    finding, arrays, saved = None, {}, None
    try:
        saved = manifest.read(folder)
        if saved.step != int(folder.name):
            raise DamagedCheckpointError(
                f"checkpoint {folder} is damaged: it holds step {saved.step}"
            )
        manifest.compare_signatures(folder, saved, abstract)
        arrays = read_arrays(
            folder,
            {path: _restore_args(leaf) for path, leaf in abstract.items() if leaf.size},
        )
    except DamagedCheckpointError as error:
        finding = error
    if not _all_processes(finding is None):
        raise finding or DamagedCheckpointError(
            f"checkpoint {folder} is damaged: another process could not read it"
        )
    assert saved is not None
    for path in set(abstract) - set(arrays):
        arrays[path] = _without_elements(abstract[path])
    manifest.compare_digests(folder, saved, digest.digest_arrays(arrays))
    return {
        path: _unstored(arrays[path], leaf) for path, leaf in abstract.items()
    }, saved.meta


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(array: jax.Array) -> jax.Array:
    """What is written for a leaf: PRNG keys as their data."""
    return jax.random.key_data(array) if _is_key(array) else array


def _unstored(array: jax.Array, leaf: Any) -> jax.Array:
    if not _is_key(leaf):
        return array
    impl: list[Any] = []  # a ShapeDtypeStruct does not tell, a traced array does
    jax.eval_shape(lambda keys: impl.append(jax.random.key_impl(keys)), leaf)
    wrap = functools.partial(jax.random.wrap_key_data, impl=impl[0])
    return jax.jit(wrap, out_shardings=leaf.sharding)(array)


def _key_data(leaf: Any) -> Any:
    """Shape and dtype of `_stored(leaf)`."""
    # Key data has one axis more than its keys; a sharding by leading axes fits both.
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _restore_args(leaf: Any) -> ocp.ArrayRestoreArgs:
    data = _key_data(leaf)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array,
        sharding=leaf.sharding,
        global_shape=data.shape,
        dtype=data.dtype,
    )


def _without_elements(leaf: Any) -> jax.Array:
    data = _key_data(leaf)
    return jax.make_array_from_callback(
        data.shape, leaf.sharding, lambda index: np.zeros(data.shape, data.dtype)[index]
    )


def _all_processes(verdict: bool) -> bool:
    if jax.process_count() == 1:
        return verdict
    return bool(multihost_utils.process_allgather(np.array(verdict)).all())


def _is_first_process() -> bool:
    return jax.process_index() == 0
