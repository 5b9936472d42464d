"""Everything that a step carries on, and its sharded initialisation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ecgssl_jax import sharding
from ecgssl_jax.methods.base import Method
from ecgssl_jax.signals import Statistics, prepare


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that changes with a step, and the statistics that go with it.

    Attributes:
      step: int32, updates made.
      healthy: bool, false from the first loss or gradient that was not finite; no
        update is applied from then on.
      params, extra: as the method has them.
      optimiser: the optax state.
      statistics: of the prepared sets.
    """

    step: jax.Array
    healthy: jax.Array
    params: Any
    extra: Any
    optimiser: Any
    statistics: Statistics


def make_init(
    method: Method,
    optimiser: optax.GradientTransformation,
    statistics: Statistics,
    *,
    clip: float | None,
) -> Callable[[jax.Array, dict[str, jax.Array]], TrainState]:
    """(rng, batch) -> the first state; only the batch's shapes matter."""

    def init(rng, batch):
        batch = dict(batch, ecg=prepare(batch, statistics, clip=clip))
        params, extra = method.init(rng, batch)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            healthy=jnp.ones((), bool),
            params=params,
            extra=extra,
            optimiser=optimiser.init(params),
            statistics=jax.tree.map(jnp.asarray, statistics),
        )

    return init


def abstract_state(
    init: Callable, batch: Any, mesh: jax.sharding.Mesh, rules: sharding.Rules
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(init, jax.random.key(0), batch)
    shardings = sharding.tree_shardings(shapes, mesh, rules)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )
