"""A finished or running pre-training, read back from its workdir."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax import assembly, checkpoint
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.experiment import Experiment, parse
from ecgssl_jax.manifest import DamagedCheckpointError
from ecgssl_jax.methods.base import Method
from ecgssl_jax.optim import path_string
from ecgssl_jax.reporting import read_metrics
from ecgssl_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run's config and where its parameters lie.

    Attributes:
      experiment: the config that the checkpoint was saved with.
      checkpoint: folder of the step that was read.
      step: updates made.
      data: name, rate, leads and content_hash of the set that it was trained on.
    """

    experiment: Experiment
    checkpoint: Path
    step: int
    data: Mapping[str, Any]

    @property
    def is_best(self) -> bool:
        """Whether the step was chosen by its online probe."""
        return self.checkpoint.parent.name == "best"


def open_run(workdir: str | Path, which: str = "best") -> tuple[Run, Any]:
    """-> the run, and its `params` as nested NumPy arrays, verified.

    Args:
      which: 'best' (the best probe's; the newest where none was kept) or 'newest'.

    Raises:
      FileNotFoundError: no such workdir, or no checkpoint in it.
      DamagedCheckpointError: none that is intact.
      ConfigError: the checkpoint holds no config or data, or not valid ones.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(
            f"there is no run in {workdir}; --workdir is the folder that "
            "python -m ecgssl_jax.main wrote to, such as runs/jepa"
        )
    folder = workdir / "checkpoints"
    if which == "best" and any(_steps(workdir / "best")):
        folder = workdir / "best"
    try:
        params, meta = checkpoint.load_params(str(folder), subtree="params")
    except DamagedCheckpointError as error:
        if folder.name != "best":
            raise
        raise DamagedCheckpointError(
            f"{error} The newest checkpoint is read with --checkpoint=newest."
        ) from error
    if not {"config", "data"} <= meta.keys():
        raise ConfigError(
            f"the checkpoint in {folder} does not say what it is of; it was not "
            "written by python -m ecgssl_jax.main"
        )
    step = int(meta["step"])
    run = Run(
        experiment=parse(meta["config"]),
        checkpoint=folder / str(step),
        step=step,
        data=meta["data"],
    )
    return run, params


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def example_batch(experiment: Experiment, prepared: PreparedSet) -> dict[str, Any]:
    """A batch of zeros with the shapes that the method is initialised with."""
    data = dataclasses.replace(experiment.data, folds=None)
    experiment = dataclasses.replace(experiment, data=data)
    zeros = assembly.make_pipeline(experiment, prepared).shapes()
    # As `signals.prepare` makes it of the stored integers.
    return zeros | {"ecg": np.zeros(zeros["ecg"].shape, np.float32)}


def random_parameters(method: Method, example: Any, seed: int) -> tuple[Any, Any]:
    """-> params, extra: what a run with this seed starts from."""
    return jax.jit(method.init)(jax.random.key(seed), example)


def trained_parameters(
    run: Run, params: Any, method: Method, example: Any
) -> tuple[Any, Any]:
    """-> params, extra of the run's checkpoint, in the method's own structure.

    Raises:
      ConfigError: the checkpoint's arrays are not those that its config describes.
    """
    shapes = jax.eval_shape(method.init, jax.random.key(0), example)
    extra = {}
    if jax.tree.leaves(shapes[1]):
        extra, _ = checkpoint.load_params(str(run.checkpoint), subtree="extra")
    return (
        _structured(params, shapes[0], f"{run.checkpoint}: params"),
        _structured(extra, shapes[1], f"{run.checkpoint}: extra"),
    )


def _structured(found: Any, shapes: Any, where: str) -> Any:
    """The arrays of `found`, in the tree of `shapes`."""
    arrays = {path_string(p): x for p, x in jax.tree.leaves_with_path(found)}
    expected = {path_string(p): x for p, x in jax.tree.leaves_with_path(shapes)}
    for path in {**expected, **arrays}:
        saved = getattr(arrays.get(path), "shape", None)
        wanted = getattr(expected.get(path), "shape", None)
        if saved != wanted:
            raise ConfigError(
                f"{where}/{path} has the shape {saved}, its config describes {wanted}: "
                "was it written by another version of this package?"
            )
    leaves = [jnp.asarray(arrays[path]) for path in expected]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def training_summary(workdir: str | Path) -> dict[str, float]:
    """Steps, minutes and median rates of the run, from its metrics.jsonl.

    Empty where nothing was logged.
    """
    lines = [x for x in read_metrics(workdir) if "samples_per_second" in x]
    if not lines:
        return {}

    def median(name: str) -> float:
        return float(np.median([line[name] for line in lines]))

    return {
        "steps": lines[-1]["step"],
        "minutes": lines[-1]["elapsed_seconds"] / 60,
        "samples_per_second": median("samples_per_second"),
        "data_wait_share": median("data_wait_share"),
    }
