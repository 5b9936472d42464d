"""CLOCS (Kiyasseh et al., arXiv 2005.13249): segments and leads of a patient attract.

    cmsc     the two halves of a record
    cmlc     its leads, one by one
    cmsmlc   the leads of both halves

Every record of a patient is a positive of the others. A lead is shown alone, with zeros
for the other leads, so that the encoder stays one of twelve leads.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.embeddings import interleave, separate, spread, unit
from ecgssl_jax.models.encoders import Encoder, Module
from ecgssl_jax.models.heads import Head
from ecgssl_jax.models.network import Network

Mode = Literal["cmsc", "cmlc", "cmsmlc"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of CLOCS.

    Attributes:
      mode: what is contrasted; see the module.
      leads: those that 'cmlc' and 'cmsmlc' contrast.
      temperature: of the similarities.
      projector_hidden: widths of the projector's hidden layers.
      projector_out: width of the space in which views are compared.
      batch_norm: after each hidden layer.
    """

    mode: Mode = "cmsc"
    leads: tuple[str, ...] = ("II", "aVL", "aVR", "V2")
    temperature: float = 0.1
    projector_hidden: tuple[int, ...] = (512,)
    projector_out: int = 128
    batch_norm: bool = True

    def __post_init__(self):
        unknown = [lead for lead in self.leads if lead not in LEADS]
        if unknown or len(set(self.leads)) < max(2, len(self.leads)):
            raise ValueError(
                f"leads={self.leads}: expected two or more different ones of "
                f"{', '.join(LEADS)}"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}")
        if min(self.projector_out, *self.projector_hidden) < 1:
            raise ValueError(
                "projector_hidden and projector_out must be at least 1, found "
                f"{self.projector_hidden} and {self.projector_out}"
            )


def clocs_loss(
    z1: jax.Array,
    z2: jax.Array,
    patients: jax.Array,
    *,
    temperature: float,
    valid: jax.Array | None = None,
) -> jax.Array:
    """-log softmax of every pair of one patient, the mean (arXiv 2005.13249, eq. 1-3).

    Rows are those of one view, columns of the other; the mean of both directions.

    Args:
      z1, z2: [B, D], any float dtype; row b of both is one record. Computed in at
        least float32.
      patients: [B] int, whose record it is.
      valid: [B] bool, records that have both views; the others are left out.
    """
    similarity = unit(z1) @ unit(z2).T / temperature
    if valid is None:
        valid = jnp.ones(patients.shape, bool)
    both = valid[:, None] & valid
    positive = (patients[:, None] == patients) & both

    def one_way(similarity):
        # Rows that are left out keep finite sums, and so finite gradients.
        logits = jnp.where(both | ~valid[:, None], similarity, -jnp.inf)
        total = jax.nn.logsumexp(logits, axis=1, keepdims=True)
        loss = jnp.where(positive, total - similarity, 0.0)
        return loss.sum() / jnp.maximum(positive.sum(), 1)

    return (one_way(similarity) + one_way(similarity.T)) / 2


class _View(NamedTuple):
    """ecg [B, T', C], length [B] or None, and which records have it, [B] bool."""

    ecg: jax.Array
    length: jax.Array | None
    valid: jax.Array


def contrasted(batch: Batch, mode: Mode, leads: tuple[str, ...]) -> list[_View]:
    """The segments and leads of a batch that are contrasted."""
    ecg, length = batch["ecg"], batch.get("length")
    views = [_View(ecg, length, jnp.ones(len(ecg), bool))]
    if mode != "cmlc":
        half = ecg.shape[1] // 2
        views = [_segment(ecg, length, start, half) for start in (0, half)]
    if mode == "cmsc":
        return views
    return [
        view._replace(
            ecg=view.ecg * jax.nn.one_hot(LEADS.index(lead), len(LEADS)),
            valid=view.valid & batch["lead_valid"][:, LEADS.index(lead)],
        )
        for view in views
        for lead in leads
    ]


def _segment(ecg, length, start: int, samples: int) -> _View:
    segment = ecg[:, start : start + samples]
    if length is None:
        return _View(segment, None, jnp.ones(len(ecg), bool))
    length = jnp.clip(length - start, 0, samples)
    return _View(segment, length, length > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocs:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'projector'; extra: their running statistics.
    """

    settings: Settings
    encoder: Encoder
    projector: Network
    num_views: tuple[int, ...] = (0, 1)
    text: TextShape | None = None
    labels: LabelShape | None = None
    couples_rows: bool = True

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        return self.encoder.init_with_head(rng, batch["ecg"], projector=self.projector)

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        settings = self.settings
        (view,) = batch.get("views") or (batch,)
        shown = dict(batch, ecg=view["ecg"])
        if "length" in view:
            shown["length"] = view["length"]
        views = contrasted(shown, settings.mode, settings.leads)
        # One pass, so that batch norms see all views together.
        joined = interleave(views)
        pooled, encoder = self.encoder.train(
            params["encoder"], extra["encoder"], joined.ecg, joined.length, rng
        )
        z, projector = self.projector.train(
            params["projector"], extra["projector"], pooled
        )
        places = separate(z, len(views))
        patients = batch["patient"]
        losses = [
            clocs_loss(
                places[one],
                places[other],
                patients,
                temperature=settings.temperature,
                valid=views[one].valid & views[other].valid,
            )
            for one, other in itertools.combinations(range(len(views)), 2)
        ]
        same = patients[:, None] == patients
        metrics = {
            "positives": same.sum() / len(patients),
            "positive_similarity": (unit(places[0]) * unit(places[1])).sum(-1).mean(),
            "spread": spread(z),
        }
        extra = {"encoder": encoder, "projector": projector}
        return jnp.stack(losses).mean(), (extra, metrics)

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        return extra

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        return self.encoder.features(
            params["encoder"], extra["encoder"], batch["ecg"], batch.get("length")
        )


def build(
    settings: Settings,
    encoder: Module,
    *,
    steps: int,
    masks: Mapping[str, Any] | None,
) -> Clocs:
    """The method on any encoder; raises ValueError for masks, which it has no use for."""
    if masks is not None:
        raise ValueError("CLOCS masks nothing; leave config.masks out")
    projector = Head(
        hidden=settings.projector_hidden,
        out=settings.projector_out,
        batch_norm=settings.batch_norm,
        dtype=encoder.dtype,
    )
    return Clocs(
        settings=settings, encoder=Encoder(encoder), projector=Network(projector)
    )
