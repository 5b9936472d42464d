"""Training on labels: from scratch, what every pre-training is to be compared with, or
fine-tuning, where it begins with another run's encoder (`ecgssl_jax.start`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.models.encoders import Encoder, Module
from ecgssl_jax.models.heads import make_linear
from ecgssl_jax.models.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of supervised training.

    Attributes:
      task: 'labels' for the set's own labels, one of `evaluation.ptbxl.TASKS`, or
        'every': those of all its tasks side by side.
      num_labels: Y, how many the task has.
      budget: what labels to learn from: those of '10 %' of the patients, or enough
        patients for '10 per class' (`evaluation.budget`).
      budget_seed: of the draw of patients.
    """

    task: str = "labels"
    num_labels: int
    budget: str = "100 %"
    budget_seed: int = 0

    def __post_init__(self):
        if self.num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, found {self.num_labels}")


def label_loss(
    logits: jax.Array, labels: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Binary cross entropy of each label, the mean over those that are known, a scalar.

    Args:
      logits: [B, Y], any float dtype; computed in at least float32.
      labels: [B, Y] of 0 and 1.
      valid: [B, Y] bool; None for all. Without any the loss is 0.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    loss = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    if valid is None:
        return loss.mean()
    return jnp.where(valid, loss, 0.0).sum() / jnp.maximum(valid.sum(), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'classifier', a linear map of its pooled features to the labels;
    extra: running statistics.
    """

    settings: Settings
    encoder: Encoder
    classifier: Network
    num_views: ClassVar[tuple[int, ...]] = (0, 1)
    text: ClassVar[TextShape | None] = None
    leads: ClassVar[tuple[str, ...]] = ()
    couples_rows: ClassVar[bool] = False

    @property
    def labels(self) -> LabelShape:
        settings = self.settings
        return LabelShape(
            settings.task, settings.num_labels, settings.budget, settings.budget_seed
        )

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        return self.encoder.init_with_head(
            rng, batch["ecg"], "classifier", self.classifier
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        (view,) = batch.get("views") or (batch,)
        pooled, encoder = self.encoder.train(
            params["encoder"], extra["encoder"], view["ecg"], view.get("length"), rng
        )
        logits = self.classifier.apply(params["classifier"], pooled)
        loss = label_loss(logits, batch["labels"], batch["labels_valid"])
        right = ((logits > 0) == batch["labels"]) & batch["labels_valid"]
        known = batch["labels_valid"].sum()
        metrics = {
            "accuracy": right.sum() / jnp.maximum(known, 1),
            "known_labels": known / batch["labels_valid"].size,
        }
        return loss, ({**extra, "encoder": encoder}, metrics)

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        return extra

    def kept(self, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["encoder"]

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        found = self.encoder.features(
            *self.kept(params, extra), batch["ecg"], batch.get("length")
        )
        logits = self.classifier.apply(params["classifier"], found["pooled"])
        return {**found, "logits": logits}


def build(
    settings: Settings,
    encoder: Module,
    *,
    steps: int,
    masks: Mapping[str, Any] | None,
) -> Supervised:
    """The method on any encoder; raises ValueError for masks, which it has no use for."""
    if masks is not None:
        raise ValueError("supervised training masks nothing; leave config.masks out")
    return Supervised(
        settings=settings,
        encoder=Encoder(encoder),
        classifier=make_linear(settings.num_labels, dtype=encoder.dtype),
    )
