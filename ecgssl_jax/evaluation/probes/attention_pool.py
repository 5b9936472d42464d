"""Attention pooling by one learned query, and its training: the attention probe.

With a single query, keys need not be computed: query . (key^T token) is the token's
product with one vector per head, and values can be projected after pooling. The same
function, without the two [B, L, D] x [D, D] products.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = dict[str, jax.Array]


class Data(NamedTuple):
    """Training records, on the device, for the probes of G groups of labels."""

    tokens: jax.Array  # [N, L, D] float16 or float32
    tokens_valid: jax.Array  # [N, L] bool
    labels: jax.Array  # [N, G, Y] float32
    known: jax.Array  # [N, G, Y] bool
    mean: jax.Array  # [D]
    scale: jax.Array  # [D]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the training step is compiled for."""

    steps: int
    learning_rate: float
    weight_decay: float

    def optimizer(self) -> optax.GradientTransformation:
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.steps // 10, self.steps
        )
        return optax.adamw(
            schedule,
            weight_decay=self.weight_decay,
            mask=_decayed,
        )


def _decayed(params: Any) -> dict[str, bool]:
    return {name: name != "bias" for name in params}


def init(rng: jax.Array, width: int, bias: np.ndarray, *, num_heads: int) -> Params:
    """Nearly mean pooling at first; `bias` [Y] are the labels' log-odds."""
    rngs = jax.random.split(rng, 4)
    head = (width, num_heads, width // num_heads)
    scale = width**-0.5
    return {
        "query": 0.02 * jax.random.normal(rngs[0], head[1:]),
        "key": scale * jax.random.normal(rngs[1], head),
        "value": scale * jax.random.normal(rngs[2], head),
        "weights": 0.02 * jax.random.normal(rngs[3], (width, len(bias))),
        "bias": jnp.asarray(bias, jnp.float32),
    }


def shares(params: Params, tokens: jax.Array, tokens_valid: jax.Array) -> jax.Array:
    """[B, L, H]: of each head's attention, as for `apply`; they add up to 1 over L."""
    head_width = params["query"].shape[1]
    direction = jnp.einsum("dhk,hk->dh", params["key"], params["query"])
    scores = tokens @ (direction / jnp.sqrt(head_width))
    return jax.nn.softmax(scores, axis=1, where=tokens_valid[..., None])


def apply(params: Params, tokens: jax.Array, tokens_valid: jax.Array) -> jax.Array:
    """Logits [B, Y] of standardised tokens [B, L, D] float32; tokens_valid [B, L]."""
    share = shares(params, tokens, tokens_valid)
    pooled = jnp.einsum("blh,bld->bhd", share, tokens)
    answer = jnp.einsum("bhd,dhk->bhk", pooled, params["value"])
    return answer.reshape(len(tokens), -1) @ params["weights"] + params["bias"]


@functools.partial(jax.jit, static_argnames="recipe")
def train(
    state: tuple[Params, optax.OptState],
    data: Data,
    order: jax.Array,
    *,
    recipe: Recipe,
) -> tuple[Params, optax.OptState]:
    """Steps of G probes at once, on the batches of rows `order` [S, B].

    All parameters have a leading axis G. Each probe's loss is the mean over the labels
    that are known of its own group, so that none depends on another.
    """
    optimizer = recipe.optimizer()
    apply_all = jax.vmap(apply, in_axes=(0, None, None), out_axes=1)

    def loss_of(params, rows):
        tokens = _standardised(data.tokens[rows], data.mean, data.scale)
        logits = apply_all(params, tokens, data.tokens_valid[rows])
        loss = optax.sigmoid_binary_cross_entropy(logits, data.labels[rows])
        known = data.known[rows]
        count = jnp.maximum(known.sum(axis=(0, 2)), 1)
        return jnp.sum(jnp.sum(loss * known, axis=(0, 2)) / count)

    def step(state, rows):
        params, optimizer_state = state
        updates: Any
        gradient = jax.grad(loss_of)(params, rows)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = {name: params[name] + updates[name] for name in params}
        return (params, optimizer_state), None

    return jax.lax.scan(step, state, order)[0]


@jax.jit
def score(params: Params, tokens, tokens_valid, mean, scale, rows) -> jax.Array:
    """Logits [n, Y] of the records `rows` [n], a few hundred at a time."""

    def score_one(row):
        one = _standardised(tokens[row], mean, scale)
        return apply(params, one[None], tokens_valid[row][None])[0]

    return jax.lax.map(score_one, rows, batch_size=min(256, len(rows)))


@jax.jit
def mean_shares(params: Params, tokens, tokens_valid, mean, scale) -> jax.Array:
    """[n, L], the mean over heads; arguments as for `score`, of a few records."""
    found = shares(params, _standardised(tokens, mean, scale), tokens_valid)
    return found.mean(axis=-1)


def log_odds(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Smoothed log-odds [Y] of the known labels, where the bias starts."""
    count, positives = known.sum(axis=0), (labels * known).sum(axis=0)
    return np.log(positives + 0.5) - np.log(count - positives + 0.5)


def _standardised(tokens, mean, scale):
    return (tokens.astype(jnp.float32) - mean) * scale
