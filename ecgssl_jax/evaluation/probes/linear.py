"""Linear probes: logistic regression to convergence, and ridge regression."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.evaluation import metrics
from ecgssl_jax.evaluation.probes import inputs, logistic
from ecgssl_jax.evaluation.probes.group import Fit, Group, check_held_out, checked

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
        inputs.check_width(features, len(self.mean))
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
    inputs.check_features(features, rank=2)
    check_held_out(groups, len(strengths), "strengths")
    fits = [checked(group, len(features)) for group in groups]
    mean, scale = inputs.standardisation(features)
    problem = logistic.rotate(inputs.standardise(features, mean, scale))
    solve = functools.partial(
        logistic.solve, tolerance=tolerance, max_iterations=max_iterations
    )
    columns = sum(fit.labels.shape[1] for fit in fits)
    start = logistic.zero_solution(features.shape[1], columns)
    if len(strengths) > 1:
        start = _score_strengths(problem, fits, strengths, solve, start, stop_below)
    else:
        for fit in fits:
            fit.chosen = strengths[0]
    solution = solve(
        problem,
        _stacked([fit.labels for fit in fits]),
        _stacked([fit.fitted_last for fit in fits]),
        _stacked([np.full(fit.labels.shape[1], fit.chosen) for fit in fits]),
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
        for fit, part in zip(fits, _parts(fits), strict=True)
    ]


def _stacked(parts: Sequence[np.ndarray]) -> jax.Array:
    joined = np.concatenate(parts, axis=-1)
    return jnp.asarray(joined, jnp.bool if joined.dtype == bool else jnp.float32)


def _parts(fits: Sequence[Fit]) -> list[slice]:
    """Each group's columns among those of all."""
    edges = np.cumsum([0, *(fit.labels.shape[1] for fit in fits)])
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _score_strengths(
    problem: logistic.Problem,
    fits: Sequence[Fit],
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
        known = [fit.fitted & (not fit.stopped) for fit in fits]
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
    inputs.check_features(features, rank=2)
    labels, known = inputs.checked_labels(labels, known, len(features))
    if l2 <= 0:
        raise ValueError(f"l2 must be positive, found {l2}")
    mean, scale = inputs.standardisation(features)
    standardised = inputs.standardise(features, mean, scale)
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
