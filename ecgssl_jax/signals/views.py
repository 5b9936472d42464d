"""Views of a record: chains of transforms, as the config lists them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ecgssl_jax.settings import ConfigError, build, near
from ecgssl_jax.signals import base
from ecgssl_jax.signals.amplitude import (
    AmplitudeScaling,
    Inversion,
    LeadDropout,
    Normalisation,
)
from ecgssl_jax.signals.filters import Derivative, GaussianBlur
from ecgssl_jax.signals.geometry import (
    RandomCrop,
    RandomResizedCrop,
    Reversal,
    TimeOut,
    TimeWarp,
)
from ecgssl_jax.signals.noise import (
    BaselineShift,
    BaselineWander,
    EmgNoise,
    GaussianNoise,
    PowerlineNoise,
    RandomWander,
)
from ecgssl_jax.signals.vectorcardiogram import VcgRotation

# Name in a config -> transform.
TRANSFORMS: Mapping[str, type[base.Transform]] = {
    "random_crop": RandomCrop,
    "random_resized_crop": RandomResizedCrop,
    "time_warp": TimeWarp,
    "time_out": TimeOut,
    "reversal": Reversal,
    "inversion": Inversion,
    "amplitude_scaling": AmplitudeScaling,
    "lead_dropout": LeadDropout,
    "normalisation": Normalisation,
    "gaussian_blur": GaussianBlur,
    "derivative": Derivative,
    "gaussian_noise": GaussianNoise,
    "baseline_wander": BaselineWander,
    "baseline_shift": BaselineShift,
    "emg_noise": EmgNoise,
    "powerline_noise": PowerlineNoise,
    "random_wander": RandomWander,
    "vcg_rotation": VcgRotation,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A transform, the share of the records that it changes, and where that stands.

    Attributes:
      path: in the config, for messages.
    """

    transform: base.Transform
    probability: float
    path: str


View = tuple[Step, ...]


def build_views(config: Sequence[Any], path: str = "config.views") -> tuple[View, ...]:
    """The views that a config lists.

    Args:
      config: for each view its steps, in their order: (name, probability) or (name,
        probability, {parameter: value}), lists or tuples.
      path: where it stands, for messages.

    Raises:
      ConfigError: something else is listed, with the path of it.
    """
    if not _is_list(config):
        raise ConfigError(
            f"{path}: expected a list of views, each a list of steps, found {config!r}"
        )
    return tuple(_view(view, f"{path}[{i}]") for i, view in enumerate(config))


def _view(steps: Any, path: str) -> View:
    if not _is_list(steps):
        raise ConfigError(f"{path}: expected a list of steps, found {steps!r}")
    if len(steps) > 1 and isinstance(steps[0], str):
        raise ConfigError(
            f"{path}: expected a list of steps, found the step {tuple(steps)!r}; "
            "config.views is a list of views, each a list of steps"
        )
    return tuple(_step(step, f"{path}[{j}]") for j, step in enumerate(steps))


def _step(step: Any, path: str) -> Step:
    if not _is_list(step) or len(step) not in (2, 3):
        raise ConfigError(
            f"{path}: expected (name, probability) or (name, probability, "
            f"{{parameter: value}}), found {step!r}"
        )
    name, probability = step[:2]
    values = step[2] if len(step) == 3 else {}
    if not isinstance(name, str) or name not in TRANSFORMS:
        raise ConfigError(
            f"{path}: unknown transform {name!r}{near(name, list(TRANSFORMS))}"
        )
    if isinstance(probability, bool) or not isinstance(probability, int | float):
        raise ConfigError(f"{path}: {name}'s probability is {probability!r}, no number")
    if not 0.0 <= probability <= 1.0:
        raise ConfigError(
            f"{path}: {name}'s probability is {probability}; give one from 0 to 1"
        )
    cls = TRANSFORMS[name]
    if getattr(cls, "changes_length", False) and probability != 1:
        raise ConfigError(
            f"{path}: {name}'s probability is {probability}; it must be 1, because "
            "all records of a batch are of one length"
        )
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{path}: expected {name}'s parameters as a mapping, found {values!r}"
        )
    transform = build(cls, values, f"{path} ({name})")
    return Step(transform=transform, probability=float(probability), path=path)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def make_views(
    views: Sequence[View],
    rng: jax.Array,
    ecg: jax.Array,
    lead_valid: jax.Array,
    length: base.Length = None,
    *,
    rate: float,
) -> list[tuple[jax.Array, base.Length]]:
    """The views of every record, each with draws of its own.

    The same however the batch is sharded, and without traffic between devices.

    Args:
      views: from `build_views`.
      rng: key.
      ecg: [B, T, C] float32, millivolts.
      lead_valid: [B, C] bool, leads that a record has.
      length: [B] int32, valid samples; None where all records are full.
      rate: Hz, static.

    Returns:
      For each view [B, T', C] float32, zero where a lead or a sample is missing, and
      its lengths, None where `length` is.

    Raises:
      ConfigError: while tracing, where a transform does not fit T, C or the rate.
    """
    ecg = missing_to_zero(ecg, lead_valid, length)
    return [
        _make_view(view, key, ecg, lead_valid, length, rate)
        for view, key in zip(views, jax.random.split(rng, len(views)), strict=True)
    ]


def _make_view(
    view: View,
    rng: jax.Array,
    ecg: jax.Array,
    lead_valid: jax.Array,
    length: base.Length,
    rate: float,
) -> tuple[jax.Array, base.Length]:
    for j, step in enumerate(view):
        for_transform, for_choice = jax.random.split(jax.random.fold_in(rng, j))
        try:
            changed, length = step.transform(for_transform, ecg, length, rate=rate)
        except ValueError as error:
            raise ConfigError(f"{step.path}: {error}") from error
        changed = missing_to_zero(changed, lead_valid, length)
        if step.probability == 1.0:
            ecg = changed
        else:
            chosen = jax.random.bernoulli(for_choice, step.probability, ecg.shape[:1])
            ecg = jnp.where(chosen[:, None, None], changed, ecg)
    return ecg, length


def missing_to_zero(
    ecg: jax.Array, lead_valid: jax.Array, length: base.Length
) -> jax.Array:
    """[B, T, C] with its missing leads, and what lies beyond its length, zero."""
    valid = lead_valid[:, None, :]
    if length is not None:
        valid = valid & base.valid_samples(ecg, length)[:, :, None]
    return jnp.where(valid, ecg, 0.0)


def check_views(
    views: Sequence[View], *, samples: int, leads: int, rate: float
) -> None:
    """Raises ConfigError where the views do not fit signals of that shape and rate."""
    jax.eval_shape(
        lambda rng, ecg, valid: make_views(views, rng, ecg, valid, rate=rate),
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((1, samples, leads), jnp.float32),
        jax.ShapeDtypeStruct((1, leads), jnp.bool_),
    )
