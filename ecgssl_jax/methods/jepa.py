"""Joint-embedding predictive architecture on ECG patches.

An encoder sees the context patches; a predictor says from them, and from where the
target patches lie, what a slowly moving average of the encoder makes of those
targets in the whole signal. I-JEPA: arXiv 2301.08243; on ECGs: arXiv 2410.13867.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.ema import ema_update, ema_weights
from ecgssl_jax.models import vit
from ecgssl_jax.models.encoders import Encoder
from ecgssl_jax.models.network import Network

LossKind = Literal["power", "smooth_l1"]

# What the predictor has from the encoder.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of JEPA.

    Attributes:
      predictor_width, predictor_depth, predictor_num_heads: the predictor's sizes.
      separate: each target block is predicted on its own from the context
        (I-JEPA); otherwise all masked patches at once (Weimann & Conrad).
      normalise_targets: layer-norm the target tokens, without gain or bias.
      loss: 'power' for mean |error|^exponent / exponent, or 'smooth_l1'.
      exponent: of the power loss: 1 is L1, 2 half of L2.
      ema: momentum of the target encoder at the first and at the last step.
      variance_weight: of the regulariser that keeps the predictions' standard
        deviation over patches near 1 or above; 0 leaves it out.
    """

    predictor_width: int = 192
    predictor_depth: int = 8
    predictor_num_heads: int = 6
    separate: bool = False
    normalise_targets: bool = False
    loss: LossKind = "power"
    exponent: float = 1.0
    ema: tuple[float, float] = (0.998, 0.9995)
    variance_weight: float = 0.0

    def __post_init__(self):
        width, num_heads = self.predictor_width, self.predictor_num_heads
        if min(width, num_heads, self.predictor_depth) < 1:
            raise ValueError(
                "predictor_width, predictor_depth and predictor_num_heads must be at "
                f"least 1, found {width}, {self.predictor_depth} and {num_heads}"
            )
        if width % num_heads or width % 2:
            raise ValueError(
                f"a predictor_width of {width} cannot be split into "
                f"predictor_num_heads={num_heads} heads, or is not even"
            )
        # Below 1 the gradient of the smallest errors is the largest, without bound.
        if self.exponent < 1:
            raise ValueError(f"exponent must be at least 1, found {self.exponent}")
        if not all(0 <= momentum <= 1 for momentum in self.ema):
            raise ValueError(f"ema takes momenta from 0 to 1, found {self.ema}")


def jepa_loss(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    kind: LossKind = "power",
    exponent: float = 1.0,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Mean error over all valid tokens and their width, a scalar.

    Args:
      predictions, targets: [..., L, D], any float dtype; computed in at least
        float32.
      kind: 'power': |error|^exponent / exponent (arXiv 2301.08243, eq. 1, for
        exponent 2); 'smooth_l1': Huber's with its knee at 1.
      valid: [..., L] bool, tokens that count; None for all.

    Raises:
      ValueError: an unknown kind.
    """
    dtype = jnp.promote_types(jnp.result_type(predictions, targets), jnp.float32)
    error = jnp.abs(predictions.astype(dtype) - targets.astype(dtype))
    if kind == "power":
        # |x|^1 through `power` would lose the gradient's sign at tiny errors.
        loss = error if exponent == 1 else error**exponent / exponent
    elif kind == "smooth_l1":
        loss = jnp.where(error < 1, 0.5 * error**2, error - 0.5)
    else:
        raise ValueError(f"unknown JEPA loss {kind!r}; use 'power' or 'smooth_l1'")
    return _token_mean(loss.mean(axis=-1), valid)


def variance_regulariser(
    tokens: jax.Array, *, valid: jax.Array | None = None, epsilon: float = 1e-4
) -> jax.Array:
    """mean(relu(1 - s)), where s is the deviation over tokens, averaged over blocks.

    A hinge as in arXiv 2105.04906, eq. 1, on patches, not on the batch.

    Args:
      tokens: [..., M, L, D].
      valid: [..., M, L] bool, tokens that count; None for all.
    """
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    if valid is None:
        deviation = jnp.sqrt(tokens.var(axis=-2, ddof=1) + epsilon)
        return jax.nn.relu(1 - deviation.mean(axis=-2)).mean()
    weight = valid.astype(tokens.dtype)[..., None]
    count = weight.sum(axis=-2)  # [..., M, 1]
    mean = (tokens * weight).sum(axis=-2) / jnp.maximum(count, 1)
    squares = (weight * (tokens - mean[..., None, :]) ** 2).sum(axis=-2)
    deviation = jnp.sqrt(squares / jnp.maximum(count - 1, 1) + epsilon)
    # A block needs two tokens to have a deviation, a record one such block.
    spread = count > 1
    deviation = jnp.where(spread, deviation, 0).sum(axis=-2)
    deviation /= jnp.maximum(spread.sum(axis=-2), 1)
    return _token_mean(jax.nn.relu(1 - deviation).mean(axis=-1), spread.any((-2, -1)))


def _token_mean(values: jax.Array, valid: jax.Array | None) -> jax.Array:
    if valid is None:
        return values.mean()
    weight = jnp.broadcast_to(valid, values.shape).astype(values.dtype)
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1)


def _layer_norm(tokens: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jepa:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'predictor'; extra: 'target_encoder'.
    """

    settings: Settings
    encoder: Encoder
    predictor: Network
    steps: int
    num_views: ClassVar[tuple[int, ...]] = (0,)
    text: ClassVar[TextShape | None] = None
    labels: ClassVar[LabelShape | None] = None
    leads: ClassVar[tuple[str, ...]] = ()
    couples_rows: ClassVar[bool] = False

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        encoder_rng, predictor_rng = jax.random.split(rng)
        ecg = batch["ecg"][:1]
        encoder, _ = self.encoder.init(encoder_rng, ecg)
        tokens = jax.eval_shape(self.encoder.network.apply, encoder, ecg)
        _, num_patches, width = tokens.shape
        predictor = self.predictor.init(
            predictor_rng,
            jnp.zeros((1, 1, width), tokens.dtype),
            jnp.ones((1, 1), bool),
            jnp.zeros((1, 2), jnp.int32),
            num_patches=num_patches,
            num_targets=1,
        )
        # A copy: the state is donated, and no buffer may be donated twice.
        target = jax.tree.map(jnp.copy, encoder)
        params = {"encoder": encoder, "predictor": predictor}
        return params, {"target_encoder": target}

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        settings = self.settings
        context_rng, predictor_rng = jax.random.split(rng)
        context, context_valid = self._context(params, batch, context_rng)
        rngs = {"drop_path": predictor_rng}
        predict = self._separately if settings.separate else self._together
        predictions, indices, valid = predict(
            params, batch, context, context_valid, rngs
        )
        targets = self._targets(extra, batch, indices)
        valid = valid & self._inside(batch, indices)

        def error(predicted):
            kind, exponent = settings.loss, settings.exponent
            return jepa_loss(
                predicted, targets, kind=kind, exponent=exponent, valid=valid
            )

        loss = error(predictions)
        weight = valid.astype(targets.dtype)[..., None]
        count = jnp.maximum(weight.sum(), 1)
        mean = (targets * weight).sum((0, 1, 2)) / count
        variance = (weight * (targets - mean) ** 2).sum((0, 1, 2)) / count
        metrics = {
            "prediction_loss": loss,
            # A collapsed encoder shows in both: constant targets deviate from
            # their mean by nothing, and predicting that mean costs nothing.
            "mean_prediction_loss": error(mean),
            "target_std": jnp.sqrt(variance).mean(),
        }
        if settings.variance_weight:
            regulariser = variance_regulariser(predictions, valid=valid)
            metrics["variance_regulariser"] = regulariser
            loss = loss + settings.variance_weight * regulariser
        return loss, (extra, metrics)

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        start, end = self.settings.ema
        weights = ema_weights(step, start=start, end=end, total=self.steps)
        target = ema_update(extra["target_encoder"], params["encoder"], weights)
        return {"target_encoder": target}

    def kept(self, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return extra["target_encoder"], {}

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        return self.encoder.features(
            *self.kept(params, extra), batch["ecg"], batch.get("length")
        )

    @property
    def _patch_size(self) -> int:
        return self.encoder.module.stride

    def _inside(self, batch: Batch, indices: jax.Array) -> jax.Array:
        """Whether the patches at `indices` [B, ...] begin within the record."""
        if "length" not in batch:
            return jnp.ones(indices.shape, bool)
        length = jnp.expand_dims(batch["length"], range(1, indices.ndim))
        return indices * self._patch_size < length

    def _context(self, params, batch, rng):
        context_valid = batch["context_valid"]
        exists = context_valid & self._inside(batch, batch["context"])
        tokens = self.encoder.network.apply(
            params["encoder"],
            batch["ecg"],
            batch["context"],
            exists,
            rngs={"drop_path": rng},
        )
        return tokens, context_valid

    def _targets(self, extra, batch, indices):
        """What the target encoder makes of the patches at [B, M, L]: [B, M, L, D].

        It sees the whole crop.
        """
        target = jax.lax.stop_gradient(extra["target_encoder"])
        valid = self.encoder.valid_tokens(batch["ecg"], batch.get("length"))
        tokens = self.encoder.network.apply(target, batch["ecg"], valid=valid)
        if self.settings.normalise_targets:
            tokens = _layer_norm(tokens)
        picked = vit.take_tokens(tokens, indices.reshape(len(indices), -1))
        picked = picked.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        return picked.reshape(*indices.shape, -1)

    def _together(self, params, batch, context, context_valid, rngs):
        """All masked patches as one block -> predictions [B, 1, L, D], indices, valid.

        Every patch of the crop has one slot of the predictor: the context first,
        then the targets, which so also fill the context's padding. L is N less the
        smallest context.
        """
        if batch["targets"].shape[1] != 1:
            raise ValueError(
                f"{batch['targets'].shape[1]} target blocks cannot be predicted at "
                "once; set config.method.separate to True, or config.masks.kind to "
                "'blocks' or 'random', whose one target is all that is masked"
            )
        targets = batch["targets"].reshape(len(context), -1)
        num_patches = batch["ecg"].shape[1] // self._patch_size
        num_context = context_valid.sum(axis=1, keepdims=True)
        slots = jnp.arange(num_patches)
        pick = jnp.where(
            slots < num_context, slots, context.shape[1] + slots - num_context
        )
        joined = jnp.concatenate([batch["context"], targets], axis=1)
        indices = jnp.take_along_axis(joined, pick, axis=1)
        valid = None
        if "length" in batch:
            valid = self._inside(batch, indices)
        num_targets = targets.shape[1]
        predictions = self.predictor.apply(
            params["predictor"],
            context,
            context_valid,
            indices,
            num_patches=num_patches,
            num_targets=num_targets,
            valid=valid,
            rngs=rngs,
        )
        is_target = (slots >= num_context)[:, None, -num_targets:]
        return predictions[:, None], indices[:, None, -num_targets:], is_target

    def _separately(self, params, batch, context, context_valid, rngs):
        """Block by block -> predictions [B, M, L, D], indices, valid."""
        targets, targets_valid = batch["targets"], batch["targets_valid"]
        batch_size, num_blocks, block = targets.shape

        def per_block(x):
            x = jnp.broadcast_to(x[:, None], (batch_size, num_blocks, *x.shape[1:]))
            return x.reshape(batch_size * num_blocks, *x.shape[2:])

        def flat(x):
            return x.reshape(batch_size * num_blocks, block)

        context_exists = context_valid & self._inside(batch, batch["context"])
        targets_exist = targets_valid & self._inside(batch, targets)
        attended = [per_block(context_exists), flat(targets_exist)]
        predictions = self.predictor.apply(
            params["predictor"],
            per_block(context),
            per_block(context_valid),
            jnp.concatenate([per_block(batch["context"]), flat(targets)], axis=1),
            num_patches=batch["ecg"].shape[1] // self._patch_size,
            num_targets=block,
            valid=jnp.concatenate(attended, axis=1),
            rngs=rngs,
        )
        return predictions.reshape(*targets.shape, -1), targets, targets_valid


def build(
    settings: Settings,
    encoder: Any,
    *,
    steps: int,
    masks: Mapping[str, Any] | None,
) -> Jepa:
    """The method on a ViT encoder (a module of `models.vit`).

    Args:
      masks: `config.masks`.

    Raises:
      ValueError: no masks, masks that the settings cannot predict, or an encoder
        without patches to mask.
    """
    if masks is None:
        raise ValueError("JEPA predicts masked patches; set config.masks")
    if masks.get("kind") == "multiblock" and not settings.separate:
        raise ValueError(
            "masks of kind 'multiblock' leave patches that are neither context nor "
            "target; set config.method.separate to True, or take kind 'blocks' or "
            "'random'"
        )
    if not isinstance(encoder, vit.ViT):
        raise ValueError(
            f"JEPA masks patches and needs model.name='vit', found "
            f"{type(encoder).__name__}; the other methods take any encoder"
        )
    predictor = vit.make_predictor(
        encoder,
        width=settings.predictor_width,
        depth=settings.predictor_depth,
        num_heads=settings.predictor_num_heads,
    )
    return Jepa(
        settings=settings,
        encoder=Encoder(encoder),
        predictor=Network(predictor),
        steps=steps,
    )
