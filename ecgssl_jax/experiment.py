"""What a config describes, checked before anything expensive starts.

A config file returns nested mappings (ml_collections); `parse` turns them into the
frozen `Experiment`. Every setting, its meaning and its default stands here or in
the `Settings` of the method, model, masks or evaluator that it configures.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ecgssl_jax.optim import Settings as OptimSettings
from ecgssl_jax.rules import check_patterns
from ecgssl_jax.settings import ConfigError, build

# The prepared set that is made on first use.
EMBEDDED = "synthetic"


def _check_counts(settings: Any, path: str, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(
                f"{path}.{name}: expected at least 1, found {getattr(settings, name)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """One set of a mixture.

    Attributes:
      name: of the prepared set.
      weight: its share of the batches' rows, in any unit; None in all components
        makes them as large as the sets are.
      folds: folds to train on; None for all.
    """

    name: str
    weight: float | None = None
    folds: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.weight is not None and not 0 < self.weight < float("inf"):
            raise ValueError(f"weight must be a positive number, found {self.weight}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where the batches come from.

    Attributes:
      root: folder of the prepared sets.
      name: of the prepared set; 'synthetic' is made on first use.
      folds: folds to train on; None for all.
      mixture: several sets in the place of `name` and `folds`, such as
        ({'name': 'ptbxl', 'weight': 1, 'folds': (1, 2)}, {'name': 'mine', 'weight': 3});
        each is normalised by its own statistics.
      rate: Hz that the sets must have, since `crop` and `model.patch_size` are in
        samples; None for any.
      crop: T, samples of a random crop; it must not exceed the stored records.
      clip: largest magnitude after normalising, in standard deviations of the
        lead; None for none.
      cache: 'none' reads records on demand, 'host' keeps the set in the memory of each
        process, 'device' shards it over the memory of the accelerators.
      synthetic_records: size of the embedded set when it is made.
    """

    root: str = "data"
    name: str = "synthetic"
    folds: tuple[int, ...] | None = None
    mixture: tuple[Component, ...] = ()
    rate: float | None = None
    crop: int = 1000
    clip: float | None = 5.0
    cache: Literal["none", "host", "device"] = "host"
    synthetic_records: int = 4000

    def __post_init__(self):
        _check_counts(self, "config.data", "crop", "synthetic_records")
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(
                f"config.data.clip: expected a positive number, found {self.clip}"
            )
        if self.mixture:
            self._check_mixture()

    def _check_mixture(self):
        path = "config.data.mixture"
        names = [component.name for component in self.mixture]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{path}: {name} occurs more than once")
        if len({component.weight is None for component in self.mixture}) > 1:
            raise ConfigError(
                f"{path}: expected a weight in all components or in none, found "
                f"{[component.weight for component in self.mixture]}"
            )
        if self.folds is not None:
            raise ConfigError(
                f"config.data.folds: {self.folds}, but each set of a mixture has folds "
                "of its own: write them there, and folds=None here"
            )

    @property
    def components(self) -> tuple[Component, ...]:
        """The sets to train on: those of the mixture, or the one of `name`."""
        return self.mixture or (Component(name=self.name, folds=self.folds),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What supervised training begins with, in the place of random parameters.

    Attributes:
      encoder: workdir of the run that trained it, or one step's folder in it, such as
        runs/jepa/best/4000; None for a random one.
      checkpoint: of a workdir.
      probe: whether the classifier begins as a linear probe on the encoder as it is,
        so that training does not first have to undo a random one. Kumar et al., arXiv
        2202.10054.
    """

    encoder: str | None = None
    checkpoint: Literal["best", "newest"] = "best"
    probe: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along each axis; one -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """What is saved of a run.

    Attributes:
      every: steps between saves.
      keep: how many of the newest stay.
      best: evaluator/metric whose highest value marks the best checkpoint, which
        is kept beside the newest ones.
    """

    every: int = 500
    keep: int = 2
    best: str = "probe/macro_auroc"

    def __post_init__(self):
        _check_counts(self, "config.checkpoint", "every", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run.

    Attributes:
      seed: of everything random.
      steps: updates of the parameters.
      batch_size: B, rows of the global batch, over all devices and processes.
      dtype: of matrix products: 'bfloat16', 'float32', or 'auto': bfloat16 on
        accelerators, float32 on CPUs.
      start: what supervised training begins with.
      method, model, masks: `name` or `kind` and its settings.
      views: for methods that compare views of a record: for each of them its
        transforms, (name, probability, parameters) in their order (`signals.views`).
      evaluators: name -> settings, run during training; None leaves one out.
      rules: (pattern, axes) of the sharding of parameters; () for the defaults.
      log_every: steps between log lines.
      stall_seconds: of waiting for a batch, or for devices and other processes, after
        which a process ends, to be started anew; 0 to wait for ever.
    """

    seed: int = 0
    steps: int
    batch_size: int
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    data: Data = Data()
    start: Start = Start()
    masks: Mapping[str, Any] | None = None
    views: tuple[Any, ...] = ()
    model: Mapping[str, Any]
    method: Mapping[str, Any]
    optim: OptimSettings = OptimSettings()
    mesh: Mesh = Mesh()
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    checkpoint: Checkpoints = Checkpoints()
    evaluators: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log_every: int = 50
    stall_seconds: float = 1800.0

    def __post_init__(self):
        _check_counts(self, "config", "steps", "batch_size", "log_every")
        if not 0 <= self.stall_seconds < float("inf"):
            raise ConfigError(
                f"config.stall_seconds: expected at least 0, found {self.stall_seconds}"
            )
        if not -(2**31) <= self.seed < 2**31:
            raise ConfigError(
                f"config.seed: expected a whole number of 32 bits, found {self.seed}"
            )
        check_patterns(self.rules, what="config.rules")
        _check_axes(self.rules)
        if self.batch_size % self.optim.accumulate:
            raise ConfigError(
                f"config.batch_size: {self.batch_size} rows cannot be split into "
                f"optim.accumulate={self.optim.accumulate} micro-batches"
            )


def _check_axes(rules: tuple[tuple[str, tuple[str | None, ...]], ...]) -> None:
    known = [field.name for field in dataclasses.fields(Mesh)]
    for pattern, axes in rules:
        named = [axis for axis in axes if axis is not None]
        for axis in named:
            if axis not in known:
                raise ConfigError(
                    f"config.rules: {pattern!r} names the axis {axis!r}; the mesh has "
                    f"{', '.join(known)}"
                )
            if named.count(axis) > 1:
                raise ConfigError(
                    f"config.rules: {pattern!r} names the axis {axis!r} twice; an axis "
                    "divides one dimension of an array"
                )


def parse(config: Mapping[str, Any]) -> Experiment:
    """The checked experiment; raises ConfigError with the key and a near match."""
    experiment = build(Experiment, config, "config")
    wanted = {k: v for k, v in experiment.evaluators.items() if v is not None}
    return dataclasses.replace(experiment, evaluators=wanted)
