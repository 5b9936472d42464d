"""How often 95 % intervals of AUROCs hold the true value, by simulation.

  python -m benchmarks.interval_coverage --samples=400

Each sample has patients with one to three records, labels that a patient tends to keep,
and scores that are correlated within patients, labels and encoders; their true AUROCs
are known in closed form. Scenarios: a fold of PTB-XL (71 labels, from one positive on);
superclasses; a small set; positives of which a fifth look like negatives; positives that
vary twice as much as negatives; labels that most patients have; three labels of a dozen
positives each, and a single one of half a dozen, nearly without errors; a twentieth of the
patients with most of the records. Labels are grouped by the patients of their rarer kind.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from ecgssl_jax.evaluation import intervals
from ecgssl_jax.evaluation.markdown import markdown_table

_FACTORS = 8
COUNTS = (1, 5, 10, 30, 100, 10**9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is sampled.

    Attributes:
      patients: of a sample.
      prevalence: [Y].
      separation: [Y], of the positives' mean score from the negatives'.
      unseen: share of the positives that score like negatives.
      spread: standard deviation of the positives' scores; that of negatives is 1.
      many: share of the patients that have `MANY` records each.
    """

    patients: int
    prevalence: np.ndarray
    separation: np.ndarray
    unseen: float = 0.0
    spread: float = 1.0
    many: float = 0.0

    def auroc(self, separation: np.ndarray) -> np.ndarray:
        seen = norm.cdf(separation / np.hypot(1, self.spread))
        return (1 - self.unseen) * seen + self.unseen * norm.cdf(0)


# Separations in the order of the prevalences, but unrelated to them.
_SEPARATION = np.random.default_rng(0).permutation(np.linspace(0.8, 3.2, 71))
_PTBXL: dict[str, Any] = dict(
    prevalence=np.geomspace(0.0006, 0.42, 71), separation=_SEPARATION
)
_SUPERCLASSES: dict[str, Any] = dict(
    prevalence=np.array([0.45, 0.25, 0.24, 0.22, 0.12]),
    separation=np.array([2.2, 1.9, 1.7, 1.8, 1.2]),
)
SCENARIOS = {
    "PTB-XL": Scenario(patients=1400, **_PTBXL),
    "superclasses": Scenario(patients=1400, **_SUPERCLASSES),
    "small": Scenario(patients=300, **_PTBXL),
    "a fifth unseen": Scenario(patients=1400, unseen=0.2, **_PTBXL),
    "spread 2": Scenario(patients=1400, spread=2.0, **_PTBXL),
    "turned round": Scenario(
        patients=1400, prevalence=1 - _PTBXL["prevalence"], separation=_SEPARATION
    ),
    "three rare ones": Scenario(
        patients=1400,
        prevalence=np.array([0.008, 0.009, 0.01]),
        separation=np.array([2.0, 1.5, 2.5]),
    ),
    "one rare one": Scenario(
        patients=400, prevalence=np.array([0.015]), separation=np.array([3.0])
    ),
    "long recordings": Scenario(patients=400, many=0.05, **_SUPERCLASSES),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Labels [N, Y], two encoders' scores [N, Y], and the records' patients [N]."""

    patients: np.ndarray
    labels: np.ndarray
    scores: tuple[np.ndarray, np.ndarray]


MANY = 60  # records, as of the windows of ten minutes
OTHER = 0.97  # the second encoder's separation, as a share of the first one's


def draw(scenario: Scenario, random: np.random.Generator) -> Sample:
    """One sample of patients and their records."""
    records = random.choice([1, 1, 1, 1, 2, 3], size=scenario.patients)
    records[: round(scenario.many * scenario.patients)] = MANY
    patients = np.repeat(np.arange(scenario.patients), records)
    width = len(scenario.prevalence)

    def normal(columns: int, share: float) -> np.ndarray:
        """[N, columns], correlated by `share` within a patient."""
        own = random.normal(size=(len(patients), columns))
        common = random.normal(size=(scenario.patients, columns))[patients]
        return np.sqrt(share) * common + np.sqrt(1 - share) * own

    labels = normal(width, 0.6) > norm.ppf(1 - scenario.prevalence)
    seen = random.random(labels.shape) >= scenario.unseen
    loading = random.normal(size=(_FACTORS, width))
    loading *= 0.6 / np.linalg.norm(loading, axis=0)
    shared = normal(_FACTORS, 0.5) @ loading + 0.8 * normal(width, 0.36)
    other = 0.7 * shared + np.sqrt(0.51) * normal(width, 0.0)
    spread = np.where(labels & seen, scenario.spread, 1)
    shift = labels * seen * scenario.separation
    return Sample(
        patients=patients,
        labels=labels,
        scores=(spread * shared + shift, spread * other + OTHER * shift),
    )


def coverage(
    scenario: Scenario, samples: int, *, draws: int, seed: int
) -> dict[str, list[bool]]:
    """'macro', 'paired' and '10-29 positives' -> whether each interval held the truth."""
    random = np.random.default_rng(seed)
    truth = scenario.auroc(scenario.separation)
    others = scenario.auroc(OTHER * scenario.separation)
    names = [str(k) for k in range(len(truth))]
    held: dict[str, list[bool]] = {}

    def note(key: str, interval: intervals.Interval, value: float) -> None:
        held.setdefault(key, []).append(interval.low <= value <= interval.high)

    for number in range(samples):
        sample = draw(scenario, random)
        first, second = sample.scores
        same = (sample.labels, sample.patients)
        each = intervals.label_intervals(first, *same, names=names)
        scored = [int(name) for name in each]
        one, other = (
            intervals.resample(scores, *same, draws=draws, seed=number)
            for scores in (first, second)
        )
        note("macro", one.macro(), truth[scored].mean())
        paired = other.minus(one)
        note("paired", paired, (others - truth)[scored].mean())
        for name, interval in each.items():
            note(_group(interval.patients), interval, truth[int(name)])
    return held


def _group(patients: int) -> str:
    low = max(count for count in COUNTS if count <= patients)
    high = min(count for count in COUNTS if count > patients)
    return f"{low}-{high - 1}" if high < COUNTS[-1] else f"{low} or more"


def table(found: dict[str, dict[str, list[bool]]]) -> str:
    """Markdown: a row for each scenario; shares in percent, of so many intervals."""
    groups = [_group(count) for count in COUNTS[:-1]]
    columns = ["macro", "paired", *groups]

    def cell(held: Sequence[bool]) -> str:
        return f"{100 * np.mean(held):.1f}" if len(held) >= 50 else ""

    rows = [
        [name, *(cell(held.get(column, [])) for column in columns)]
        for name, held in found.items()
    ]
    return markdown_table(["coverage, %", *columns], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--samples", type=int, default=400, help="of each scenario")
    add("--draws", type=int, default=1000, help="of patients, for each interval")
    add("--seed", type=int, default=0)
    add("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    args = parser.parse_args()
    found = {}
    for name in args.scenarios:
        found[name] = coverage(
            SCENARIOS[name], args.samples, draws=args.draws, seed=args.seed
        )
        print(table({name: found[name]}), flush=True)
    print(f"\n{table(found)}")


if __name__ == "__main__":
    main()
