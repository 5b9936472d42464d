"""Answers of several seeds and encoders as figures with their intervals."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ecgssl_jax.evaluation import intervals
from ecgssl_jax.evaluation.intervals import Interval, LabelInterval
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.scoring import Answer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """Everything that one contender answered.

    Attributes:
      encoder: its name.
      answers: each with the seed of its encoder; None where it has but one.
      pooled: [N, D] float32, features of all records that were asked about; kept of the
        trained encoder alone.
    """

    encoder: str
    answers: Sequence[tuple[int | None, Answer]]
    pooled: np.ndarray | None = None


class Key(NamedTuple):
    """A cell of the tables."""

    encoder: str
    protocol: str
    budget: str
    task: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """Figures of one encoder by one protocol, budget and task.

    Attributes:
      seeds: of the encoder and of the answer; None where nothing was drawn.
      answers: one for each of them.
      macro: AUROC of each.
      interval: of their mean.
      labels: label -> interval of its mean AUROC over the seeds.
      against: baseline -> interval of this mean minus the baseline's.
    """

    seeds: Sequence[tuple[int | None, int | None]]
    answers: Sequence[Answer]
    interval: Interval
    labels: Mapping[str, LabelInterval]
    against: Mapping[str, Interval]

    @property
    def macro(self) -> list[float]:
        return [each.scores["auroc"].value for each in self.answers]

    def mean(self, metric: str = "auroc") -> float:
        """The macro metric, over the seeds."""
        return statistics.fmean(each.scores[metric].value for each in self.answers)

    def per_label(self, metric: str = "auroc") -> dict[str, float]:
        """Label -> the metric, over the seeds."""
        scores = [each.scores[metric].per_label for each in self.answers]
        return {name: statistics.fmean(s[name] for s in scores) for name in scores[0]}


def summarise(
    rows: Sequence[Row],
    questions: Sequence[Question],
    *,
    pairs: Sequence[tuple[str, str]],
    draws: int,
    level: float,
) -> dict[Key, Cell]:
    """Cells in the order of the rows' answers.

    All intervals of a task have the same draws of patients.

    Args:
      questions: of the reported records alone, in the order of the answers' logits.
      pairs: (encoder, other): the differences of the former from the latter.
      draws, level: of the intervals.
    """
    asked = {each.name: each for each in questions}
    grouped: dict[Key, list[tuple[int | None, Answer]]] = {}
    for row in rows:
        for seed, answer in row.answers:
            key = Key(row.encoder, answer.protocol, answer.budget, answer.task)
            grouped.setdefault(key, []).append((seed, answer))
    resampled = {
        key: _resampled(asked[key.task], [answer for _, answer in found], draws)
        for key, found in grouped.items()
    }
    cells = {}
    for key, found in grouped.items():
        others = [key._replace(encoder=other) for own, other in pairs if own == key[0]]
        cells[key] = Cell(
            seeds=[(seed, answer.seed) for seed, answer in found],
            answers=[answer for _, answer in found],
            interval=resampled[key].macro(level),
            labels=resampled[key].labels(asked[key.task].classes, level),
            against={
                other.encoder: resampled[key].minus(resampled[other], level)
                for other in others
                if other in resampled
            },
        )
    return cells


def _resampled(
    asked: Question, found: Sequence[Answer], draws: int
) -> intervals.Resampled:
    return intervals.resample(
        np.stack([answer.logits for answer in found]),
        asked.labels,
        asked.patient,
        asked.known,
        draws=draws,
    )
