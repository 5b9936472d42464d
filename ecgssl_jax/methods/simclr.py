"""SimCLR (Chen et al., arXiv 2002.05709) on ECGs: two views of a record attract."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.embeddings import (
    interleave,
    separate,
    similarities,
    spread,
    unit,
)
from ecgssl_jax.models.encoders import Encoder, Module
from ecgssl_jax.models.heads import Settings as HeadSettings
from ecgssl_jax.models.heads import make_head
from ecgssl_jax.models.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of SimCLR.

    Attributes:
      temperature: of the similarities.
      projector: to the space in which views are compared.
    """

    temperature: float = 0.1
    projector: HeadSettings = dataclasses.field(default_factory=HeadSettings)

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}")


def nt_xent_loss(z1: jax.Array, z2: jax.Array, *, temperature: float) -> jax.Array:
    """Normalised temperature-scaled cross entropy (arXiv 2002.05709, eq. 1), a scalar.

    The mean over all 2B rows, each with 2B - 2 negatives.

    Args:
      z1, z2: [B, D], any float dtype; row b of both is one record. Computed in at
        least float32.
    """
    return _cross_entropy(*_logits(z1, z2, temperature)).mean()


def _logits(z1, z2, temperature):
    """For each view [B, 2B]: its rows against the other view's, then its own."""
    across = similarities(z1, z2) / temperature
    itself = jnp.eye(len(z1), dtype=bool)
    within = [
        jnp.where(itself, -jnp.inf, similarities(z, z) / temperature) for z in (z1, z2)
    ]
    first = jnp.concatenate([across, within[0]], axis=1)
    second = jnp.concatenate([across.T, within[1]], axis=1)
    return first, second


def _cross_entropy(first, second):
    """[2, B]: -log softmax of each row's own record."""

    def one(logits):
        positive = jnp.diagonal(logits[:, : len(logits)])
        return jax.nn.logsumexp(logits, axis=1) - positive

    return jnp.stack([one(first), one(second)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimClr:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'projector'; extra: their running statistics.
    """

    settings: Settings
    encoder: Encoder
    projector: Network
    num_views: ClassVar[tuple[int, ...]] = (2,)
    text: ClassVar[TextShape | None] = None
    labels: ClassVar[LabelShape | None] = None
    leads: ClassVar[tuple[str, ...]] = ()
    couples_rows: ClassVar[bool] = True

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        return self.encoder.init_with_head(
            rng, batch["ecg"], "projector", self.projector
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        # One pass, so that batch norms see both views together.
        joined = interleave(batch["views"])
        pooled, encoder = self.encoder.train(
            params["encoder"],
            extra["encoder"],
            joined["ecg"],
            joined.get("length"),
            rng,
        )
        z, projector = self.projector.train(
            params["projector"], extra["projector"], pooled
        )
        z1, z2 = separate(z, 2)
        logits = _logits(z1, z2, self.settings.temperature)
        loss = _cross_entropy(*logits).mean()
        best = jnp.stack([x.argmax(axis=1) for x in logits])
        metrics = {
            "accuracy": (best == jnp.arange(len(z1))).mean(),
            "positive_similarity": (unit(z1) * unit(z2)).sum(axis=-1).mean(),
            "spread": spread(z),
        }
        return loss, ({"encoder": encoder, "projector": projector}, metrics)

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        return extra

    def kept(self, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["encoder"]

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        return self.encoder.features(
            *self.kept(params, extra), batch["ecg"], batch.get("length")
        )


def build(
    settings: Settings,
    encoder: Module,
    *,
    steps: int,
    masks: Mapping[str, Any] | None,
) -> SimClr:
    """The method on any encoder; raises ValueError for masks, which it has no use for."""
    if masks is not None:
        raise ValueError("SimCLR masks nothing; leave config.masks out")
    return SimClr(
        settings=settings,
        encoder=Encoder(encoder),
        projector=make_head(settings.projector, dtype=encoder.dtype),
    )
