"""Schedules, factors of parameters by regular expression, and the optax chain."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ecgssl_jax.rules import check_patterns, match_rules, path_string

Schedule = Callable[[jax.Array], jax.Array]

# A block of an encoder, in the path of its parameters; or all of them, stacked.
_BLOCK = re.compile(r"^encoder/(?:transformer/|stage(\d+)_)block_?(\d+)/")
_STACK = "encoder/transformer/blocks/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`config.optim`: AdamW (arXiv 1711.05101) with schedules.

    Attributes:
      learning_rate: (first, peak, last): linear warm-up, then a cosine.
      warmup: share of all steps.
      weight_decay: (first, last), a cosine between them.
      b1, b2, epsilon: Adam's.
      clip_norm: largest global norm of the gradient; None leaves it as it is.
      decay: (pattern, factor) of the weight decay; the first pattern found in a
        parameter's path wins, and every path must be matched.
      rates: (pattern, factor) of the learning rate, likewise; 0 freezes.
      layer_decay: factor of the learning rate for each layer between a parameter and
        the head: below 1, the first layers of an encoder change the least. BEiT, arXiv
        2106.08254.
      accumulate: micro-batches that a step is computed in, one after the other.
    """

    learning_rate: tuple[float, float, float] = (1e-6, 1e-3, 1e-6)
    warmup: float = 0.1
    weight_decay: tuple[float, float] = (0.01, 0.1)
    b1: float = 0.9
    b2: float = 0.99
    epsilon: float = 1e-6
    clip_norm: float | None = None
    decay: tuple[tuple[str, float], ...] = (
        (r"(kernel|registers|mask_token)$", 1.0),
        (r".*", 0.0),
    )
    rates: tuple[tuple[str, float], ...] = ((r".*", 1.0),)
    layer_decay: float = 1.0
    accumulate: int = 1

    def __post_init__(self):
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, found {self.accumulate}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(
                f"layer_decay is above 0 and at most 1, found {self.layer_decay}"
            )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of all steps, found {self.warmup}")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ValueError(
                f"b1 and b2 must be at least 0 and below 1, found {self.b1} and {self.b2}"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, found {self.clip_norm}")
        for name in ("decay", "rates"):
            check_patterns(getattr(self, name), what=f"config.optim.{name}")


def warmup_cosine(
    step: jax.Array,
    *,
    first: float,
    peak: float,
    last: float,
    warmup: int,
    total: int,
) -> jax.Array:
    """`first` to `peak` linearly over `warmup` steps, a cosine to `last` at `total`."""
    step = jnp.asarray(step)
    rising = first + (peak - first) * step / max(warmup, 1)
    falling = cosine(step - warmup, first=peak, last=last, total=total - warmup)
    return jnp.where(step < warmup, rising, falling)


def cosine(step: jax.Array, *, first: float, last: float, total: int) -> jax.Array:
    """Half a cosine from `first` at step 0 to `last` at `total` and after."""
    progress = jnp.clip(step / max(total, 1), 0.0, 1.0)
    return last + (first - last) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


class _ScheduledState(NamedTuple):
    count: jax.Array


def _scheduled_descent(
    learning_rate: Schedule, weight_decay: Schedule, settings: Settings
) -> optax.GradientTransformation:
    """update -> -rate * (update + decay * parameter), with both scheduled."""

    def init(params):
        match_rules(settings.decay, params, what="config.optim.decay")
        match_rules(settings.rates, params, what="config.optim.rates")
        return _ScheduledState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        rate, decay = learning_rate(state.count), weight_decay(state.count)

        def one(update, param, decay_factor, rate_factor, layer_factor):
            step = update + (decay * decay_factor).astype(param.dtype) * param
            return -(rate * rate_factor * layer_factor).astype(param.dtype) * step

        updates = jax.tree.map(
            one,
            updates,
            params,
            match_rules(settings.decay, params, what="config.optim.decay"),
            match_rules(settings.rates, params, what="config.optim.rates"),
            layer_factors(params, settings.layer_decay),
        )
        return updates, _ScheduledState(state.count + 1)

    return optax.GradientTransformation(init, update)


def layer_factors(params: Any, decay: float) -> Any:
    """decay^k of each parameter, with k layers between it and the head.

    Layers are the blocks of `params['encoder']`; what comes before the first one is a
    layer too, what comes after the last one belongs to it. Of stacked blocks, whose
    first axis are the layers, an array that has one factor for each.
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: path_string(path), params)
    blocks = [
        match.groups() for match in map(_BLOCK.search, jax.tree.leaves(paths)) if match
    ]
    order = sorted(set(blocks), key=lambda block: tuple(int(x or 0) for x in block))
    named = zip(jax.tree.leaves(paths), jax.tree.leaves(params), strict=True)
    depths = [np.shape(leaf)[0] for path, leaf in named if path.startswith(_STACK)]
    depth = max([len(order), *depths])

    def factor(path: str, leaf: Any) -> float | np.ndarray:
        if not path.startswith("encoder/"):
            return 1.0
        if path.startswith(_STACK):
            each = decay ** np.arange(depth, 0, -1, dtype=np.float32)
            return each.reshape(depth, *[1] * (np.ndim(leaf) - 1))
        match = _BLOCK.search(path)
        if match:
            return decay ** (depth - order.index(match.groups()))
        last = path.startswith("encoder/transformer/norm/")
        return decay if last else decay ** (depth + 1)

    return jax.tree.map(factor, paths, params)


def schedules(settings: Settings, steps: int) -> tuple[Schedule, Schedule]:
    """The learning rate and the weight decay as functions of the step from 0.

    The last step, number `steps - 1`, is taken with their last values.
    """
    first, peak, last = settings.learning_rate
    warmup, final = round(settings.warmup * steps), steps - 1

    def learning_rate(step):
        return warmup_cosine(
            step, first=first, peak=peak, last=last, warmup=warmup, total=final
        )

    def weight_decay(step):
        first, last = settings.weight_decay
        return cosine(step, first=first, last=last, total=final)

    return learning_rate, weight_decay


def make_optimiser(settings: Settings, steps: int) -> optax.GradientTransformation:
    """Clipping, Adam, decoupled weight decay and schedules as one optax chain."""
    learning_rate, weight_decay = schedules(settings, steps)
    # In its place even where nothing is clipped, so that a run can be continued with
    # another `clip_norm`: the state's paths count the parts.
    clip = optax.identity()
    if settings.clip_norm is not None:
        clip = optax.clip_by_global_norm(settings.clip_norm)
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.epsilon),
        _scheduled_descent(learning_rate, weight_decay, settings),
    )
