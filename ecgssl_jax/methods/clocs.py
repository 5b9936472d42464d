"""CLOCS (Kiyasseh et al., arXiv 2005.13249): segments and leads of a patient attract.

    cmsc     the two halves of a record
    cmlc     its leads, one by one
    cmsmlc   the leads of both halves

Every record of a patient is a positive of the others. A lead is shown alone, with zeros
for the other leads; features are then means over the leads, each shown alone.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods.all_pairs import add_exponentials, fold, nothing
from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.embeddings import cosines, interleave, separate, spread, unit
from ecgssl_jax.models.encoders import Encoder, Module
from ecgssl_jax.models.heads import Settings as HeadSettings
from ecgssl_jax.models.heads import make_head
from ecgssl_jax.models.network import Network
from ecgssl_jax.models.vit import mean_pool
from ecgssl_jax.settings import ConfigError, near

Mode = Literal["cmsc", "cmlc", "cmsmlc"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of CLOCS.

    Attributes:
      mode: what is contrasted; see the module.
      leads: those that 'cmlc' and 'cmsmlc' contrast.
      temperature: of the similarities.
      projector: to the space in which views are compared.
    """

    mode: Mode = "cmsc"
    leads: tuple[str, ...] = ("II", "aVL", "aVR", "V2")
    temperature: float = 0.1
    projector: HeadSettings = dataclasses.field(default_factory=HeadSettings)

    def __post_init__(self):
        for lead in self.leads:
            if lead not in LEADS:
                raise ValueError(f"leads: unknown lead {lead!r}{near(lead, LEADS)}")
        if len(set(self.leads)) < max(2, len(self.leads)):
            raise ValueError(
                f"leads={self.leads}: expected two or more, each of them once"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}")


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
    if valid is None:
        valid = jnp.ones(patients.shape, bool)
    first, second = unit(z1), unit(z2)

    def one_way(rows, columns):
        def step(known, column):
            total, positives, count = known
            similarity = cosines(rows, column["z"]) / temperature
            there = (column["number"] >= 0) & column["valid"] & valid[:, None]
            positive = there & (patients[:, None] == column["patients"])
            total = add_exponentials(total, similarity, there)
            positives = positives + jnp.where(positive, similarity, 0.0).sum(axis=1)
            return total, positives, count + positive.sum(axis=1)

        zero = jnp.zeros(patients.shape, rows.dtype)
        start = nothing(rows), zero, jnp.zeros(patients.shape, jnp.int32)
        known = {"z": columns, "patients": patients, "valid": valid}
        total, positives, count = fold(step, start, known)
        # Rows that are left out have no pair, and their total no bound.
        loss = count * jnp.where(valid, total, 0.0) - positives
        return loss.sum() / jnp.maximum(count.sum(), 1)

    return (one_way(first, second) + one_way(second, first)) / 2


class _View(NamedTuple):
    """ecg [B, T', C]; length [B], 0 for what a record lacks, None if all are full."""

    ecg: jax.Array
    length: jax.Array | None

    @property
    def valid(self) -> jax.Array | None:
        """[B] bool: which records have it; None for all."""
        return None if self.length is None else self.length > 0


def contrasted(batch: Batch, mode: Mode, leads: tuple[str, ...]) -> list[_View]:
    """The segments and leads of a batch that are contrasted."""
    ecg, length = batch["ecg"], batch.get("length")
    views = _segments(ecg, length, 1 if mode == "cmlc" else 2)
    if mode == "cmsc":
        return views
    return [
        _only(view, LEADS.index(lead), batch["lead_valid"])
        for view in views
        for lead in leads
    ]


def _segments(ecg: jax.Array, length: jax.Array | None, count: int) -> list[_View]:
    """So many equal parts of the records, one after the other."""
    samples = ecg.shape[1] // count
    if not samples or ecg.shape[1] % count:
        raise ConfigError(
            f"config.data.crop: {ecg.shape[1]} samples cannot be cut into {count} equal "
            "parts"
        )
    segments = []
    for start in range(0, count * samples, samples):
        held = None if length is None else jnp.clip(length - start, 0, samples)
        segments.append(_View(ecg[:, start : start + samples], held))
    return segments


def _only(view: _View, lead: int, lead_valid: jax.Array) -> _View:
    """The view with zeros for the other leads."""
    length = view.ecg.shape[1] if view.length is None else view.length
    return _View(
        view.ecg * jax.nn.one_hot(lead, len(LEADS)),
        jnp.where(lead_valid[:, lead], length, 0),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocs:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'projector'; extra: their running statistics.
    """

    settings: Settings
    encoder: Encoder
    projector: Network
    num_views: ClassVar[tuple[int, ...]] = (0, 1)
    text: ClassVar[TextShape | None] = None
    labels: ClassVar[LabelShape | None] = None
    couples_rows: ClassVar[bool] = True

    @property
    def leads(self) -> tuple[str, ...]:
        return () if self.settings.mode == "cmsc" else self.settings.leads

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
        views = self._views(batch)
        # One pass, so that batch norms see all views together.
        joined = interleave(views)
        pooled, encoder = self.encoder.train(
            params["encoder"], extra["encoder"], joined.ecg, joined.length, rng
        )
        z, projector = self.projector.train(
            params["projector"], extra["projector"], pooled, valid=joined.valid
        )
        places = separate(z, len(views))
        return places, {"encoder": encoder, "projector": projector}

    def _views(self, batch: Batch) -> list[_View]:
        (view,) = batch.get("views") or (batch,)
        shown = dict(batch, ecg=view["ecg"])
        if "length" in view:
            shown["length"] = view["length"]
        return contrasted(shown, self.settings.mode, self.settings.leads)

    def compare(
        self, params: Tree, embedded: Tree, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        valid = [view.valid for view in self._views(batch)]
        patients = batch["patient"]
        losses = [
            clocs_loss(
                embedded[one],
                embedded[other],
                patients,
                temperature=self.settings.temperature,
                valid=_both(valid[one], valid[other]),
            )
            for one, other in itertools.combinations(range(len(embedded)), 2)
        ]
        # Of each patient's records, without a matrix of all pairs.
        ordered = jnp.sort(patients)
        after, before = (
            jnp.searchsorted(ordered, patients, side=side) for side in ("right", "left")
        )
        first, second, *_ = embedded
        metrics = {
            "positives": (after - before).mean(),
            "positive_similarity": (unit(first) * unit(second)).sum(-1).mean(),
            "spread": spread(jnp.concatenate(embedded)),
        }
        return jnp.stack(losses).mean(), metrics

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        return extra

    def kept(self, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        return params["encoder"], extra["encoder"]

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        # Of what the encoder has learnt from: halves of a record, leads by themselves.
        views = contrasted(batch, self.settings.mode, self.settings.leads)
        joined = interleave(views)
        found = self.encoder.features(
            *self.kept(params, extra), joined.ecg, joined.length
        )
        records = batch["ecg"].shape[0]

        def split(x):
            """[records, views, ...]."""
            return x.reshape(records, len(views), *x.shape[1:])

        def flat(x):
            """A record's views one after the other: [records, N, ...]."""
            return x.reshape(records, -1, *x.shape[3:])

        tokens = split(found["tokens"])
        if "tokens_valid" not in found:
            return {"pooled": mean_pool(flat(tokens)), "tokens": flat(tokens)}
        valid = split(found["tokens_valid"])
        features = {
            "pooled": mean_pool(flat(tokens), flat(valid)),
            "tokens": flat(tokens),
            "tokens_valid": flat(valid),
        }
        if self.leads:
            # The views go through the leads, of each half anew.
            step = len(self.leads)
            alone = [
                mean_pool(flat(tokens[:, lead::step]), flat(valid[:, lead::step]))
                for lead in range(step)
            ]
            features["by_lead"] = jnp.stack(alone, axis=1)
        return features


def _both(one: jax.Array | None, other: jax.Array | None) -> jax.Array | None:
    return None if one is None or other is None else one & other


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
    return Clocs(
        settings=settings,
        encoder=Encoder(encoder),
        projector=make_head(settings.projector, dtype=encoder.dtype),
    )
