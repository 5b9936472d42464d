"""BYOL (Grill et al., arXiv 2006.07733) on ECGs: each view predicts the other.

An online network predicts, from one view, what a slowly moving average of itself makes
of the other view of the same record. There are no negatives.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ecgssl_jax.methods.base import Batch, LabelShape, TextShape, Tree
from ecgssl_jax.methods.ema import ema_update, ema_weights
from ecgssl_jax.methods.embeddings import spread, unit
from ecgssl_jax.models.encoders import Encoder, Module
from ecgssl_jax.models.heads import Settings as HeadSettings
from ecgssl_jax.models.heads import make_head
from ecgssl_jax.models.network import Network

Distance = Literal["cosine", "euclidean"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.method` of BYOL.

    Attributes:
      distance: of unit vectors: 'cosine' is the paper's squared distance, 'euclidean'
        its root.
      ema: momentum of the target network at the first and at the last step.
      projector: to the space in which views are compared.
      predictor: within that space.
    """

    distance: Distance = "cosine"
    ema: tuple[float, float] = (0.996, 1.0)
    projector: HeadSettings = dataclasses.field(default_factory=HeadSettings)
    predictor: HeadSettings = dataclasses.field(default_factory=HeadSettings)

    def __post_init__(self):
        if self.predictor.out != self.projector.out:
            raise ValueError(
                "the predictor gives what the projector does: projector.out is "
                f"{self.projector.out}, predictor.out {self.predictor.out}"
            )
        if not all(0 <= momentum <= 1 for momentum in self.ema):
            raise ValueError(f"ema takes momenta from 0 to 1, found {self.ema}")


def byol_loss(
    q1: jax.Array,
    q2: jax.Array,
    z1: jax.Array,
    z2: jax.Array,
    *,
    distance: Distance = "cosine",
) -> jax.Array:
    """Distance of each prediction from its target, the sum over both, a scalar.

    Args:
      q1, q2, z1, z2: [B, D], any float dtype; z1 is q1's target, z2 is q2's. Computed
        in at least float32.
      distance: 'cosine': mean of |q - z|^2 = 2 - 2 cos (arXiv 2006.07733, eq. 2);
        'euclidean': mean of |q - z|; both of unit vectors.

    Raises:
      ValueError: another distance.
    """
    if distance not in ("cosine", "euclidean"):
        raise ValueError(
            f"unknown BYOL distance {distance!r}; use 'cosine' or 'euclidean'"
        )

    def one(q, z):
        squares = ((unit(q) - unit(z)) ** 2).sum(axis=-1)
        if distance == "cosine":
            return squares.mean()
        # The root has no gradient at 0.
        safe = jnp.where(squares > 0, squares, 1)
        return jnp.where(squares > 0, jnp.sqrt(safe), 0).mean()

    return one(q1, z1) + one(q2, z2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Byol:
    """The method; `methods.base.Method` gives the contract.

    params: 'encoder', 'projector', 'predictor'; extra: 'target', the averages of the
    first two, and 'statistics' and 'target_statistics'. Both networks normalise by the
    batch, so each has its own running statistics, those of what it has seen.
    """

    settings: Settings
    encoder: Encoder
    projector: Network
    predictor: Network
    steps: int
    num_views: ClassVar[tuple[int, ...]] = (2,)
    text: ClassVar[TextShape | None] = None
    labels: ClassVar[LabelShape | None] = None
    leads: ClassVar[tuple[str, ...]] = ()
    couples_rows: ClassVar[bool] = False

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        online_rng, predictor_rng = jax.random.split(rng)
        params, statistics = self.encoder.init_with_head(
            online_rng, batch["ecg"], "projector", self.projector
        )
        zeros = jnp.zeros((1, self.settings.projector.out))
        predictor = self.predictor.init_all(predictor_rng, zeros)
        # Copies: the state is donated, and no buffer may be donated twice.
        extra = {
            "target": jax.tree.map(jnp.copy, params),
            "target_statistics": jax.tree.map(jnp.copy, statistics),
            "statistics": {**statistics, "predictor": predictor[1]},
        }
        return {**params, "predictor": predictor[0]}, extra

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        target = jax.lax.stop_gradient(extra["target"])
        statistics, target_statistics = extra["statistics"], extra["target_statistics"]
        predictions, targets = [], []
        for number, view in enumerate(batch["views"]):
            view_rng = jax.random.fold_in(rng, number)
            z, statistics = self._project(params, statistics, view, view_rng)
            q, predictor = self.predictor.train(
                params["predictor"], statistics["predictor"], z
            )
            statistics = {**statistics, "predictor": predictor}
            predictions.append(q)
            z, target_statistics = self._project(target, target_statistics, view, None)
            targets.append(z)
        q1, q2 = predictions
        z1, z2 = jax.lax.stop_gradient(targets)
        # Across: what one view shows is predicted from the other.
        loss = byol_loss(q1, q2, z2, z1, distance=self.settings.distance)
        metrics = {
            "similarity": (unit(q1) * unit(z2)).sum(axis=-1).mean(),
            "spread": spread(z1),
        }
        statistics = jax.lax.stop_gradient(statistics)
        extra = {
            **extra,
            "statistics": statistics,
            "target_statistics": target_statistics,
        }
        return loss, (extra, metrics)

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        start, end = self.settings.ema
        weights = ema_weights(step, start=start, end=end, total=self.steps)
        online = {name: params[name] for name in extra["target"]}
        return {**extra, "target": ema_update(extra["target"], online, weights)}

    def kept(self, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        # The online network, as the paper keeps it.
        return params["encoder"], extra["statistics"]["encoder"]

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        return self.encoder.features(
            *self.kept(params, extra), batch["ecg"], batch.get("length")
        )

    def _project(self, params, statistics, view, rng):
        """A view's place in the space of comparison, and the statistics after it.

        Without a key no path is dropped.
        """
        pooled, encoder = self.encoder.train(
            params["encoder"],
            statistics["encoder"],
            view["ecg"],
            view.get("length"),
            rng,
        )
        z, projector = self.projector.train(
            params["projector"], statistics["projector"], pooled
        )
        return z, {**statistics, "encoder": encoder, "projector": projector}


def build(
    settings: Settings,
    encoder: Module,
    *,
    steps: int,
    masks: Mapping[str, Any] | None,
) -> Byol:
    """The method on any encoder; raises ValueError for masks, which it has no use for."""
    if masks is not None:
        raise ValueError("BYOL masks nothing; leave config.masks out")

    return Byol(
        settings=settings,
        encoder=Encoder(encoder),
        # The predictor's batch norm takes a bias away again: without a gradient of
        # its own it would follow rounding errors, and move the target with it.
        projector=make_head(
            settings.projector,
            dtype=encoder.dtype,
            out_bias=not (settings.predictor.batch_norm and settings.predictor.hidden),
        ),
        predictor=make_head(settings.predictor, dtype=encoder.dtype),
        steps=steps,
    )
