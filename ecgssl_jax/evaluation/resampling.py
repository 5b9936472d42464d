"""Metrics of many resampled sets of patients at once: the bootstrap's inner loop.

A resampled set is the same records with other weights, so that nothing is sorted again:
the weights of the negatives between two neighbouring positives are added up, and all
draws are columns of the same product.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse

from ecgssl_jax.evaluation import metrics

_DRAWS_AT_A_TIME = 256


class Ranks(NamedTuple):
    """One label's weights by rank, in each of D draws.

    K are the distinct scores of its positives, from high to low.
    """

    positive: np.ndarray  # [K, D], weight of the positives of this score
    negative: np.ndarray  # [K, D], of the negatives of this score
    above: np.ndarray  # [K, D], of the negatives above it and below the one before
    total: np.ndarray  # [D], of all negatives


def auroc(ranks: Ranks) -> np.ndarray:
    """[D]; `evaluation.metrics.auroc` of weighted records."""
    above = np.cumsum(ranks.above, axis=0) + np.cumsum(ranks.negative, axis=0)
    below = ranks.total - above + ranks.negative / 2
    pairs = ranks.positive.sum(axis=0) * ranks.total
    return _share((ranks.positive * below).sum(axis=0), pairs)


def average_precision(ranks: Ranks) -> np.ndarray:
    """[D]; `evaluation.metrics.average_precision` of weighted records."""
    hits, predicted = _retrieved(ranks)
    precision = _share(hits, predicted, otherwise=0)
    total = (ranks.positive * precision).sum(axis=0)
    found = _share(total, ranks.positive.sum(axis=0))
    return np.where(ranks.total > 0, found, np.nan)


def f1_max(ranks: Ranks) -> np.ndarray:
    """[D]; `evaluation.metrics.f1_max` of weighted records."""
    hits, predicted = _retrieved(ranks)
    positives = ranks.positive.sum(axis=0)
    best = _share(2 * hits, predicted + positives, otherwise=0).max(axis=0)
    return np.where((ranks.total > 0) & (positives > 0), best, np.nan)


def _retrieved(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """[K, D] each: positives, and records, that score at least as high."""
    hits = np.cumsum(ranks.positive, axis=0)
    negatives = np.cumsum(ranks.above + ranks.negative, axis=0)
    return hits, hits + negatives


def _share(part: np.ndarray, whole: np.ndarray, otherwise: float = np.nan):
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)


def patient_draws(patients, draws: int, seed: int) -> np.ndarray:
    """How often each record is in each draw: patients drawn with replacement.

    All records of a patient come together, with all their labels.

    Args:
      patients: [N], equal for the records of a patient.

    Returns:
      [N, draws] float32, whole numbers.
    """
    _, place = np.unique(patients, return_inverse=True)
    count = int(place.max()) + 1
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn.T.astype(np.float32)[place]


def resampled(
    metric: Callable[[Ranks], np.ndarray],
    scores,
    labels,
    known=None,
    *,
    weights: np.ndarray,
) -> np.ndarray:
    """A metric of every label in every draw.

    Args:
      metric: `auroc`, `average_precision` or `f1_max` of this module.
      scores, labels, known: [N, Y], as for `evaluation.metrics.auroc`.
      weights: [N, D], as `patient_draws` gives them.

    Returns:
      [D, Y] float64; NaN where a draw has no positive or no negative of a label.
    """
    scores, labels, known = metrics.checked(scores, labels, known)
    found = np.full((weights.shape[1], labels.shape[1]), np.nan)
    for label in range(labels.shape[1]):
        rows = np.flatnonzero(known[:, label])
        positive = labels[rows, label]
        if not 0 < positive.sum() < len(rows):
            continue
        collect = _collector(scores[rows, label], positive, rows, len(scores))
        for start in range(0, weights.shape[1], _DRAWS_AT_A_TIME):
            part = slice(start, start + _DRAWS_AT_A_TIME)
            found[part, label] = metric(collect(weights[:, part]))
    return found


def _collector(
    scores: np.ndarray, positive: np.ndarray, rows: np.ndarray, records: int
) -> Callable[[np.ndarray], Ranks]:
    """Weights [N, D] -> one label's weights by rank.

    Args:
      scores, positive: [n], of the records where the label is known.
      rows: [n], which of the N records these are.
    """
    steps, place = np.unique(-scores[positive], return_inverse=True)
    place_of_positives = sparse.csr_matrix(
        (np.ones(len(place), np.float32), (place, rows[positive])),
        shape=(len(steps), records),
    )
    others = -scores[~positive]
    place = np.searchsorted(steps, others)
    tied = place < len(steps)
    tied[tied] = steps[place[tied]] == others[tied]
    # Each score of a positive: those above it, then those that are tied with it; last,
    # those below all.
    place_of_negatives = sparse.csr_matrix(
        (np.ones(len(place), np.float32), (2 * place + tied, rows[~positive])),
        shape=(2 * len(steps) + 1, records),
    )

    def collect(weights: np.ndarray) -> Ranks:
        # Whole numbers below 2^24 are exact in float32; products of them are not.
        negatives = (place_of_negatives @ weights).astype(np.float64)
        return Ranks(
            positive=(place_of_positives @ weights).astype(np.float64),
            negative=negatives[1:-1:2],
            above=negatives[:-1:2],
            total=negatives.sum(axis=0),
        )

    return collect
