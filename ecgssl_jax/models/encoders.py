"""Encoders by their name in a config, and what every method asks of one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ecgssl_jax.models import resnet, vit
from ecgssl_jax.models.layers import existing
from ecgssl_jax.models.network import Network, Params, Statistics
from ecgssl_jax.platforms import platform
from ecgssl_jax.settings import ConfigError, convert, near

_NOT_SETTINGS = ("parent", "name", "dtype")

Module = vit.ViT | resnet.ResNet


def compute_dtype(name: str) -> Any:
    """'auto', 'float32' or 'bfloat16' -> the dtype of matrix products."""
    if name == "auto":
        return jnp.float32 if platform() == "cpu" else jnp.bfloat16
    return jnp.dtype(name)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An ECG -> its tokens and their mean, whatever the module.

    Attributes:
      module: [B, T, C] and, where records can be shorter, `length` -> tokens
        [B, N, D], N = ceil(T / stride).
    """

    module: Module

    @property
    def network(self) -> Network:
        return Network(self.module)

    def init(self, rng: jax.Array, ecg: jax.Array) -> tuple[Params, Statistics]:
        """-> parameters and running statistics; only the shape of `ecg` matters."""
        return self.network.init_all(rng, ecg[:1])

    def init_with_head(
        self, rng: jax.Array, ecg: jax.Array, name: str, head: Network
    ) -> tuple[dict[str, Params], dict[str, Statistics]]:
        """As `init`, of 'encoder' and, under `name`, of a head on its pooled features."""
        encoder_rng, head_rng = jax.random.split(rng)
        params, statistics = self.init(encoder_rng, ecg)
        pooled = jax.eval_shape(self.features, params, statistics, ecg[:1])["pooled"]
        head_params, head_statistics = head.init_all(head_rng, jnp.zeros(pooled.shape))
        return (
            {"encoder": params, name: head_params},
            {"encoder": statistics, name: head_statistics},
        )

    def features(
        self,
        params: Params,
        statistics: Statistics,
        ecg: jax.Array,
        length: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """In evaluation mode: 'pooled' [B, D] and 'tokens' [B, N, D].

        Args:
          ecg: [B, T, C] float32, normalised.
          length: [B] int32, valid samples; None where all are. Then there is also
            'tokens_valid' [B, N] bool, and the others are not in the mean.
        """
        valid = self.valid_tokens(ecg, length)
        tokens = self.network.apply(params, ecg, length=length, statistics=statistics)
        features = {"pooled": vit.mean_pool(tokens, valid), "tokens": tokens}
        return features if valid is None else features | {"tokens_valid": valid}

    def train(
        self,
        params: Params,
        statistics: Statistics,
        ecg: jax.Array,
        length: jax.Array | None,
        rng: jax.Array | None,
    ) -> tuple[jax.Array, Statistics]:
        """-> the mean of the tokens [B, D] in training mode, running statistics.

        Without a key no path is dropped.
        """
        rngs = None if rng is None else {"drop_path": rng}
        tokens, statistics = self.network.train(
            params, statistics, ecg, length=length, rngs=rngs
        )
        return vit.mean_pool(tokens, self.valid_tokens(ecg, length)), statistics

    def valid_tokens(
        self, ecg: jax.Array, length: jax.Array | None
    ) -> jax.Array | None:
        """[B, N]: tokens that begin within the record; None where all do."""
        if length is None:
            return None
        stride = self.module.stride
        return existing(length, -(-ecg.shape[1] // stride), stride)


class _Kind(NamedTuple):
    """A class of modules, its presets, and the check of its settings."""

    module: Any
    presets: Mapping[str, Mapping[str, Any]]
    check: Callable[[Mapping[str, Any]], None]


def make_encoder(settings: Mapping[str, Any], *, dtype: Any) -> Module:
    """The module that `config.model` describes: a preset and changes to it.

    Raises:
      ConfigError: an unknown name, preset or setting, or a missing one.
    """
    settings = dict(settings)
    name = settings.pop("name", "vit")
    if name not in _KINDS:
        raise ConfigError(
            f"config.model.name: unknown encoder {name!r}{near(name, list(_KINDS))}"
        )
    module, presets, check = _KINDS[name]
    preset = settings.pop("preset", None)
    values: dict[str, Any] = {}
    if preset is not None:
        # A preset such as 18 arrives as a number.
        preset = str(preset)
        if preset not in presets:
            raise ConfigError(
                f"config.model.preset: unknown preset {preset!r} of {name}"
                f"{near(preset, list(presets))}"
            )
        values |= presets[preset]
    fields = _fields(module)
    for key, value in settings.items():
        if key not in fields:
            others = [x for x, kind in _KINDS.items() if key in _fields(kind.module)]
            known = near(key, ["preset", *fields])
            if others:
                known = (
                    f", which {others[0]} has; to change the encoder, give the whole of "
                    f"config.model, such as {{'name': {name!r}, 'preset': ...}}"
                )
            raise ConfigError(f"config.model: unknown key {key!r} of {name}{known}")
        values[key] = convert(fields[key].type, value, f"config.model.{key}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            known = [name for name, preset in presets.items() if key in preset]
            raise ConfigError(
                f"config.model.{key} is missing; set it"
                + (f", or choose a preset of {', '.join(known)}" if known else "")
            )
    check(values)
    return module(**values, dtype=dtype)


def _fields(module: Any) -> dict[str, dataclasses.Field]:
    """The settings of a class of modules, by name."""
    fields = {field.name: field for field in dataclasses.fields(module)}
    return {k: field for k, field in fields.items() if k not in _NOT_SETTINGS}


def _check_at_least(values: Mapping[str, Any], least: int, *names: str) -> None:
    for name in names:
        if name in values and values[name] < least:
            raise ConfigError(
                f"config.model.{name}: expected at least {least}, found {values[name]}"
            )


def _check_vit(values: Mapping[str, Any]) -> None:
    _check_at_least(values, 1, "width", "depth", "num_heads", "patch_size")
    _check_at_least(values, 0, "num_registers")
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


def _check_resnet(values: Mapping[str, Any]) -> None:
    _check_at_least(values, 1, "features")
    if not values["blocks"] or min(values["blocks"]) < 1:
        raise ConfigError(
            "config.model.blocks: expected the blocks of each stage, at least 1, found "
            f"{values['blocks']}"
        )
    if values.get("widening", 1.0) <= 0:
        raise ConfigError(
            "config.model.widening: expected a positive factor, found "
            f"{values['widening']}"
        )
    features = values.get("features", 64)
    inner = round(features * values.get("widening", 1.0))
    if values.get("norm", "batch") == "group" and (features % 32 or inner % 32):
        raise ConfigError(
            "config.model.features: norm='group' makes 32 groups, which do not divide "
            f"{features}"
            + (f" and {inner} (with widening)" if inner != features else "")
        )


_KINDS = {
    "vit": _Kind(vit.ViT, vit.PRESETS, _check_vit),
    "resnet": _Kind(resnet.ResNet, resnet.PRESETS, _check_resnet),
}
