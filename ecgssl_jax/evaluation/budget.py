"""Label budgets: how many of the training records have labels to learn from.

Drawn by patient, so that a budget buys new hearts and not more of the same, and the
same for every encoder and task. A larger share holds the smaller ones of its seed.
"""

import dataclasses
import re

import numpy as np

from ecgssl_jax.settings import ConfigError

_SHARE = re.compile(r"^(\d*\.?\d+) ?%$")
_PER_CLASS = re.compile(r"^(\d+) per class$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """One of `share` and `per_class` is set.

    Attributes:
      share: of the patients, above 0 and at most 1.
      per_class: positive records of each class, at least.
    """

    share: float | None = None
    per_class: int | None = None

    def __str__(self) -> str:
        if self.share is not None:
            return f"{100 * self.share:g} %"
        return f"{self.per_class} per class"

    @property
    def is_all(self) -> bool:
        """Whether nothing is drawn."""
        return self.share == 1


def parse_budget(text: str) -> Budget:
    """'1 %' or '10 per class' -> the budget; raises ConfigError for anything else."""
    if match := _SHARE.match(text):
        share = float(match[1]) / 100
        if 0 < share <= 1:
            return Budget(share=share)
    elif (match := _PER_CLASS.match(text)) and int(match[1]) > 0:
        return Budget(per_class=int(match[1]))
    raise ConfigError(
        f"unknown budget {text!r}: expected a share of the patients such as '1 %' (of "
        "100 % at most) or a number of positive records such as '10 per class'"
    )


def draw(
    budget: Budget,
    patients: np.ndarray,
    labels: np.ndarray,
    known: np.ndarray,
    *,
    population: int,
    seed: int,
) -> np.ndarray:
    """The records whose labels may be used.

    Args:
      patients: [N] int, the number of each record's patient.
      labels, known: [N, Y] of a task. Only 'per class' looks at them: classes from rare
        to frequent, patients in the order of the draw that have the class, until there
        are enough of its positive records; all there are of a rarer one.
      population: above all patients' numbers. All records of a set drawn from the same
        population have the same order, of which a task's are a part.

    Returns:
      [N] bool.
    """
    # The patients' order is all that is random.
    order = np.random.default_rng(seed).permutation(population)
    distinct, rank = np.unique(order[patients], return_inverse=True)
    if budget.share is not None:
        # Products such as 0.07 * 100 are a little more than they should be.
        return rank < np.ceil(budget.share * len(distinct) - 1e-9)
    positive = known & (labels == 1)
    chosen = np.zeros(len(patients), bool)
    for label in np.argsort(positive.sum(axis=0), kind="stable"):
        own = positive[:, label]
        for patient in np.unique(rank[own & ~chosen]):
            if (own & chosen).sum() >= budget.per_class:
                break
            chosen |= rank == patient
    return chosen
