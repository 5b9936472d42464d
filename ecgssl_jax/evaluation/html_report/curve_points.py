"""Curves of scores and labels: ROC, precision and recall, reliability."""

from typing import NamedTuple

import numpy as np
from sklearn import metrics


class Reliability(NamedTuple):
    """Of the probabilities of one label, in bins of equal width.

    Attributes:
      edges: [bins + 1], from 0 to 1.
      counts: [bins] int, records.
      predicted: [bins], their mean probability; NaN in empty bins.
      observed: [bins], the share of positives among them; NaN in empty bins.
      error: the expected calibration error: the mean distance of the two, over records.
    """

    edges: np.ndarray
    counts: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    error: float


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[m, 2]: false and true positive rates of all thresholds, from (0, 0) to (1, 1).

    Without most of the points in the middle of straight lines.

    Args:
      scores: [n] float.
      labels: [n] 0 or 1, some of each.
    """
    false, true, _ = metrics.roc_curve(labels, scores)
    return np.stack([false, true], axis=1)


def precision_recall_curve(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[m, 2]: recall and precision of all thresholds that find a positive.

    By ascending recall. Args as for `roc_curve`. Of thresholds with the same recall, as
    there are between two positives, the first and the last are kept.
    """
    precision, recall, _ = metrics.precision_recall_curve(
        labels, scores, drop_intermediate=True
    )
    return np.stack([recall, precision], axis=1)[recall > 0][::-1]


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 10
) -> Reliability:
    """How often a label holds where it is predicted with some probability.

    Args:
      probabilities: [n] between 0 and 1.
      labels: [n] 0 or 1.
      bins: of equal width; the last one holds 1.
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    shown = np.where(counts > 0, counts, np.nan)
    predicted = np.bincount(place, probabilities, bins) / shown
    observed = np.bincount(place, labels, bins) / shown
    distance = np.where(counts > 0, np.abs(predicted - observed), 0)
    error = float((counts * distance).sum() / max(counts.sum(), 1))
    return Reliability(edges, counts, predicted, observed, error)
