"""Encoders by their name in a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ecgssl_jax.models import vit
from ecgssl_jax.settings import ConfigError, convert, near

_NOT_SETTINGS = ("parent", "name", "dtype")


def compute_dtype(name: str) -> Any:
    """'auto', 'float32' or 'bfloat16' -> the dtype of matrix products here."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


def make_encoder(settings: Mapping[str, Any], *, dtype: Any) -> vit.ViT:
    """The module that `config.model` describes: a preset and changes to it.

    Raises:
      ConfigError: an unknown name, preset or setting, or a missing one.
    """
    settings = dict(settings)
    name = settings.pop("name", "vit")
    if name != "vit":
        raise ConfigError(f"config.model.name: unknown encoder {name!r}; known are vit")
    preset = settings.pop("preset", None)
    values: dict[str, Any] = {}
    if preset is not None:
        if preset not in vit.PRESETS:
            known = list(vit.PRESETS)
            raise ConfigError(
                f"config.model.preset: unknown preset {preset!r}{near(preset, known)}"
            )
        values |= vit.PRESETS[preset]
    fields = {
        field.name: field
        for field in dataclasses.fields(vit.ViT)
        if field.name not in _NOT_SETTINGS
    }
    for key, value in settings.items():
        if key not in fields:
            raise ConfigError(
                f"config.model: unknown key {key!r}{near(key, list(fields))}"
            )
        values[key] = convert(fields[key].type, value, f"config.model.{key}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            raise ConfigError(
                f"config.model.{key} is missing; set it, or choose a preset of "
                f"{', '.join(vit.PRESETS)}"
            )
    _check(values)
    return vit.ViT(**values, dtype=dtype)


def _check(values: Mapping[str, Any]) -> None:
    for key in ("width", "depth", "num_heads", "patch_size"):
        if values[key] < 1:
            raise ConfigError(
                f"config.model.{key}: expected at least 1, found {values[key]}"
            )
    if values["width"] % 2:
        raise ConfigError(
            "config.model.width: the sine-cosine positions need an even width, found "
            f"{values['width']}"
        )
    if values["width"] % values["num_heads"]:
        raise ConfigError(
            f"config.model: a width of {values['width']} cannot be split into "
            f"{values['num_heads']} heads"
        )
    if values.get("num_registers", 0) < 0:
        raise ConfigError(
            "config.model.num_registers: expected at least 0, found "
            f"{values['num_registers']}"
        )
    if values["width"] * values.get("mlp_ratio", 4.0) < 1:
        raise ConfigError(
            "config.model.mlp_ratio: leaves no hidden width, found "
            f"{values['mlp_ratio']}"
        )
    if not 0 <= values.get("drop_path", 0.0) < 1:
        raise ConfigError(
            "config.model.drop_path: expected at least 0 and below 1, found "
            f"{values['drop_path']}"
        )
