"""Confidence intervals of AUROCs: of a label, of the mean over labels, of differences.

Patients are what was sampled, so they are what is resampled: all records of a patient
come together, with all their labels. Two things make the usual bootstrap too narrow
where labels are rare, as most are: a draw that has lost a label's few positives says
nothing of it, and the few that are there vary less among themselves than in truth. So
the variance of a rare label leans on a model's (Hanley & McNeil), which is calibrated
on the frequent labels of the same scores. The model of a difference knows how alike two
encoders rank the records. A few patients with most of the records count as few. An AUROC stays what it is if labels and scores are
turned round: a label that nearly all have is as rare as one that nearly none have.
`benchmarks/interval_coverage.py` shows the coverage.
"""

import dataclasses
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy.stats import rankdata

from ecgssl_jax.evaluation import metrics, resampling

# In what follows, a label's cases are the patients of its rarer kind: with a positive record,
# or with a negative one; fewer, where some patients have many more records than others.
# Cases that a label needs to calibrate the model.
_CALIBRATING = 20
# The model counts as much as so many cases.
_MODEL_WEIGHT = 30
# The mean over labels counts as much as so many, where the model needs an AUROC: a few
# cases that all happen to be ranked right are no certainty.
_MEAN_WEIGHT = 2
# Of differences, more than the model's variance: those of rare labels hang on one or two
# cases, and are larger now and then than any normal distribution has it.
_MORE_OF_DIFFERENCES = 1.25
# As if so much of a case were ranked wrong at least, for labels without any error.
_LEAST_ERROR = 0.1
# Below so many, a label's interval is marked: it is mostly the model's.
TRUSTED_PATIENTS = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval.

    Attributes:
      low, high: its bounds.
      level: its nominal coverage, such as 0.95.
    """

    low: float
    high: float
    level: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelInterval(Interval):
    """Of one label's AUROC.

    Attributes:
      patients: of its rarer kind.
      trusted: whether its cases are enough for the interval to be the data's own.
    """

    patients: int
    trusted: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sample:
    """What a sample says of the AUROCs of its K labels that can be scored.

    Attributes:
      columns: [K], of the labels.
      auroc: [K].
      influence: [G, K], of each of G patients: what the AUROC owes to it.
      ranks: [N, K], of the records of the kind that is not rarer, among themselves: with
        the mean 0 and the length 1; 0 of the others.
      patients: [K], with a record of the rarer kind.
      cases, others: [K], as many of this kind, and of the other, as they count for.
    """

    columns: np.ndarray
    auroc: np.ndarray
    influence: np.ndarray
    ranks: np.ndarray
    patients: np.ndarray
    cases: np.ndarray
    others: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """[K]: DeLong's, of patients."""
        return (self.influence**2).sum(axis=0)

    def model_variance(self) -> np.ndarray:
        """[K]: Hanley & McNeil's, of the AUROC drawn a little towards the mean."""
        weight = self.cases + _MEAN_WEIGHT
        drawn = self.auroc * self.cases + self.auroc.mean() * _MEAN_WEIGHT
        least = _LEAST_ERROR / self.cases
        value = np.clip(drawn / weight, least, 1 - least)
        return hanley_mcneil(value, self.cases, self.others)


def check_settings(draws: int, level: float) -> None:
    """Raises ValueError for too few draws, or a level that is none."""
    if draws < 100 or not 0.5 <= level < 1:
        raise ValueError(
            f"draws={draws} and level={level:g}: expected 100 draws at least, and a "
            "level of 0.5 or more, below 1"
        )


def hanley_mcneil(auroc, positives, negatives) -> np.ndarray:
    """Variance of an AUROC by its value and counts alone, for exponential scores.

    Hanley & McNeil, Radiology 143, 1982, equations 1 and 2.
    """
    square = auroc**2
    two_positives = auroc / (2 - auroc) - square
    two_negatives = 2 * square / (1 + auroc) - square
    spread = auroc * (1 - auroc)
    spread = spread + (positives - 1) * two_positives + (negatives - 1) * two_negatives
    return spread / (positives * negatives)


def label_intervals(
    scores,
    labels,
    patients,
    known=None,
    *,
    names: Sequence[str],
    level: float = 0.95,
) -> dict[str, LabelInterval]:
    """An interval of the AUROC of each label that can be scored.

    All values that the estimate does not contradict: those at most z standard errors
    away from it, where the standard error is what it would be at that value. So a
    label that is ranked perfectly has an interval too. Newcombe, Statistics in Medicine
    25, 2006, with the variance of these records and patients in place of the model's.

    Args:
      scores: [N, Y], or [K, N, Y] of K seeds: then of the mean of their AUROCs.
      labels, known: [N, Y], as for `metrics.auroc`.
      patients: [N], equal for the records of a patient.
      names: of the Y labels.

    Raises:
      ValueError: as `metrics.auroc`; patients or names that are not as many.
    """
    if len(names) != np.shape(labels)[1]:
        raise ValueError(f"{len(names)} names for labels {np.shape(labels)}")
    return _of_labels(_sample(scores, labels, patients, known), names, level)


def _of_labels(
    sample: _Sample, names: Sequence[str], level: float
) -> dict[str, LabelInterval]:
    if not len(sample.columns):
        return {}
    model = sample.model_variance()
    scale = _calibrated(sample.variance, model, sample.cases) / model
    z = NormalDist().inv_cdf((1 + level) / 2)

    def contradicted(value):
        variance = scale * hanley_mcneil(value, sample.cases, sample.others)
        return np.abs(sample.auroc - value) > z * np.sqrt(variance)

    low = _boundary(np.zeros_like(sample.auroc), sample.auroc, contradicted)
    high = _boundary(np.ones_like(sample.auroc), sample.auroc, contradicted)
    return {
        names[int(column)]: LabelInterval(
            low=float(low[k]),
            high=float(high[k]),
            level=level,
            patients=int(sample.patients[k]),
            trusted=bool(sample.cases[k] >= TRUSTED_PATIENTS),
        )
        for k, column in enumerate(sample.columns)
    }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Resampled:
    """AUROCs of one set of scores, on all records and on draws of their patients.

    Attributes:
      sample: what the records say.
      drawn: [D, K] AUROCs of D draws; of all records where a draw has lost a label.
      seed: of the draws.
    """

    sample: _Sample
    drawn: np.ndarray
    seed: int

    def macro(self, level: float = 0.95) -> Interval:
        """Of the mean over the labels that can be scored, and over seeds.

        Percentiles of the means of the draws. Noise is added to each mean where the
        labels, taken together, vary less over the draws than they are calibrated to.
        """
        model = self.sample.model_variance()
        wanted = _calibrated(self.sample.variance, model, self.sample.cases)
        found = _percentiles(self.drawn, wanted, seed=self.seed, level=level)
        return _within(found, 0.0, 1.0)

    def labels(
        self, names: Sequence[str], level: float = 0.95
    ) -> dict[str, LabelInterval]:
        """As `label_intervals`, of these scores."""
        return _of_labels(self.sample, names, level)

    def minus(self, other: "Resampled", level: float = 0.95) -> Interval:
        """Of this mean minus that of other scores of the same records and draws.

        What makes a draw hard for one does so for the other, so that the difference
        varies less than either.
        """
        one, two = self.sample, other.sample
        if self.drawn.shape != other.drawn.shape or self.seed != other.seed:
            raise ValueError("paired intervals need the same labels, records and draws")
        variance = ((one.influence - two.influence) ** 2).sum(axis=0)
        models = one.model_variance(), two.model_variance()
        # What they have in common: Hanley & McNeil, Radiology 148, 1983.
        shared = _correlation(one, two) * np.sqrt(models[0] * models[1])
        model = np.maximum(models[0] + models[1] - 2 * shared, 0)
        wanted = _calibrated(variance, model, one.cases, more=_MORE_OF_DIFFERENCES)
        difference = self.drawn - other.drawn
        found = _percentiles(difference, wanted, seed=self.seed, level=level)
        return _within(found, -1.0, 1.0)


def resample(
    scores, labels, patients, known=None, *, draws: int = 1000, seed: int = 0
) -> Resampled:
    """Draws patients, `draws` times, and scores each draw.

    Args:
      scores, labels, patients, known: as for `label_intervals`.

    Raises:
      ValueError: as `label_intervals`; also if no label can be scored.
    """
    sample = _sample(scores, labels, patients, known)
    if not len(sample.columns):
        raise ValueError("no label has both positive and negative records")
    weights = resampling.patient_draws(patients, draws, seed)
    found = [
        resampling.resampled(resampling.auroc, each, labels, known, weights=weights)
        for each in _seeds(scores)
    ]
    mean = np.mean(found, axis=0)[:, sample.columns]
    drawn = np.where(np.isnan(mean), sample.auroc, mean)
    return Resampled(sample=sample, drawn=drawn, seed=seed)


def _sample(scores, labels, patients, known) -> _Sample:
    """The mean of the seeds' samples."""
    samples = [_sample_of_one(each, labels, patients, known) for each in _seeds(scores)]
    return dataclasses.replace(
        samples[0],
        auroc=np.mean([each.auroc for each in samples], axis=0),
        influence=np.mean([each.influence for each in samples], axis=0),
        ranks=_unit(np.mean([each.ranks for each in samples], axis=0)),
    )


def _sample_of_one(scores, labels, patients, known) -> _Sample:
    scores, labels, known = metrics.checked(scores, labels, known)
    patients = np.asarray(patients)
    if patients.shape != (len(labels),):
        raise ValueError(f"patients {patients.shape} of {len(labels)} records")
    kinds = known & labels, known & ~labels
    columns = np.flatnonzero(kinds[0].any(axis=0) & kinds[1].any(axis=0))
    scores, labels, known = scores[:, columns], labels[:, columns], known[:, columns]
    placed = metrics.placements(scores, labels, known)
    auroc = metrics.auroc(scores, labels, known)
    _, group = np.unique(patients, return_inverse=True)
    # As many patients, as a share, would tell as much if all had equally many records.
    # Kish, Survey Sampling, 1965, section 8.2.
    records = np.bincount(group)
    evenness = records.sum() ** 2 / (len(records) * (records**2).sum())
    influence = np.zeros(labels.shape)
    patients_of, counts = [], []
    for kind in kinds:
        kind = kind[:, columns]
        patients_of.append((_by_patient(kind, group) > 0).sum(axis=0))
        count = np.maximum(evenness * patients_of[-1], 1)
        # One degree of freedom for the mean of each kind. Obuchowski, Biometrics 53,
        # 1997.
        share = np.sqrt(count / np.maximum(count - 1, 1)) / kind.sum(axis=0)
        influence = influence + share * kind * (placed - auroc)
        counts.append(count)
    positives_are_cases = counts[0] <= counts[1]
    frequent = np.where(positives_are_cases, known & ~labels, known & labels)
    return _Sample(
        columns=columns,
        auroc=auroc,
        influence=_by_patient(influence, group),
        ranks=_ranks(scores, frequent),
        patients=np.where(positives_are_cases, *patients_of),
        cases=np.minimum(*counts),
        others=np.maximum(*counts),
    )


def _seeds(scores) -> np.ndarray:
    """[K, N, Y] of [N, Y] or [K, N, Y]."""
    scores = np.asarray(scores)
    return scores if scores.ndim == 3 else scores[None]


def _by_patient(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums [G, K] of values [N, K] over the records of each patient."""
    sums = np.zeros((int(group.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return sums


def _ranks(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[N, K] of scores [N, K]: of the chosen records of a column, as `_Sample` has it."""
    found = np.zeros(scores.shape)
    for k, rows in enumerate(chosen.T):
        ranks = rankdata(scores[rows, k])
        found[rows, k] = ranks - ranks.mean()
    return _unit(found)


def _unit(columns: np.ndarray) -> np.ndarray:
    length = np.sqrt((columns**2).sum(axis=0))
    return columns / np.where(length > 0, length, 1)


def _correlation(one: _Sample, two: _Sample) -> np.ndarray:
    """[K]: of the ranks that two encoders give the same records (Spearman's)."""
    return (one.ranks * two.ranks).sum(axis=0)


def _within(interval: Interval, least: float, most: float) -> Interval:
    """Its bounds, which noise may have driven beyond what is possible."""
    low, high = (min(max(end, least), most) for end in (interval.low, interval.high))
    return dataclasses.replace(interval, low=low, high=high)


def _calibrated(variance, model, cases, more: float = 1.0) -> np.ndarray:
    """[K]: the sample's own variances, the rarer the nearer to the model's.

    The model's are first scaled to the sample's by the labels with enough cases, and then
    to `more`.
    """
    weight = (cases >= _CALIBRATING).astype(float)
    scale = 1.0
    if (weight * model).any():
        scale = (weight * variance).sum() / (weight * model).sum()
        # Without any error there is one all the same.
        scale = scale or 1.0
        # Few labels say little of it; too small, it does more harm than too large.
        scale *= 1 + 2 / (weight.sum() + 2)
    own = cases - 1
    model = more * scale * model
    return (variance * own + model * _MODEL_WEIGHT) / (own + _MODEL_WEIGHT)


def _boundary(outside, inside, contradicted) -> np.ndarray:
    """[K]: where values from `outside` to `inside` are contradicted no longer."""
    for _ in range(50):
        middle = (outside + inside) / 2
        out = contradicted(middle)
        outside, inside = np.where(out, middle, outside), np.where(out, inside, middle)
    return inside


def _percentiles(drawn, wanted, *, seed: int, level: float) -> Interval:
    """Of the means of `drawn` [D, K], whose variances should be `wanted` [K]."""
    # In sum: some vary more by chance, and the mean knows no labels.
    missing = max((wanted - drawn.var(axis=0)).sum(), 0) / drawn.shape[1] ** 2
    noise = np.random.default_rng([seed, 1]).normal(size=len(drawn))
    means = drawn.mean(axis=1) + np.sqrt(missing) * noise
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high), level=level)
