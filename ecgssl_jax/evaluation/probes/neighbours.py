"""A probe without training: the labels of the nearest training records.

Caron et al., "Emerging properties in self-supervised vision transformers", arXiv
2104.14294, appendix F.1, after Wu et al., arXiv 1805.01978, equation 2; for many labels,
each of which has a vote of its own.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ecgssl_jax.evaluation import metrics
from ecgssl_jax.evaluation.probes import inputs
from ecgssl_jax.evaluation.probes.group import Fit, Group, check_held_out, checked

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
_TEMPERATURE = 0.07  # of both papers
_QUERIES = 512  # at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeighbourProbe:
    """Votes of the nearest records, by the cosine of standardised features.

    Attributes:
      features: [N, D] float32, of unit length.
      labels, known: [N, Y].
      mean, scale: [D] float32, of the training features.
      neighbours: how many vote.
      selection: neighbours -> macro AUROC on the held-out rows.
    """

    features: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    neighbours: int
    selection: Mapping[float, float]

    def logits(self, features) -> np.ndarray:
        """Scores of other records: [n, D] -> [n, Y], shares between 0 and 1."""
        features = np.asarray(features)
        inputs.check_width(features, len(self.mean))
        queries = _unit(features, self.mean, self.scale)
        votes = _votes(self, queries, [self.neighbours])
        return votes[self.neighbours]


def neighbour_probe(
    features,
    labels,
    *,
    known=None,
    held_out=None,
    neighbours: Sequence[int] = NEIGHBOURS,
) -> NeighbourProbe:
    """Weighs each of the k nearest records by exp(cosine / 0.07).

    The k with the best macro AUROC on `held_out` is chosen; those rows then vote too.

    Args and errors as for `linear_probe`; rows without any known label do not vote.
    """
    group = Group(labels=labels, known=known, held_out=held_out)
    (probe,) = neighbour_probes(features, [group], neighbours=neighbours)
    return probe


def neighbour_probes(
    features, groups: Sequence[Group], *, neighbours: Sequence[int] = NEIGHBOURS
) -> list[NeighbourProbe]:
    """As `neighbour_probe`, for several groups of labels of the same features."""
    candidates = sorted({int(k) for k in neighbours})
    if not candidates or candidates[0] < 1:
        raise ValueError(f"neighbours must be positive numbers, found {neighbours}")
    inputs.check_features(features, rank=2)
    check_held_out(groups, len(candidates), "numbers of neighbours")
    fits = [checked(group, len(features)) for group in groups]
    mean, scale = inputs.standardisation(features)
    units = _unit(np.asarray(features), mean, scale)

    def voting(fit: Fit, known: np.ndarray) -> NeighbourProbe:
        rows = known.any(axis=1)
        return NeighbourProbe(
            features=units[rows],
            labels=fit.labels[rows],
            known=known[rows],
            mean=mean,
            scale=scale,
            neighbours=int(fit.chosen),
            selection=fit.selection,
        )

    for fit in fits:
        fit.chosen = candidates[0]
        if len(candidates) > 1:
            kept = fit.kept & fit.known.any(axis=1)
            votes = _votes(voting(fit, fit.fitted), units[kept], candidates)
            for k in candidates:
                score = metrics.macro_auroc(votes[k], fit.labels[kept], fit.known[kept])
                fit.selection[k] = score.value
            fit.chosen = max(fit.selection, key=fit.selection.__getitem__)
    return [voting(fit, fit.fitted_last) for fit in fits]


def _unit(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[n, D] float32: standardised, then of unit length."""
    found = (features.astype(np.float32) - mean) * scale
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.maximum(length, np.finfo(np.float32).tiny)


def _votes(
    probe: NeighbourProbe, queries: np.ndarray, neighbours: Sequence[int]
) -> dict[int, np.ndarray]:
    """k -> [n, Y] float32: the weighted share of the k nearest that have the label."""
    most = min(max(neighbours), len(probe.features))
    labels, known = (x.astype(np.float32) for x in (probe.labels, probe.known))
    found: dict[int, list[np.ndarray]] = {k: [] for k in neighbours}
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        similarity = part @ probe.features.T
        nearest = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        near = np.take_along_axis(similarity, nearest, axis=1)
        order = np.argsort(-near, axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        near = np.take_along_axis(near, order, axis=1)
        weight = np.exp((near - near[:, :1]) / _TEMPERATURE)
        for k in neighbours:
            rows, share = nearest[:, :k], weight[:, :k, None]
            total = (share * known[rows]).sum(axis=1)
            votes = (share * labels[rows] * known[rows]).sum(axis=1)
            # Where none of them is known, nobody votes: no reason for a positive.
            found[k].append(votes / np.where(total > 0, total, 1))
    return {k: np.concatenate(parts) for k, parts in found.items()}
