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

from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.embeddings import similarities, spread
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


class Pairs(NamedTuple):
    """Which records and texts of a batch belong together; [B, B] bool each.

    Row i, column j: the record i and the text j. Rows and columns without text are
    in none.
    """

    own: jax.Array  # the diagonal
    repeated: jax.Array  # equal texts of other records
    negative: jax.Array  # what the row's own text is told from


def pairs_of(text_ids: jax.Array, mode: Mode) -> Pairs:
    """Pairs by text_ids [B] int: equal texts have equal ones, no text is below 0."""
    has_text = text_ids >= 0
    both = has_text[:, None] & has_text
    own = jnp.eye(len(text_ids), dtype=bool) & both
    equal = (text_ids[:, None] == text_ids) & both
    repeated = equal & ~own
    return Pairs(own, repeated, both & ~(own if mode == "clip" else equal))


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
    similarity = similarities(ecg, text) / temperature
    pairs = pairs_of(text_ids, mode)
    # Both relations are symmetric: the other direction is the transpose.
    directions = (similarity, similarity.T)
    losses = [_one_way(x, pairs, mode, positive_weight) for x in directions]
    return (losses[0] + losses[1]) / 2


def _one_way(similarity, pairs: Pairs, mode: Mode, positive_weight: float):
    loss = _pair_losses(similarity, pairs.negative)
    if mode == "multi_positive":
        positive = pairs.own | pairs.repeated
        count = jnp.maximum(positive.sum(axis=1, keepdims=True), 1)
        return _mean(loss / count, positive, pairs.own.sum())
    own = _mean(loss, pairs.own, pairs.own.sum())
    if mode != "positive":
        return own
    return own + positive_weight * _mean(loss, pairs.repeated, pairs.repeated.sum())


def _pair_losses(similarity, negative):
    """[B, B]: log(1 + sum over the row's negatives of exp(s' - s)) of every pair."""
    # Rows without negatives have no loss; infinities would be NaN in the gradient.
    some = negative.any(axis=1, keepdims=True)
    masked = jnp.where(negative, similarity, jnp.where(some, -jnp.inf, 0.0))
    against = jax.nn.logsumexp(masked, axis=1, keepdims=True)
    return jnp.where(some, jax.nn.softplus(against - similarity), 0.0)


def _mean(values, chosen, count):
    return jnp.where(chosen, values, 0.0).sum() / jnp.maximum(count, 1)


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
        settings = self.settings
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
        temperature = self.temperature(params)
        ids = batch["text_ids"]
        loss = clip_loss(
            ecg,
            text,
            ids,
            temperature=temperature,
            mode=settings.mode,
            positive_weight=settings.positive_weight,
        )
        pairs = pairs_of(ids, settings.mode)
        rows = pairs.own.sum()
        nearest = jnp.where(ids >= 0, similarities(ecg, text), -jnp.inf).argmax(1)
        metrics = {
            # Any record with the same words counts.
            "accuracy": _mean(ids[nearest] == ids, ids >= 0, rows),
            "texts": rows / len(ids),
            "negatives": pairs.negative.sum() / jnp.maximum(rows, 1),
            "repeated": pairs.repeated.sum() / jnp.maximum(rows, 1),
            "temperature": jnp.asarray(temperature, jnp.float32),
            "spread": spread(ecg),
            "text_spread": spread(text),
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
