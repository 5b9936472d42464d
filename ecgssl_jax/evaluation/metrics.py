"""Ranking metrics of multi-label predictions, all labels at once.

Scores may be logits or probabilities: only their order within a label matters.
A label without a positive or without a negative record has no AUROC; it is named,
never averaged in as a number.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class MacroScore:
    """A mean over labels, with the labels that it is a mean of.

    Attributes:
      value: unweighted mean over `per_label`.
      per_label: label -> score, in the order of the columns, scored labels only.
      left_out: label -> why it could not be scored.
    """

    value: float
    per_label: Mapping[str, float]
    left_out: Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ranking:
    """Labels sorted by ascending score, column by column, and their runs of ties.

    Attributes:
      positive, negative: [N, Y] int64, 1 where the record of that rank is a known
        positive or negative.
      first, last: [N, Y] int64, ranks between which all scores equal this one's.
    """

    positive: np.ndarray
    negative: np.ndarray
    first: np.ndarray
    last: np.ndarray


def auroc(scores, labels, known=None) -> np.ndarray:
    """Area under the ROC curve of each label; ties count one half.

    The Mann-Whitney statistic: the share of (positive, negative) pairs that the
    scores put in the right order. Counts are integers, so the result is exact up
    to one division. Hanley & McNeil, Radiology 143, 1982.

    Args:
      scores: [N, Y] (or [N]), finite where known.
      labels: [N, Y] (or [N]), 0 or 1 where known.
      known: [N, Y] or [N, 1] bool; False where the label is unknown.

    Returns:
      [Y] float64, NaN for labels without positives or without negatives;
      `macro_auroc` names those instead.

    Raises:
      ValueError: shapes that differ, scores not finite, labels not 0 or 1.
    """
    ranking = _rank(*checked(scores, labels, known))
    below = np.cumsum(ranking.negative, axis=0)
    up_to_ties = np.take_along_axis(below, ranking.last, axis=0)
    before_ties = np.take_along_axis(below - ranking.negative, ranking.first, axis=0)
    twice_ordered = (ranking.positive * (before_ties + up_to_ties)).sum(axis=0)
    pairs = ranking.positive.sum(axis=0) * ranking.negative.sum(axis=0)
    return np.where(pairs > 0, twice_ordered / np.maximum(2 * pairs, 1), np.nan)


def average_precision(scores, labels, known=None) -> np.ndarray:
    """Average precision (AUPRC by steps) of each label, without interpolation.

    The mean over positives of the precision at their own score, ties included.

    Args and errors as for `auroc`. Returns [Y] float64, NaN for labels without
    positives or without negatives (where it would be 1 whatever the scores).
    """
    ranking = _rank(*checked(scores, labels, known))
    positives = ranking.positive.sum(axis=0)
    count = positives + ranking.negative.sum(axis=0)
    # Counts of records that score at least as high as this one.
    positive_before = np.cumsum(ranking.positive, axis=0) - ranking.positive
    count_before = np.cumsum(ranking.positive + ranking.negative, axis=0)
    count_before -= ranking.positive + ranking.negative
    hits = positives - np.take_along_axis(positive_before, ranking.first, axis=0)
    retrieved = count - np.take_along_axis(count_before, ranking.first, axis=0)
    precision = hits / np.maximum(retrieved, 1)
    total = (ranking.positive * precision).sum(axis=0)
    scorable = (positives > 0) & (positives < count)
    return np.where(scorable, total / np.maximum(positives, 1), np.nan)


def f1_max(scores, labels, known=None) -> np.ndarray:
    """The largest F1 of each label over all thresholds.

    Each label's threshold is chosen on the records that are scored: what a user's
    threshold, chosen on other records, reaches is somewhat less.

    Args and errors as for `auroc`. Returns [Y] float64, NaN for labels without
    positives or without negatives.
    """
    ranking = _rank(*checked(scores, labels, known))
    positives = ranking.positive.sum(axis=0)
    known_at = ranking.positive + ranking.negative
    # Predicted positive: all that score at least as high as this record.
    before = np.cumsum(ranking.positive, axis=0) - ranking.positive
    hits = positives - np.take_along_axis(before, ranking.first, axis=0)
    before = np.cumsum(known_at, axis=0) - known_at
    predicted = known_at.sum(axis=0) - np.take_along_axis(before, ranking.first, axis=0)
    f1 = 2 * hits / np.maximum(predicted + positives, 1)
    best = f1.max(axis=0, initial=0, where=known_at > 0)
    scorable = (positives > 0) & (positives < known_at.sum(axis=0))
    return np.where(scorable, best, np.nan)


def placements(scores, labels, known=None) -> np.ndarray:
    """Of each record, the share of the other kind that it is ranked right against.

    For a positive record the share of the negatives below it, for a negative one that
    of the positives above it; ties count one half. Their mean over the positives, and
    that over the negatives, is the AUROC. DeLong et al., Biometrics 44, 1988.

    Args and errors as for `auroc`. Returns [N, Y] float64; 0 where the label is not
    known or has no AUROC.
    """
    scores, labels, known = checked(scores, labels, known)
    ranking = _rank(scores, labels, known)
    order = np.argsort(scores, axis=0, kind="stable")
    found = np.zeros(scores.shape)
    kinds = (
        (ranking.positive, ranking.negative, False),
        (ranking.negative, ranking.positive, True),
    )
    for own, other, above in kinds:
        total = other.sum(axis=0)
        up_to = np.cumsum(other, axis=0)
        below = np.take_along_axis(up_to - other, ranking.first, axis=0)
        with_ties = np.take_along_axis(up_to, ranking.last, axis=0)
        twice = below + with_ties
        if above:
            twice = 2 * total - twice
        share = own * twice / np.maximum(2 * total, 1)
        found += _unsorted(share, order)
    return found


def _unsorted(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    placed = np.empty_like(values)
    np.put_along_axis(placed, order, values, axis=0)
    return placed


def macro_auroc(scores, labels, known=None, *, names=None) -> MacroScore:
    """Mean AUROC over the labels that can be scored; says which cannot.

    Args:
      scores, labels, known: as for `auroc`.
      names: the Y labels' names, "0", "1", ... by default.

    Raises:
      ValueError: as `auroc`; also if no label at all can be scored.
    """
    return _macro(auroc, scores, labels, known, names)


def macro_average_precision(scores, labels, known=None, *, names=None) -> MacroScore:
    """Mean average precision over the labels that can be scored; see `macro_auroc`."""
    return _macro(average_precision, scores, labels, known, names)


def macro_f1_max(scores, labels, known=None, *, names=None) -> MacroScore:
    """Mean largest F1 over the labels that can be scored; see `macro_auroc`."""
    return _macro(f1_max, scores, labels, known, names)


def _macro(
    metric: Callable[..., np.ndarray],
    scores,
    labels,
    known,
    names: Sequence[str] | None,
) -> MacroScore:
    scores, labels, known = checked(scores, labels, known)
    width = labels.shape[1]
    names = tuple(names) if names is not None else tuple(map(str, range(width)))
    if len(names) != width:
        raise ValueError(
            f"{len(names)} label names for labels of shape {labels.shape}; "
            "give one name per column"
        )
    if len(set(names)) != width:
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"label names are repeated: {', '.join(repeated)}")
    per_label, left_out = {}, {}
    for name, value, positives, count in zip(
        names,
        metric(scores, labels, known),
        (labels & known).sum(axis=0),
        known.sum(axis=0),
        strict=True,
    ):
        if count == 0:
            left_out[name] = "no known record"
        elif positives == 0:
            left_out[name] = f"no positive among {count} records"
        elif positives == count:
            left_out[name] = f"no negative among {count} records"
        else:
            per_label[name] = float(value)
    if not per_label:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(
            f"none of {width} labels can be scored ({reasons}); check that the rows "
            "and the labels belong to the same set"
        )
    value = float(np.mean(list(per_label.values())))
    return MacroScore(value=value, per_label=per_label, left_out=left_out)


def checked(scores, labels, known) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [N, Y] float, labels and which are known [N, Y] bool."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim == 1 and labels.ndim == 1:
        scores, labels = scores[:, None], labels[:, None]
        known = None if known is None else np.reshape(known, (-1, 1))
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} must both be [N, Y]"
        )
    known = np.asarray(True if known is None else known).astype(bool)
    if known.ndim and known.shape not in (labels.shape, (len(labels), 1)):
        raise ValueError(
            f"known is {known.shape} for labels {labels.shape}; give [N, Y] or [N, 1]"
        )
    known = np.broadcast_to(known, labels.shape)
    wrong = known & ~np.isfinite(scores)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{wrong.sum()} scores are not finite, the first at row {row}, "
            f"label {column}: {scores[row, column]}"
        )
    wrong = known & (labels != 0) & (labels != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{wrong.sum()} labels are neither 0 nor 1, the first at row {row}, "
            f"label {column}: {labels[row, column]}; mask unknown ones with `known`"
        )
    return np.where(known, scores, 0), labels == 1, known


def _rank(scores: np.ndarray, labels: np.ndarray, known: np.ndarray) -> _Ranking:
    order = np.argsort(scores, axis=0, kind="stable")
    scores = np.take_along_axis(scores, order, axis=0)
    positive = np.take_along_axis(labels & known, order, axis=0)
    negative = np.take_along_axis(~labels & known, order, axis=0)
    rank = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)
    changes = scores[1:] != scores[:-1]
    edge = np.ones((1, scores.shape[1]), bool)[: len(scores)]
    starts, ends = np.concatenate([edge, changes]), np.concatenate([changes, edge])
    first = np.maximum.accumulate(np.where(starts, rank, 0), axis=0)
    last = np.where(ends, rank, len(scores))[::-1]
    last = np.minimum.accumulate(last, axis=0)[::-1]
    return _Ranking(
        positive=positive.astype(np.int64),
        negative=negative.astype(np.int64),
        first=first,
        last=last,
    )
