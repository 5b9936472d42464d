"""MECLIP: CLIP (Radford et al., arXiv 2103.00020) on ECGs and their reports.

Reports repeat: many records of a batch are described in the same words. Plain CLIP
pushes such pairs apart. The modes differ in what a repeated text is to a record:

    clip            a negative like any other
    exclude         no negative
    positive        no negative, and the mean loss over all repeated pairs, each taken
                    as another positive pair, is added
    multi_positive  no negative, and a positive: a row's loss is the mean over all its
                    positives, so that every row weighs the same
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from ecgssl_jax.methods.all_pairs import add_exponentials, fold, nothing
from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.embeddings import cosines, spread, unit
from ecgssl_jax.models.encoders import Encoder, Module
from ecgssl_jax.models.heads import Settings as HeadSettings
from ecgssl_jax.models.heads import make_head, make_linear
from ecgssl_jax.models.network import Network
from ecgssl_jax.models.text import Settings as TextSettings
from ecgssl_jax.models.text import make_text_encoder

Mode = Literal["clip", "exclude", "positive", "multi_positive"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of MECLIP.

    Attributes:
      mode: what repeated texts are; see the module.
      positive_weight: in mode 'positive', of the loss over repeated pairs.
      temperature: of the similarities; where it is learned, at first.
      learn_temperature: whether it is a parameter.
      temperature_range: which a learned one cannot leave.
      projector: of an ECG's features to the space in which ECGs and texts are compared;
        a linear map takes texts there.
      text: the text encoder.
      text_length: tokens of a text; longer ones are cut.
      vocabulary_size: tokens that the text encoder knows, at least as many as the
        prepared set's vocabulary has.
    """

    mode: Mode = "positive"
    positive_weight: float = 1.0
    temperature: float = 0.1
    learn_temperature: bool = False
    temperature_range: tuple[float, float] = (0.01, 1.0)
    projector: HeadSettings = dataclasses.field(
        default_factory=lambda: HeadSettings(out=192)
    )
    text: TextSettings = dataclasses.field(default_factory=TextSettings)
    text_length: int = 64
    vocabulary_size: int = 2000

    def __post_init__(self):
        low, high = self.temperature_range
        if not 0 < low < high:
            raise ValueError(
                "temperature_range takes two positive numbers, the lower one first, "
                f"found {self.temperature_range}"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, found {self.temperature}")
        if self.learn_temperature and not low < self.temperature < high:
            raise ValueError(
                f"a learned temperature begins within temperature_range={(low, high)}, "
                f"found {self.temperature}"
            )
        if self.vocabulary_size < 1:
            raise ValueError(
                f"vocabulary_size must be at least 1, found {self.vocabulary_size}"
            )
        if self.text_length < 2:
            raise ValueError(
                "text_length must be at least 2, of which the first token begins every "
                f"text; found {self.text_length}"
            )


def clip_loss(
    ecg: jax.Array,
    text: jax.Array,
    text_ids: jax.Array,
    *,
    temperature: float | jax.Array,
    mode: Mode = "clip",
    positive_weight: float = 1.0,
) -> jax.Array:
    """Contrastive loss between records and texts, the mean of both directions.

    The loss of a pair is -log of its share in the softmax over itself and its row's
    negatives (arXiv 2103.00020, fig. 3, for mode 'clip').

    Args:
      ecg, text: [B, D], any float dtype; row i of both is one record. Computed in at
        least float32; normalised to length 1 here.
      text_ids: [B] int; records whose texts are alike have equal ones. Below 0 there
        is no text: such rows are left out, and a batch of only those has loss 0.
      temperature: of the cosine similarities.
      mode: what repeated texts are; see the module.
      positive_weight: in mode 'positive', of the loss over repeated pairs.

    Raises:
      ValueError: another mode.
    """
    if mode not in get_args(Mode):
        raise ValueError(
            f"unknown mode {mode!r} of MECLIP; use one of {', '.join(get_args(Mode))}"
        )
    loss, _ = compare(ecg, text, text_ids, temperature, mode, positive_weight)
    return loss


class Row(NamedTuple):
    """What is known of the rows of one side; [B] each, and 0 of rows without text."""

    against: jax.Array  # logarithm of the sum over the negatives
    own: jax.Array  # the logit of the own pair
    negatives: jax.Array  # how many
    repeated: jax.Array  # pairs of other records in the same words, how many
    best: jax.Array  # the largest logit
    best_id: jax.Array  # and the text that has it


class _Pairs(NamedTuple):
    """Which rows and columns belong together; [B, N'] bool each."""

    own: jax.Array
    repeated: jax.Array  # equal texts of other records
    negative: jax.Array  # what the own pair is told from
    both: jax.Array  # those with texts


def _pairs(ids: jax.Array, column: Mapping[str, jax.Array], mode: Mode) -> _Pairs:
    number = jnp.arange(len(ids))[:, None]
    there = (column["number"] >= 0) & (column["id"] >= 0)
    both = (ids[:, None] >= 0) & there
    own = (number == column["number"]) & both
    equal = (ids[:, None] == column["id"]) & both
    negative = both & ~(own if mode == "clip" else equal)
    return _Pairs(own, equal & ~own, negative, both)


def compare(ecg: jax.Array, text: jax.Array, *others: Any) -> tuple[jax.Array, Row]:
    """-> the mean loss of both directions, and what is known of the ECGs."""
    ecg, text = unit(ecg), unit(text)
    one, row = _one_way(ecg, text, *others)
    other, _ = _one_way(text, ecg, *others)
    return (one + other) / 2, row


def _one_way(
    rows: jax.Array,
    columns: jax.Array,
    ids: jax.Array,
    temperature: float | jax.Array,
    mode: Mode,
    positive_weight: float,
) -> tuple[jax.Array, Row]:
    """-> the loss of finding the own column for each row, and what it is made of."""
    ids = jnp.asarray(ids)
    parts = {"z": columns, "id": ids}

    def logits(column):
        return cosines(rows, column["z"]) / temperature

    def step(row: Row, column) -> Row:
        similarity, pairs = logits(column), _pairs(ids, column, mode)
        seen = jnp.where(pairs.both, stop_gradient(similarity), -jnp.inf)
        better = seen.max(axis=1) > row.best
        return Row(
            against=add_exponentials(row.against, similarity, pairs.negative),
            own=row.own + jnp.where(pairs.own, similarity, 0.0).sum(axis=1),
            negatives=row.negatives + pairs.negative.sum(axis=1),
            repeated=row.repeated + pairs.repeated.sum(axis=1),
            best=jnp.maximum(row.best, seen.max(axis=1)),
            best_id=jnp.where(better, column["id"][seen.argmax(axis=1)], row.best_id),
        )

    zero, none = jnp.zeros(ids.shape, rows.dtype), jnp.zeros(ids.shape, jnp.int32)
    start = Row(nothing(rows), zero, none, none, nothing(rows), jnp.full_like(ids, -1))
    row = fold(step, start, parts)

    def pair_loss(similarity, against):
        return jax.nn.softplus(against - similarity)

    # Without negatives there is nothing to be told from, and no loss.
    some = row.negatives > 0
    against = jnp.where(some, row.against, 0.0)
    count = jnp.maximum((ids >= 0).sum(), 1)
    own = jnp.where(some, pair_loss(row.own, against), 0.0)
    if mode in ("clip", "exclude"):
        return own.sum() / count, row

    def add_repeated(total, column):
        chosen = _pairs(ids, column, mode).repeated & some[:, None]
        loss = pair_loss(logits(column), against[:, None])
        return total + jnp.where(chosen, loss, 0.0).sum(axis=1)

    repeated = fold(add_repeated, zero, parts)
    if mode == "multi_positive":
        return ((own + repeated) / (1 + row.repeated)).sum() / count, row
    more = repeated.sum() / jnp.maximum(row.repeated.sum(), 1)
    return own.sum() / count + positive_weight * more, row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meclip:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'projector', 'text_encoder', 'text_projector', and 'temperature'
    where it is learned; extra: the running statistics of the first two.
    """

    settings: Settings
    encoder: Encoder
    projector: Network
    text_encoder: Network
    text_projector: Network
    num_views: ClassVar[tuple[int, ...]] = (0, 1)
    labels: ClassVar[LabelShape | None] = None
    leads: ClassVar[tuple[str, ...]] = ()
    couples_rows: ClassVar[bool] = True

    @property
    def text(self) -> TextShape:
        return TextShape(self.settings.text_length, self.settings.vocabulary_size)

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        ecg_rng, text_rng, projector_rng = jax.random.split(rng, 3)
        params, statistics = self.encoder.init_with_head(
            ecg_rng, batch["ecg"], "projector", self.projector
        )
        tokens = jnp.zeros((1, self.settings.text_length), jnp.int32)
        text = tokens, jnp.ones(tokens.shape, bool)
        params["text_encoder"] = self.text_encoder.init(text_rng, *text)
        embedded = jax.eval_shape(
            self.text_encoder.apply, params["text_encoder"], *text
        )
        zeros = jnp.zeros(embedded.shape)
        params["text_projector"] = self.text_projector.init(projector_rng, zeros)
        if self.settings.learn_temperature:
            params["temperature"] = jnp.asarray(self._logit(), jnp.float32)
        return params, statistics

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        embedded, extra = self.embed(params, extra, batch, rng)
        loss, metrics = self.compare(params, embedded, batch)
        return loss, (extra, metrics)

    def embed(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[Tree, Tree]:
        (view,) = batch.get("views") or (batch,)
        ecg_rng, text_rng = jax.random.split(rng)
        pooled, encoder = self.encoder.train(
            params["encoder"],
            extra["encoder"],
            view["ecg"],
            view.get("length"),
            ecg_rng,
        )
        ecg, projector = self.projector.train(
            params["projector"], extra["projector"], pooled
        )
        text = self.embed_text(params, batch, rngs={"drop_path": text_rng})
        return (ecg, text), {"encoder": encoder, "projector": projector}

    def compare(
        self, params: Tree, embedded: Tree, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        settings, ids = self.settings, batch["text_ids"]
        ecg, text = embedded
        temperature = self.temperature(params)
        loss, row = compare(
            ecg, text, ids, temperature, settings.mode, settings.positive_weight
        )
        has_text = ids >= 0
        rows = jnp.maximum(has_text.sum(), 1)
        metrics = {
            # Any record with the same words counts.
            "accuracy": ((row.best_id == ids) & has_text).sum() / rows,
            "texts": has_text.mean(),
            "negatives": row.negatives.sum() / rows,
            "repeated": row.repeated.sum() / rows,
            "temperature": jnp.asarray(temperature, jnp.float32),
            "spread": spread(ecg),
            "text_spread": spread(text),
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

    def embed_ecg(self, params: Tree, extra: Tree, pooled: jax.Array) -> jax.Array:
        """Pooled features' places in the common space, in evaluation mode: [B, D]."""
        return self.projector.apply(
            params["projector"], pooled, statistics=extra["projector"]
        )

    def embed_text(
        self, params: Tree, batch: Batch, rngs: dict[str, jax.Array] | None = None
    ) -> jax.Array:
        """The texts' places in the common space: [B, D]; `rngs` as in training."""
        embedded = self.text_encoder.apply(
            params["text_encoder"], batch["text"], batch["text_valid"], rngs=rngs
        )
        return self.text_projector.apply(params["text_projector"], embedded)

    def temperature(self, params: Tree) -> float | jax.Array:
        """Of the cosine similarities."""
        if not self.settings.learn_temperature:
            return self.settings.temperature
        low, high = np.log(self.settings.temperature_range)
        # Bounded smoothly, so that it can always come back from an end.
        return jnp.exp(low + (high - low) * jax.nn.sigmoid(params["temperature"]))

    def _logit(self) -> float:
        """The parameter that gives the temperature at first."""
        low, high = np.log(self.settings.temperature_range)
        share = (np.log(self.settings.temperature) - low) / (high - low)
        return float(np.log(share / (1 - share)))


def build(
    settings: Settings,
    encoder: Module,
    *,
    steps: int,
    masks: Mapping[str, Any] | None,
) -> Meclip:
    """The method on any encoder; raises ValueError for masks, which it has no use for."""
    if masks is not None:
        raise ValueError("MECLIP masks nothing; leave config.masks out")
    text_encoder = make_text_encoder(
        settings.text, vocabulary_size=settings.vocabulary_size, dtype=encoder.dtype
    )
    return Meclip(
        settings=settings,
        encoder=Encoder(encoder),
        projector=make_head(settings.projector, dtype=encoder.dtype),
        text_encoder=Network(text_encoder),
        text_projector=make_linear(settings.projector.out, dtype=encoder.dtype),
    )
