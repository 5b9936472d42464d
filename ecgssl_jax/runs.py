"""A finished or running pre-training, read back from its workdir."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ecgssl_jax import sharding
from ecgssl_jax.build_method import make_method
from ecgssl_jax.checkpoint_manifest import DamagedCheckpointError
from ecgssl_jax.checkpoint_reading import load_params, saved_meta
from ecgssl_jax.data.mixture import check_crop
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.text import Vocabulary
from ecgssl_jax.evaluation.features import (
    FeatureFunction,
    Signals,
    extract,
    make_feature_function,
    statistics_of,
)
from ecgssl_jax.experiment import Experiment, parse
from ecgssl_jax.experiment import Mesh as MeshSettings
from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods.base import Method
from ecgssl_jax.reporting import read_metrics
from ecgssl_jax.rules import path_string
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.signals import Statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run's config and where its parameters lie.

    Attributes:
      experiment: the config that the checkpoint was saved with.
      checkpoint: folder of the step that was read.
      step: updates made.
      data: of each set that it was trained on, by its name in the config: name, rate,
        leads, content_hash and folds, None for all.
      evaluated: the same of each evaluator's set, by the evaluator's name.
      began_with: of a run that began with another one's encoder, what it says of that
        one: checkpoint, step, data, learnt_from and, alike, began_with.
      labels: names of the labels that it was trained on, in the order of its logits.
      records: how many it was trained on.
      vocabulary: of methods that read reports, the tokens that they know.
    """

    experiment: Experiment
    checkpoint: Path
    step: int
    data: Mapping[str, Mapping[str, Any]]
    evaluated: Mapping[str, Mapping[str, Any]]
    began_with: Mapping[str, Any]
    labels: tuple[str, ...]
    records: int
    vocabulary: Vocabulary | None

    @property
    def is_best(self) -> bool:
        """Whether the step was chosen by its online probe."""
        return self.checkpoint.parent.name == "best"


def open_run(workdir: str | Path, which: str = "best") -> tuple[Run, Any]:
    """-> the run, and its `params` as nested NumPy arrays, verified.

    Args:
      workdir: of the run, or one step's folder in it, such as runs/jepa/best/4000.
      which: of a workdir, 'best' (the best probe's; the newest where none was kept) or
        'newest'.

    Raises:
      FileNotFoundError: no such workdir, or no such checkpoint in it.
      DamagedCheckpointError: none that is intact.
      ConfigError: the checkpoint holds no config or data, or not valid ones.
    """
    folder = _checkpoints(Path(workdir), which)
    try:
        params, meta = load_params(str(folder), subtree="params")
    except DamagedCheckpointError as error:
        if folder.name != "best":
            raise
        raise DamagedCheckpointError(
            f"{error} The newest checkpoint is read with --checkpoint=newest."
        ) from error
    return _run_of(meta, folder), params


def saved_run(workdir: str | Path, which: str = "best") -> Run:
    """As `open_run`, without the arrays; nothing says whether those are intact.

    Raises:
      FileNotFoundError, ConfigError: as `open_run`.
    """
    folder = _checkpoints(Path(workdir), which)
    meta = saved_meta(str(folder))
    if not meta and (Path(workdir) / "encoder.json").exists():
        raise ConfigError(
            f"{workdir} is an exported encoder, which nothing can be continued from; name "
            "the run that it was exported from"
        )
    if not meta:
        raise FileNotFoundError(f"no checkpoint in {folder} says what it is of")
    return _run_of(meta, folder)


def workdir_of(path: str | Path) -> Path:
    """The run's folder, of itself or of one step's folder in it."""
    path = Path(path)
    return path.parents[1] if _is_step(path) else path


def _is_step(path: Path) -> bool:
    return path.name.isdigit() and path.parent.name in ("best", "checkpoints")


def _checkpoints(path: Path, which: str) -> Path:
    """The folder of the best ones, of the newest, or of one step."""
    if which not in ("best", "newest"):
        raise ConfigError(f"which={which!r}: expected 'best' or 'newest'")
    workdir = workdir_of(path)
    if not workdir.is_dir():
        raise FileNotFoundError(
            f"there is no run in {workdir}: the workdir is the folder that "
            "python -m ecgssl_jax.main wrote to, such as runs/jepa"
        )
    if _is_step(path):
        if not path.is_dir():
            kept = [f"best/{step}" for step in _steps(workdir / "best")]
            kept += [f"checkpoints/{step}" for step in _steps(workdir / "checkpoints")]
            raise FileNotFoundError(
                f"there is no checkpoint {path}; kept are {', '.join(kept) or 'none'}"
            )
        return path
    if which == "best" and any(_steps(workdir / "best")):
        return workdir / "best"
    return workdir / "checkpoints"


def _run_of(meta: Mapping[str, Any], folder: Path) -> Run:
    """What a checkpoint of the folder says of its run."""
    if not {"config", "data", "evaluated", "tokens"} <= meta.keys():
        raise ConfigError(
            f"the checkpoint in {folder} does not say what it is of; it was not "
            "written by python -m ecgssl_jax.main, or by an earlier version of it"
        )
    step, vocabulary = int(meta["step"]), meta["tokens"].get("vocabulary")
    return Run(
        experiment=parse(meta["config"]),
        checkpoint=folder if _is_step(folder) else folder / str(step),
        step=step,
        data=meta["data"],
        evaluated=meta["evaluated"],
        began_with=meta.get("began_with", {}),
        labels=tuple(meta.get("labels", ())),
        records=meta.get("records", 0),
        vocabulary=None if vocabulary is None else Vocabulary.from_json(vocabulary),
    )


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def example_row(experiment: Experiment) -> dict[str, Any]:
    """One row of zeros to initialise the method with: only its shape matters.

    A method is initialised by the signals alone: no pipeline, and no TensorFlow.
    """
    return {"ecg": np.zeros((1, experiment.data.crop, len(LEADS)), np.float32)}


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
        extra, _ = load_params(str(run.checkpoint), subtree="extra")
    return (
        structured(params, shapes[0], f"{run.checkpoint}: params"),
        structured(extra, shapes[1], f"{run.checkpoint}: extra"),
    )


def structured(found: Any, shapes: Any, where: str) -> Any:
    """The arrays of `found`, in the tree of `shapes`.

    Args:
      found: nested, or by their path.
      where: what they are of, for the error.

    Raises:
      ConfigError: other arrays than those of `shapes`.
    """
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenEncoder:
    """An encoder, with what its checkpoint says of how to prepare ECGs for it.

    Attributes:
      run: read back from its workdir.
      method: the run's.
      parameters: (params, extra) of the method.
      function, mesh: the method's features, jitted, and the devices for it.
      tokens: the dtype in which the function gives tokens too; None without them.
    """

    run: Run
    method: Method
    parameters: tuple[Any, Any]
    function: FeatureFunction
    mesh: Mesh
    tokens: Any

    def encode(
        self, prepared: PreparedSet, rows: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Features of the records `rows` of a set, of all of them by default.

        Signals are normalised by the set's own statistics, as in training.

        Returns:
          'pooled' [n, D] float32, in the order of `rows`; of records that are longer than
          the crop, and with tokens, see `evaluation.features.extract`.

        Raises:
          ConfigError: as `check`.
          DamagedSetError: a record does not match its checksum.
        """
        if not isinstance(prepared, PreparedSet):
            raise TypeError(
                "expected a prepared set, as open_prepared(folder) gives it, found "
                f"{type(prepared).__name__}; python -m ecgssl_jax.prepare makes one"
            )
        self.check(prepared)
        rows = np.arange(len(prepared)) if rows is None else rows
        return self.encode_signals(prepared, rows, statistics_of([prepared]))

    def encode_signals(
        self,
        signals: Signals,
        rows: np.ndarray,
        statistics: Statistics,
        *,
        batch_size: int = 256,
    ) -> dict[str, np.ndarray]:
        """As `encode`, of any signals of the encoder's rate, by these statistics."""
        return extract(
            self.function,
            *self.parameters,
            signals,
            rows,
            statistics=statistics,
            crop=self.run.experiment.data.crop,
            batch_size=batch_size,
            mesh=self.mesh,
        )

    def check(self, prepared: PreparedSet) -> None:
        """Raises ConfigError unless the set has the rate and length for the encoder."""
        name, trained = next((name, x["rate"]) for name, x in self.run.data.items())
        if prepared.rate != trained:
            raise ConfigError(
                f"{prepared.name} has {prepared.rate:g} Hz, the encoder was trained at "
                f"{trained:g} Hz ({name}); prepare it again with --rate={trained:g}"
            )
        check_crop(prepared, self.run.experiment.data.crop)

    def random(self, seed: int) -> "FrozenEncoder":
        """The same encoder before any training: what a run of this seed starts from."""
        example = example_row(self.run.experiment)
        parameters = random_parameters(self.method, example, seed)
        return dataclasses.replace(self, parameters=parameters)


def load_encoder(
    workdir: str | Path, which: str = "best", *, tokens: Any = None
) -> FrozenEncoder:
    """The encoder of a run's checkpoint, verified.

    Args:
      workdir, which: as for `open_run`.
      tokens: the dtype in which `encode` gives the tokens too; None without them.

    Raises:
      FileNotFoundError, DamagedCheckpointError, ConfigError: as `open_run` and
        `trained_parameters`.
    """
    run, params = open_run(workdir, which)
    method = make_method(run.experiment)
    parameters = trained_parameters(run, params, method, example_row(run.experiment))
    return freeze(run, parameters, tokens=tokens)


def freeze(
    run: Run, parameters: tuple[Any, Any], *, tokens: Any = None
) -> FrozenEncoder:
    """The run's encoder with these (params, extra); `tokens` as for `load_encoder`."""
    method = make_method(run.experiment)
    mesh = sharding.make_mesh(MeshSettings())
    return FrozenEncoder(
        run=run,
        method=method,
        parameters=parameters,
        function=make_feature_function(
            method, mesh, clip=run.experiment.data.clip, tokens=tokens
        ),
        mesh=mesh,
        tokens=tokens,
    )


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
