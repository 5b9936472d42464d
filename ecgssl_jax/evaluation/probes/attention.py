"""Attention probes: one learned query, trained with AdamW, chosen on held-out rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.evaluation import metrics
from ecgssl_jax.evaluation.probes import attention_pool, inputs
from ecgssl_jax.evaluation.probes.group import Fit, Group, checked


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionProbe:
    """One learned query attends over a record's tokens; its answer is classified.

    Attributes:
      params: query [H, D / H], key and value [D, H, D / H], weights [D, Y], bias [Y].
      mean, scale: [D] float32, as in `LinearProbe`.
      step: training steps that the chosen parameters have seen.
      selection: step -> macro AUROC on the held-out rows.
    """

    params: attention_pool.Params
    mean: np.ndarray
    scale: np.ndarray
    step: int
    selection: Mapping[float, float]

    def logits(self, tokens, tokens_valid=None) -> np.ndarray:
        """Scores of other records: [n, L, D], [n, L] bool -> [n, Y] float32."""
        inputs.check_width(tokens, len(self.mean), rank=3)
        tokens_valid = inputs.checked_tokens_valid(tokens, tokens_valid)
        rows = np.arange(len(tokens))
        return np.asarray(
            attention_pool.score(
                self.params, tokens, tokens_valid, self.mean, self.scale, rows
            )
        )

    def attention(self, tokens, tokens_valid=None) -> np.ndarray:
        """What each token counts: as for `logits` -> [n, L] float32, rows add up to 1.

        The mean over heads; 0 for tokens that are not valid.
        """
        inputs.check_width(tokens, len(self.mean), rank=3)
        tokens_valid = inputs.checked_tokens_valid(tokens, tokens_valid)
        return np.asarray(
            attention_pool.mean_shares(
                self.params, tokens, tokens_valid, self.mean, self.scale
            )
        )


def attention_probe(
    tokens,
    labels,
    *,
    known=None,
    tokens_valid=None,
    held_out=None,
    steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    num_heads: int = 1,
    evaluate_every: int = 250,
    seed: int = 0,
) -> AttentionProbe:
    """Attention pooling by one learned query, then a linear classifier.

    AdamW with the settings of Weimann & Conrad, arXiv 2410.13867, warmed up over a
    tenth of the steps and decayed by a cosine; every record once in each pass. The
    parameters of the best macro AUROC on `held_out` are kept; without `held_out`,
    the last.

    Args:
      tokens: [N, L, D], float16 or float32, of the training records.
      labels, known, held_out: as for `linear_probe`.
      tokens_valid: [N, L] bool, tokens that may be attended to.
      num_heads: heads of the query; divides D.
      evaluate_every: steps between looks at the held-out rows.
      seed: of the initial parameters and the order of the records.

    Raises:
      ValueError: as `linear_probe`; also for records without a valid token, and heads
        that do not divide the width.
    """
    group = Group(labels=labels, known=known, held_out=held_out)
    (probe,) = attention_probes(
        tokens,
        [group],
        tokens_valid=tokens_valid,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        num_heads=num_heads,
        evaluate_every=evaluate_every,
        seed=seed,
    )
    return probe


def attention_probes(
    tokens,
    groups: Sequence[Group],
    *,
    tokens_valid=None,
    steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    num_heads: int = 1,
    evaluate_every: int = 250,
    seed: int = 0,
) -> list[AttentionProbe]:
    """As `attention_probe`, for several groups of labels of the same tokens.

    Trained together on the same batches, of the rows that any group may use; a query
    and a step for each group. `Group.final` has no meaning here.
    """
    inputs.check_features(tokens, rank=3)
    fits = [checked(group, len(tokens)) for group in groups]
    if tokens.shape[2] % num_heads:
        raise ValueError(f"{num_heads} heads do not divide the width {tokens.shape[2]}")
    if min(steps, batch_size, evaluate_every) < 1:
        raise ValueError("steps, batch_size and evaluate_every must be at least 1")
    tokens_valid = inputs.checked_tokens_valid(tokens, tokens_valid)
    mean, scale = inputs.standardisation(tokens, tokens_valid)
    width = max(fit.labels.shape[1] for fit in fits)

    def padded(parts: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays [N, Y] of the groups as one, [N, G, `width`]; what is added is zero."""
        short = [np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in parts]
        return np.stack(short, axis=1)

    data = attention_pool.Data(
        tokens=jnp.asarray(tokens),
        tokens_valid=jnp.asarray(tokens_valid),
        labels=jnp.asarray(padded([fit.labels for fit in fits])),
        known=jnp.asarray(padded([fit.fitted for fit in fits])),
        mean=jnp.asarray(mean),
        scale=jnp.asarray(scale),
    )
    recipe = attention_pool.Recipe(
        steps=steps, learning_rate=learning_rate, weight_decay=weight_decay
    )
    params = [
        _as_wide(
            attention_pool.init(
                jax.random.fold_in(jax.random.key(seed), number),
                tokens.shape[2],
                attention_pool.log_odds(fit.labels, fit.fitted),
                num_heads=num_heads,
            ),
            width,
        )
        for number, fit in enumerate(fits)
    ]
    params = jax.tree.map(lambda *x: jnp.stack(x), *params)
    rows = np.flatnonzero(np.any([fit.fitted.any(axis=1) for fit in fits], axis=0))
    best = _train_attention(
        (params, recipe.optimizer().init(params)),
        data,
        _batches(rows, steps, batch_size, seed),
        fits,
        recipe=recipe,
        evaluate_every=evaluate_every,
    )
    return [
        AttentionProbe(
            params=own, mean=mean, scale=scale, step=step, selection=fit.selection
        )
        for fit, (step, own) in zip(fits, best, strict=True)
    ]


def _as_wide(params: attention_pool.Params, width: int) -> attention_pool.Params:
    """The parameters with labels added, up to `width`, that all weigh zero."""
    missing = width - len(params["bias"])
    return params | {
        "weights": jnp.pad(params["weights"], ((0, 0), (0, missing))),
        "bias": jnp.pad(params["bias"], (0, missing)),
    }


def _train_attention(
    state: tuple[attention_pool.Params, Any],
    data: attention_pool.Data,
    order: np.ndarray,
    fits: Sequence[Fit],
    *,
    recipe: attention_pool.Recipe,
    evaluate_every: int,
) -> list[tuple[int, attention_pool.Params]]:
    """Trains on the batches of rows `order` [S, B].

    Returns:
      Of each group the step of the best macro AUROC on its held-out rows, the last one
      if there are none, and the parameters then. Notes the AUROCs in `fits`.
    """
    best = [(-np.inf, 0, {})] * len(fits)
    for start in range(0, len(order), evaluate_every):
        rows = order[start : start + evaluate_every]
        state = attention_pool.train(state, data, rows, recipe=recipe)
        step = start + len(rows)
        for number, fit in enumerate(fits):
            params = _of_group(state[0], number, fit.labels.shape[1])
            score = float(step)  # Without held-out rows, later is better.
            if fit.kept.any():
                kept = np.flatnonzero(fit.kept & fit.known.any(axis=1))
                scores = attention_pool.score(
                    params, *data[:2], data.mean, data.scale, kept
                )
                score = metrics.macro_auroc(
                    scores, fit.labels[kept], fit.known[kept]
                ).value
                fit.selection[step] = score
            if score > best[number][0]:
                best[number] = (score, step, params)
    return [(step, params) for _, step, params in best]


def _of_group(
    params: attention_pool.Params, number: int, width: int
) -> attention_pool.Params:
    """One group's parameters, without the labels that were added."""
    own = {name: value[number] for name, value in params.items()}
    return own | {name: own[name][..., :width] for name in ("weights", "bias")}


def _batches(rows: np.ndarray, steps: int, batch_size: int, seed: int) -> np.ndarray:
    """[steps, batch_size] rows: a new order for each pass, passes back to back."""
    random = np.random.default_rng(seed)
    passes = -(-steps * batch_size // len(rows))
    order = np.concatenate([random.permutation(rows) for _ in range(passes)])
    return order[: steps * batch_size].reshape(steps, batch_size)
