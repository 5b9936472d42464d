"""Logistic regression of many labels on the same features, solved to convergence.

The labels are independent convex problems that share the products with the features:
Newton steps for all of them at once, each label's Hessian inverted approximately by
conjugate gradients. Nocedal & Wright, "Numerical Optimization", 2nd edition,
algorithm 7.1.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Solvers need true float32 products: TF32 or bfloat16 would stall them.
matmul = functools.partial(jnp.matmul, precision="highest")


class Problem(NamedTuple):
    """Standardised features in the axes of their covariance.

    There the covariance is diagonal and the penalty unchanged, which makes a diagonal
    matrix a good preconditioner of every label's Hessian.
    """

    features: jax.Array  # [N, D]
    axes: jax.Array  # [D, D]
    variances: jax.Array  # [D]


class Solution(NamedTuple):
    weights: jax.Array  # [D, Y]
    bias: jax.Array  # [Y]


@jax.jit
def rotate(features: jax.Array) -> Problem:
    """Standardised features [N, D] float32 in the axes of their covariance."""
    covariance = matmul(features.T, features) / len(features)
    variances, axes = jnp.linalg.eigh(covariance)
    return Problem(matmul(features, axes), axes, jnp.maximum(variances, 0))


def zero_solution(width: int, labels: int) -> Solution:
    return Solution(jnp.zeros((width, labels)), jnp.zeros(labels))


@jax.jit
def predict(features: jax.Array, solution: Solution) -> jax.Array:
    """Logits [N, Y] of (rotated) features [N, D]."""
    return matmul(features, solution.weights) + solution.bias


@functools.partial(jax.jit, static_argnames="max_iterations")
def solve(
    problem: Problem,
    labels: jax.Array,
    known: jax.Array,
    l2: jax.Array | float,
    start: Solution,
    *,
    tolerance: jax.Array | float,
    max_iterations: int,
) -> Solution:
    """Minimises mean cross-entropy + l2 / 2 |weights|^2 of each label from `start`.

    Args:
      labels: [N, Y] float32, 0 or 1.
      l2: of all labels, or [Y].
      known: [N, Y] bool; a label with no known positive or no known negative gets
        zero weights.
      tolerance: share of a label's loss that its gap must fall below: half of its
        Newton decrement, an estimate of how far the loss is above the minimum.
    """
    weight = known / jnp.maximum(known.sum(axis=0), 1)
    start, active = _feasible(labels, known, start)

    def objective(logits, weights):
        loss = jax.nn.softplus(logits) - labels * logits
        return jnp.sum(weight * loss, axis=0) + l2 / 2 * jnp.sum(weights**2, axis=0)

    def step(carry):
        solution, logits, loss, _, count = carry
        probability = jax.nn.sigmoid(logits)
        residual = weight * (probability - labels) * active
        gradient = Solution(
            matmul(problem.features.T, residual) + l2 * solution.weights,
            residual.sum(axis=0),
        )
        curvature = weight * probability * (1 - probability)
        direction, decrement = _newton_direction(problem, curvature, l2, gradient)
        change = predict(problem.features, direction)

        def loss_at(size):
            weights = solution.weights + size * direction.weights
            return objective(logits + size * change, weights)

        size = _backtrack(loss_at, loss, decrement)
        solution = jax.tree.map(lambda s, d: s + size * d, solution, direction)
        logits = predict(problem.features, solution)
        loss = objective(logits, solution.weights)
        return solution, logits, loss, decrement / 2, count + 1

    logits = predict(problem.features, start)
    loss = objective(logits, start.weights)
    solution, *_ = jax.lax.while_loop(
        lambda c: (c[3] > tolerance * c[2]).any() & (c[4] < max_iterations),
        step,
        (start, logits, loss, jnp.full_like(loss, jnp.inf), 0),
    )
    return solution


def _feasible(labels, known, start: Solution) -> tuple[Solution, jax.Array]:
    """A start with sensible biases, and which labels there is anything to learn of."""
    count = known.sum(axis=0)
    positives = jnp.sum(labels * known, axis=0)
    active = (positives > 0) & (positives < count)
    # Without records of one kind the best bias is infinite: smoothed counts.
    log_odds = jnp.log(positives + 0.5) - jnp.log(count - positives + 0.5)
    cold = (start.weights == 0).all(axis=0) | ~active
    weights = jnp.where(active, start.weights, 0)
    return Solution(weights, jnp.where(cold, log_odds, start.bias)), active


def _backtrack(loss_at, loss, decrement) -> jax.Array:
    """Step sizes [Y], halved from 1 until each label's loss decreases enough."""

    def halve(carry):
        size, _ = carry
        # The margin is the rounding of a mean in float32.
        enough = loss_at(size) <= loss - 1e-4 * size * decrement + 1e-6 * loss
        return jnp.where(enough, size, size / 2), enough

    size, enough = jax.lax.while_loop(
        lambda carry: ~carry[1].all() & (carry[0].min() > 1e-6),
        halve,
        (jnp.ones_like(loss), jnp.zeros(loss.shape, bool)),
    )
    return jnp.where(enough, size, 0)


def _newton_direction(
    problem: Problem, curvature, l2, gradient: Solution
) -> tuple[Solution, jax.Array]:
    """Every label's Newton direction d, and its decrement -gradient . d, [Y].

    Args:
      curvature: [N, Y], the second derivative of each record's share of the loss.
    """
    total = curvature.sum(axis=0)
    # Where probabilities saturate the curvature underflows; the floor keeps the bias,
    # which has no penalty, solvable.
    inverse = Solution(
        1 / (total * problem.variances[:, None] + l2), 1 / jnp.maximum(total, 1e-12)
    )

    def inner(a: Solution, b: Solution):
        return jnp.sum(a.weights * b.weights, axis=0) + a.bias * b.bias

    def hessian_times(v: Solution):
        inside = curvature * predict(problem.features, v)
        weights = matmul(problem.features.T, inside) + l2 * v.weights
        return Solution(weights, inside.sum(axis=0))

    def step(carry):
        x, r, p, size, count = carry
        product = hessian_times(p)
        bend = inner(p, product)
        live = (size > forcing * first_size) & (bend > 0)
        alpha = jnp.where(live, size / jnp.where(live, bend, 1), 0)
        x = jax.tree.map(lambda x, p: x + alpha * p, x, p)
        r = jax.tree.map(lambda r, q: r - alpha * q, r, product)
        z = jax.tree.map(jnp.multiply, inverse, r)
        new_size = jnp.where(live, inner(r, z), size)
        beta = jnp.where(live, new_size / jnp.where(live, size, 1), 0)
        p = jax.tree.map(lambda z, p: jnp.where(live, z + beta * p, p), z, p)
        return x, r, p, new_size, count + 1

    # Rough directions and more of them cost fewer products with the features.
    forcing, max_products = 1e-1, 50
    r = jax.tree.map(jnp.negative, gradient)
    z = jax.tree.map(jnp.multiply, inverse, r)
    first_size = inner(r, z)
    x, *_ = jax.lax.while_loop(
        lambda c: (c[3] > forcing * first_size).any() & (c[4] < max_products),
        step,
        (jax.tree.map(jnp.zeros_like, r), r, z, first_size, 0),
    )
    return x, -inner(gradient, x)
