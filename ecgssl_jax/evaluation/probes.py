"""Probes on frozen features: logistic regression, ridge regression, attention.

A probe's settings are selected on rows held out from its training rows, never on the
rows that it is evaluated on: those it meets in `logits` alone. Unknown labels
(`labels_valid` False) take part in nothing. Results depend on the arguments only.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.evaluation import attention_pool, logistic, metrics

# Penalties on standardised features, strong to weak.
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A linear classifier of every label, with its own standardisation.

    Attributes:
      weights: [D, Y] float32, for standardised features.
      bias: [Y] float32.
      mean, scale: [D] float32, of the training features; scale is 1 / standard
        deviation, 0 where a feature is constant.
      l2: the chosen strength.
      selection: strength -> macro AUROC on the held-out rows; empty where nothing
        was to choose.
      gap: the largest of the labels' estimated distances from the minimum of their
        mean loss.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    l2: float
    selection: Mapping[float, float]
    gap: float

    def logits(self, features) -> np.ndarray:
        """Scores of other records: [n, D] -> [n, Y] float32."""
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"features of shape {features.shape} for a probe trained on "
                f"[N, {len(self.mean)}]"
            )
        standardised = (features.astype(np.float32) - self.mean) * self.scale
        return standardised @ self.weights + self.bias


def linear_probe(
    features,
    labels,
    *,
    labels_valid=None,
    held_out=None,
    l2: Sequence[float] = STRENGTHS,
    stop_below: float = 0.01,
    tolerance: float = 1e-5,
    max_iterations: int = 50,
) -> LinearProbe:
    """Multi-label logistic regression, solved to convergence for each strength.

    Minimises, for each label, the mean cross-entropy over its known records plus
    l2 / 2 |weights|^2 (scikit-learn's C is 1 / (l2 N)); the bias is free. The
    strength with the best macro AUROC on `held_out` is then fitted to all rows.
    Labels without positives or negatives get zero weights.

    Args:
      features: [N, D] training features, any float dtype.
      labels: [N, Y] 0 or 1.
      labels_valid: [N, Y] or [N, 1] bool.
      held_out: the training rows to select on, as indices or [N] bool; split by
        patient. Needed where `l2` has several strengths.
      l2: strengths to choose from, tried from strong to weak.
      stop_below: once a strength scores this far below the best so far, weaker ones
        (which overfit more, and take longest to solve) are not tried.
      tolerance: a label is solved when its estimated distance from the minimum is
        below this share of its loss.
      max_iterations: Newton steps for each strength, at most.

    Raises:
      ValueError: shapes that do not match, features that are not finite, several
        strengths and nothing held out, or nothing left to train or select on.
    """
    features, labels, valid = _checked(features, labels, labels_valid, "[N, D]")
    strengths = sorted({float(strength) for strength in l2}, reverse=True)
    if not strengths or strengths[-1] <= 0:
        raise ValueError(f"l2 must hold positive strengths, found {l2}")
    if held_out is None and len(strengths) > 1:
        raise ValueError(
            f"l2 has {len(strengths)} strengths and no row is held out to choose one: "
            "give some training rows as `held_out`, or a single strength"
        )
    mean, scale = _standardisation(features)
    problem = logistic.rotate(_standardise(features, mean, scale))
    solve = functools.partial(
        logistic.solve, tolerance=tolerance, max_iterations=max_iterations
    )
    solution = logistic.zero_solution(features.shape[1], labels.shape[1])
    targets = jnp.asarray(labels)
    selection, solutions = {}, {}
    if len(strengths) > 1:
        kept = _held_out_mask(held_out, len(features))
        known = jnp.asarray(valid & ~kept[:, None])
        # From strong to weak, each solution is a close start for the next.
        for strength in strengths:
            solution, _ = solve(problem, targets, known, strength, solution)
            scores = logistic.predict(problem.features[kept], solution)
            score = metrics.macro_auroc(scores, labels[kept], valid[kept])
            selection[strength], solutions[strength] = score.value, solution
            if score.value < max(selection.values()) - stop_below:
                break
    chosen = max(selection, key=selection.__getitem__, default=strengths[0])
    solution, gap = solve(
        problem, targets, jnp.asarray(valid), chosen, solutions.get(chosen, solution)
    )
    return LinearProbe(
        weights=np.asarray(logistic.matmul(problem.axes, solution.weights)),
        bias=np.asarray(solution.bias),
        mean=mean,
        scale=scale,
        l2=chosen,
        selection=selection,
        gap=float(gap.max()),
    )


def ridge_probe(
    features, labels, *, labels_valid=None, l2: float = 1e-1
) -> LinearProbe:
    """Least squares onto the labels, in closed form: cheap enough while training.

    Minimises, for each label, the mean over its known records of the squared error
    plus l2 |weights|^2, on standardised features (scikit-learn's `Ridge` alpha is
    l2 N); the bias is free. Scores rank records; they are no log-odds.

    Args and errors as for `linear_probe`.
    """
    features, labels, valid = _checked(features, labels, labels_valid, "[N, D]")
    if l2 <= 0:
        raise ValueError(f"l2 must be positive, found {l2}")
    mean, scale = _standardisation(features)
    standardised = _standardise(features, mean, scale)
    weights = np.zeros((features.shape[1], labels.shape[1]), np.float32)
    bias = np.zeros(labels.shape[1], np.float32)
    # Labels that are known for the same records share the matrix to invert.
    patterns, group = np.unique(np.packbits(valid, axis=0), axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        columns = np.flatnonzero(group == pattern)
        known = valid[:, columns[0]]
        if known.any():
            weights[:, columns], bias[columns] = _ridge(
                standardised, labels[:, columns], known.astype(np.float32), l2
            )
    return LinearProbe(
        weights=weights,
        bias=bias,
        mean=mean,
        scale=scale,
        l2=l2,
        selection={},
        gap=0.0,
    )


@jax.jit
def _ridge(features, labels, known, l2) -> tuple[jax.Array, jax.Array]:
    """Ridge regression of labels that are all known for the same records."""
    weight = known / known.sum()
    centre, target = weight @ features, weight @ labels
    root = jnp.sqrt(weight)[:, None]
    centred = (features - centre) * root
    gram = logistic.matmul(centred.T, centred) + l2 * jnp.eye(features.shape[1])
    moments = logistic.matmul(centred.T, (labels - target) * root)
    weights = jax.scipy.linalg.solve(gram, moments, assume_a="pos")
    return weights, target - logistic.matmul(centre, weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionProbe:
    """One learned query attends over a record's tokens; its answer is classified.

    Attributes:
      params: query [H, D / H], key and value [D, H, D / H], weights [D, Y], bias [Y].
      mean, scale: [D] float32, as in `LinearProbe`.
      step: training steps that the chosen parameters have seen.
      selection: step -> macro AUROC on the held-out rows.
      losses: [steps] float32, training loss of each step.
    """

    params: attention_pool.Params
    mean: np.ndarray
    scale: np.ndarray
    step: int
    selection: Mapping[int, float]
    losses: np.ndarray

    def logits(self, tokens, tokens_valid=None) -> np.ndarray:
        """Scores of other records: [n, L, D], [n, L] bool -> [n, Y] float32."""
        if tokens.ndim != 3 or tokens.shape[2] != len(self.mean):
            raise ValueError(
                f"tokens of shape {tokens.shape} for a probe trained on "
                f"[N, L, {len(self.mean)}]"
            )
        tokens_valid = _checked_tokens_valid(tokens, tokens_valid)
        rows = np.arange(len(tokens))
        return np.asarray(
            attention_pool.score(
                self.params, tokens, tokens_valid, self.mean, self.scale, rows
            )
        )


def attention_probe(
    tokens,
    labels,
    *,
    labels_valid=None,
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
      labels, labels_valid, held_out: as for `linear_probe`.
      tokens_valid: [N, L] bool, tokens that may be attended to.
      num_heads: heads of the query; divides D.
      evaluate_every: steps between looks at the held-out rows.
      seed: of the initial parameters and the order of the records.

    Raises:
      ValueError: as `linear_probe`; also for records without a valid token, and heads
        that do not divide the width.
    """
    tokens, labels, valid = _checked(tokens, labels, labels_valid, "[N, L, D]")
    if tokens.shape[2] % num_heads:
        raise ValueError(f"{num_heads} heads do not divide the width {tokens.shape[2]}")
    if min(steps, batch_size, evaluate_every) < 1:
        raise ValueError("steps, batch_size and evaluate_every must be at least 1")
    tokens_valid = _checked_tokens_valid(tokens, tokens_valid)
    kept = np.zeros(len(tokens), bool)
    if held_out is not None:
        kept = _held_out_mask(held_out, len(tokens))
    train_rows = np.flatnonzero(~kept & valid.any(axis=1))
    if not len(train_rows):
        raise ValueError("no training row has a known label")
    mean, scale = _standardisation(tokens, tokens_valid)
    data = attention_pool.Data(
        *map(jnp.asarray, (tokens, tokens_valid, labels, valid, mean, scale))
    )
    recipe = attention_pool.Recipe(
        steps=steps, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bias = attention_pool.log_odds(labels[train_rows], valid[train_rows])
    params = attention_pool.init(
        jax.random.key(seed), tokens.shape[2], bias, num_heads=num_heads
    )
    state = (params, recipe.optimizer().init(params))
    order = _batches(train_rows, steps, batch_size, seed)
    selection, losses, best = {}, [], (-np.inf, steps, params)
    for start in range(0, steps, evaluate_every):
        rows = order[start : start + evaluate_every]
        state, chunk_losses = attention_pool.train(state, data, rows, recipe=recipe)
        losses.append(np.asarray(chunk_losses))
        step = start + len(rows)
        score = float(step)  # Without held-out rows, later is better.
        if kept.any():
            scores = attention_pool.score(
                state[0], *data[:2], mean, scale, np.flatnonzero(kept)
            )
            score = metrics.macro_auroc(scores, labels[kept], valid[kept]).value
            selection[step] = score
        if score > best[0]:
            best = (score, step, state[0])
    return AttentionProbe(
        params=best[2],
        mean=mean,
        scale=scale,
        step=best[1],
        selection=selection,
        losses=np.concatenate(losses),
    )


def _batches(rows: np.ndarray, steps: int, batch_size: int, seed: int) -> np.ndarray:
    """[steps, batch_size] rows: a new order for each pass, passes back to back."""
    random = np.random.default_rng(seed)
    passes = -(-steps * batch_size // len(rows))
    order = np.concatenate([random.permutation(rows) for _ in range(passes)])
    return order[: steps * batch_size].reshape(steps, batch_size)


@jax.jit
def _standardise(features, mean, scale) -> jax.Array:
    return (features.astype(jnp.float32) - mean) * scale


def _standardisation(features, valid=None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation over all (valid) axes but the last, [D] each."""
    mean, std = map(np.asarray, _moments(features, valid))
    # What varies less than this is rounding, not a feature.
    alive = std > 1e-6 * np.abs(mean)
    return mean, np.where(alive, 1 / np.where(alive, std, 1), 0).astype(np.float32)


@jax.jit
def _moments(features, valid) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(features.ndim - 1))
    if valid is None:
        valid = jnp.ones(features.shape[:-1], bool)
    share = (valid / valid.sum())[..., None]
    # About one of the values, so that a constant feature varies by exactly 0.
    origin = features[(0,) * len(axes)].astype(jnp.float32)
    shifted = features.astype(jnp.float32) - origin
    shift = jnp.sum(shifted * share, axis=axes)
    variance = jnp.sum((shifted - shift) ** 2 * share, axis=axes)
    return origin + shift, jnp.sqrt(variance)


def _checked(features, labels, valid, expected: str):
    """Features as given, labels [N, Y] float32 (0 where unknown), valid [N, Y]."""
    labels = np.asarray(labels)
    rank = expected.count(",") + 1
    if features.ndim != rank or labels.ndim != 2 or len(features) != len(labels):
        raise ValueError(
            f"features {features.shape} and labels {labels.shape}: expected {expected} "
            "and [N, Y] of the same records"
        )
    valid = np.ones((1, 1), bool) if valid is None else np.asarray(valid).astype(bool)
    if valid.size > 1 and valid.shape not in (labels.shape, (len(labels), 1)):
        raise ValueError(
            f"labels_valid is {valid.shape} for labels {labels.shape}; give [N, Y] "
            "or [N, 1]"
        )
    valid = np.broadcast_to(valid, labels.shape)
    if not np.isin(labels[valid], (0, 1)).all():
        raise ValueError("known labels must be 0 or 1; mask others in labels_valid")
    finite = np.asarray(_finite_rows(features))
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of {len(finite)} records have features that are not "
            f"finite, the first in row {np.argmin(finite)}"
        )
    return features, np.where(valid, labels, 0).astype(np.float32), valid


@jax.jit
def _finite_rows(features) -> jax.Array:
    return jnp.isfinite(features).all(axis=tuple(range(1, features.ndim)))


def _checked_tokens_valid(tokens, valid) -> np.ndarray:
    """[N, L] bool, with a valid token in every record."""
    valid = np.ones(tokens.shape[:2], bool) if valid is None else np.asarray(valid)
    if valid.shape != tokens.shape[:2]:
        raise ValueError(f"tokens_valid is {valid.shape} for tokens {tokens.shape}")
    empty = ~valid.astype(bool).any(axis=1)
    if empty.any():
        raise ValueError(
            f"{empty.sum()} records have no valid token, the first in row "
            f"{np.argmax(empty)}"
        )
    return valid.astype(bool)


def _held_out_mask(held_out, records: int) -> np.ndarray:
    """[N] bool from row indices or a mask; some rows must be on either side."""
    mask = np.zeros(records, bool)
    held_out = np.asarray(held_out)
    if held_out.dtype == bool and held_out.shape != (records,):
        raise ValueError(f"held_out is {held_out.shape} for {records} training rows")
    mask[held_out] = True
    if not 0 < mask.sum() < records:
        raise ValueError(
            f"{mask.sum()} of {records} training rows are held out; some must be, "
            "and some not"
        )
    return mask
