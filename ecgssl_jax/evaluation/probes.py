"""Probes on frozen features: logistic regression, ridge regression, attention.

A probe's settings are selected on rows held out from its training rows, never on the
rows that it is evaluated on: those it meets in `logits` alone. Unknown labels
(`known` False) take part in nothing. Results depend on the arguments only.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.evaluation import attention_pool, logistic, metrics, probe_inputs

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
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    l2: float
    selection: Mapping[float, float]

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
    known=None,
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
      known: [N, Y] or [N, 1] bool.
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
    group = Group(labels=labels, known=known, held_out=held_out)
    (probe,) = linear_probes(
        features,
        [group],
        l2=l2,
        stop_below=stop_below,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return probe


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Labels whose probes have one strength: those of a task, on the rows it may use.

    Attributes:
      labels: [N, Y] 0 or 1.
      known: [N, Y] or [N, 1] bool; None for all.
      held_out: the rows to select the strength on, as indices or [N] bool.
      refit: whether the chosen strength is then fitted to these rows as well.
    """

    labels: Any
    known: Any = None
    held_out: Any = None
    refit: bool = True


def linear_probes(
    features,
    groups: Sequence[Group],
    *,
    l2: Sequence[float] = STRENGTHS,
    stop_below: float = 0.01,
    tolerance: float = 1e-5,
    max_iterations: int = 50,
) -> list[LinearProbe]:
    """As `linear_probe`, for several groups of labels of the same features.

    Solved together, which costs little more than one: the products with the features
    are what takes the time. Each group selects its own strength.
    """
    strengths = sorted({float(strength) for strength in l2}, reverse=True)
    if not strengths or strengths[-1] <= 0:
        raise ValueError(f"l2 must hold positive strengths, found {l2}")
    checked = []
    for group in groups:
        features, labels, known = probe_inputs.checked(
            features, group.labels, group.known, "[N, D]"
        )
        kept = np.zeros(len(features), bool)
        if len(strengths) > 1:
            if group.held_out is None:
                raise ValueError(
                    f"l2 has {len(strengths)} strengths and no row is held out to "
                    "choose one: give some training rows as `held_out`, or a single "
                    "strength"
                )
            kept = probe_inputs.held_out_mask(group.held_out, len(features))
        checked.append(_Fit(labels=labels, known=known, kept=kept, refit=group.refit))
    mean, scale = probe_inputs.standardisation(features)
    problem = logistic.rotate(probe_inputs.standardise(features, mean, scale))
    solve = functools.partial(
        logistic.solve, tolerance=tolerance, max_iterations=max_iterations
    )
    columns = sum(fit.labels.shape[1] for fit in checked)
    start = logistic.zero_solution(features.shape[1], columns)
    if len(strengths) > 1:
        start = _score_strengths(problem, checked, strengths, solve, start, stop_below)
    else:
        for fit in checked:
            fit.chosen = strengths[0]
    solution = solve(
        problem,
        _stacked([fit.labels for fit in checked]),
        _stacked([fit.known & (fit.refit | ~fit.kept)[:, None] for fit in checked]),
        _stacked([np.full(fit.labels.shape[1], fit.chosen) for fit in checked]),
        start,
    )
    weights = np.asarray(logistic.matmul(problem.axes, solution.weights))
    bias = np.asarray(solution.bias)
    return [
        LinearProbe(
            weights=weights[:, part],
            bias=bias[part],
            mean=mean,
            scale=scale,
            l2=fit.chosen,
            selection=fit.selection,
        )
        for fit, part in zip(checked, _parts(checked), strict=True)
    ]


@dataclasses.dataclass(kw_only=True, eq=False)
class _Fit:
    """A group that was checked, and what is found out about it."""

    labels: np.ndarray  # [N, Y] float32
    known: np.ndarray  # [N, Y] bool
    kept: np.ndarray  # [N] bool, to select on
    refit: bool
    chosen: float = 0.0
    selection: dict[float, float] = dataclasses.field(default_factory=dict)
    stopped: bool = False


def _stacked(parts: Sequence[np.ndarray]) -> jax.Array:
    joined = np.concatenate(parts, axis=-1)
    return jnp.asarray(joined, jnp.bool if joined.dtype == bool else jnp.float32)


def _parts(fits: Sequence[_Fit]) -> list[slice]:
    """Each group's columns among those of all."""
    edges = np.cumsum([0, *(fit.labels.shape[1] for fit in fits)])
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _score_strengths(
    problem: logistic.Problem,
    fits: Sequence[_Fit],
    strengths: Sequence[float],
    solve: Callable[..., logistic.Solution],
    solution: logistic.Solution,
    stop_below: float,
) -> logistic.Solution:
    """Fits every strength, from strong to weak, to the rows that are not held out.

    Notes the macro AUROC on those rows, and the choice; returns its solution.
    """
    targets = _stacked([fit.labels for fit in fits])
    parts = _parts(fits)
    best = jax.tree.map(np.array, solution)
    for strength in strengths:
        # A group that has stopped has nothing known, which costs no step.
        known = [fit.known & ~fit.kept[:, None] & (not fit.stopped) for fit in fits]
        # The last solution is a close start for the next.
        solution = solve(problem, targets, _stacked(known), strength, solution)
        for fit, part in zip(fits, parts, strict=True):
            if fit.stopped:
                continue
            own = logistic.Solution(solution.weights[:, part], solution.bias[part])
            scores = logistic.predict(problem.features[fit.kept], own)
            score = metrics.macro_auroc(
                scores, fit.labels[fit.kept], fit.known[fit.kept]
            ).value
            if score > max(fit.selection.values(), default=-1):
                fit.chosen = strength
                best.weights[:, part], best.bias[part] = own
            fit.selection[strength] = score
            fit.stopped = score < max(fit.selection.values()) - stop_below
        if all(fit.stopped for fit in fits):
            break
    return jax.tree.map(jnp.asarray, best)


def ridge_probe(features, labels, *, known=None, l2: float = 1e-1) -> LinearProbe:
    """Least squares onto the labels, in closed form: cheap enough while training.

    Minimises, for each label, the mean over its known records of the squared error
    plus l2 |weights|^2, on standardised features (scikit-learn's `Ridge` alpha is
    l2 N); the bias is free. Scores rank records; they are no log-odds.

    Args and errors as for `linear_probe`.
    """
    features, labels, known = probe_inputs.checked(features, labels, known, "[N, D]")
    if l2 <= 0:
        raise ValueError(f"l2 must be positive, found {l2}")
    mean, scale = probe_inputs.standardisation(features)
    standardised = probe_inputs.standardise(features, mean, scale)
    weights = np.zeros((features.shape[1], labels.shape[1]), np.float32)
    bias = np.zeros(labels.shape[1], np.float32)
    # Labels that are known for the same records share the matrix to invert.
    patterns, group = np.unique(np.packbits(known, axis=0), axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        columns = np.flatnonzero(group == pattern)
        rows = known[:, columns[0]]
        if rows.any():
            weights[:, columns], bias[columns] = _ridge(
                standardised, labels[:, columns], rows.astype(np.float32), l2
            )
    return LinearProbe(
        weights=weights,
        bias=bias,
        mean=mean,
        scale=scale,
        l2=l2,
        selection={},
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
    """

    params: attention_pool.Params
    mean: np.ndarray
    scale: np.ndarray
    step: int
    selection: Mapping[int, float]

    def logits(self, tokens, tokens_valid=None) -> np.ndarray:
        """Scores of other records: [n, L, D], [n, L] bool -> [n, Y] float32."""
        if tokens.ndim != 3 or tokens.shape[2] != len(self.mean):
            raise ValueError(
                f"tokens of shape {tokens.shape} for a probe trained on "
                f"[N, L, {len(self.mean)}]"
            )
        tokens_valid = probe_inputs.checked_tokens_valid(tokens, tokens_valid)
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
    tokens, labels, known = probe_inputs.checked(tokens, labels, known, "[N, L, D]")
    if tokens.shape[2] % num_heads:
        raise ValueError(f"{num_heads} heads do not divide the width {tokens.shape[2]}")
    if min(steps, batch_size, evaluate_every) < 1:
        raise ValueError("steps, batch_size and evaluate_every must be at least 1")
    tokens_valid = probe_inputs.checked_tokens_valid(tokens, tokens_valid)
    kept = np.zeros(len(tokens), bool)
    if held_out is not None:
        kept = probe_inputs.held_out_mask(held_out, len(tokens))
    train_rows = np.flatnonzero(~kept & known.any(axis=1))
    if not len(train_rows):
        raise ValueError("no training row has a known label")
    mean, scale = probe_inputs.standardisation(tokens, tokens_valid)
    data = attention_pool.Data(
        *map(jnp.asarray, (tokens, tokens_valid, labels, known, mean, scale))
    )
    recipe = attention_pool.Recipe(
        steps=steps, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bias = attention_pool.log_odds(labels[train_rows], known[train_rows])
    params = attention_pool.init(
        jax.random.key(seed), tokens.shape[2], bias, num_heads=num_heads
    )
    params, step, selection = _train_attention(
        (params, recipe.optimizer().init(params)),
        data,
        _batches(train_rows, steps, batch_size, seed),
        recipe=recipe,
        kept=kept,
        evaluate_every=evaluate_every,
    )
    return AttentionProbe(
        params=params, mean=mean, scale=scale, step=step, selection=selection
    )


def _train_attention(
    state: tuple[attention_pool.Params, Any],
    data: attention_pool.Data,
    order: np.ndarray,
    *,
    recipe: attention_pool.Recipe,
    kept: np.ndarray,
    evaluate_every: int,
) -> tuple[attention_pool.Params, int, dict[int, float]]:
    """Trains on the batches of rows `order` [S, B].

    Returns:
      The parameters of the best macro AUROC on the rows `kept` [N] bool, the last
      ones if no row is kept; their step; step -> macro AUROC.
    """
    labels, known = (np.asarray(x)[kept] for x in (data.labels, data.known))
    selection, best = {}, (-np.inf, len(order), state[0])
    for start in range(0, len(order), evaluate_every):
        rows = order[start : start + evaluate_every]
        state = attention_pool.train(state, data, rows, recipe=recipe)
        step = start + len(rows)
        score = float(step)  # Without held-out rows, later is better.
        if kept.any():
            scores = attention_pool.score(
                state[0], *data[:2], data.mean, data.scale, np.flatnonzero(kept)
            )
            score = metrics.macro_auroc(scores, labels, known).value
            selection[step] = score
        if score > best[0]:
            best = (score, step, state[0])
    _, step, params = best
    return params, step, selection


def _batches(rows: np.ndarray, steps: int, batch_size: int, seed: int) -> np.ndarray:
    """[steps, batch_size] rows: a new order for each pass, passes back to back."""
    random = np.random.default_rng(seed)
    passes = -(-steps * batch_size // len(rows))
    order = np.concatenate([random.permutation(rows) for _ in range(passes)])
    return order[: steps * batch_size].reshape(steps, batch_size)
