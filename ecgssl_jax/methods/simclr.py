"""SimCLR (Chen et al., arXiv 2002.05709) on ECGs: two views of a record attract."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from ecgssl_jax.methods.all_pairs import add_exponentials, fold, nothing
from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.embeddings import cosines, interleave, separate, spread, unit
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
    loss, _ = _nt_xent(z1, z2, temperature)
    return loss


class _Row(NamedTuple):
    """What is known of the rows of one view; [B] each."""

    total: jax.Array  # logarithm of the sum over the other 2B - 1 rows
    own: jax.Array  # the logit of the other view
    best: jax.Array  # the largest logit of another record


def _nt_xent(
    z1: jax.Array, z2: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """-> the loss, and the share of the rows whose own record is the nearest."""
    first, second = unit(z1), unit(z2)
    number = jnp.arange(len(first), dtype=jnp.int32)

    def step(known, column):
        there = column["number"] >= 0
        own = column["number"] == number[:, None]
        others = there & ~own

        def one(row: _Row, rows, same_view, other_view):
            across = cosines(rows, other_view) / temperature
            within = cosines(rows, same_view) / temperature
            total = add_exponentials(row.total, across, there)
            total = add_exponentials(total, within, others)
            nearest = jnp.where(others, jnp.maximum(across, within), -jnp.inf)
            return _Row(
                total=total,
                own=row.own + jnp.where(own, across, 0.0).sum(axis=1),
                best=jnp.maximum(row.best, stop_gradient(nearest).max(axis=1)),
            )

        views = column["first"], column["second"]
        return one(known[0], first, *views), one(known[1], second, *views[::-1])

    start = _Row(nothing(first), jnp.zeros_like(first[:, 0]), nothing(first))
    known = fold(step, (start, start), {"first": first, "second": second})
    loss = jnp.stack([row.total - row.own for row in known]).mean()
    return loss, jnp.stack([row.own > row.best for row in known]).mean()


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
        embedded, extra = self.embed(params, extra, batch, rng)
        loss, metrics = self.compare(params, embedded, batch)
        return loss, (extra, metrics)

    def embed(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[Tree, Tree]:
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
        return separate(z, 2), {"encoder": encoder, "projector": projector}

    def compare(
        self, params: Tree, embedded: Tree, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        z1, z2 = embedded
        loss, accuracy = _nt_xent(z1, z2, self.settings.temperature)
        metrics = {
            "accuracy": accuracy,
            "positive_similarity": (unit(z1) * unit(z2)).sum(axis=-1).mean(),
            "spread": spread(jnp.concatenate(embedded)),
        }
        return loss, metrics

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
