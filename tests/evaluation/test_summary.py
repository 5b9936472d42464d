"""Cells of the tables: seeds together, and intervals on the same draws."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ecgssl_jax.evaluation import intervals
from ecgssl_jax.evaluation.questions import question
from ecgssl_jax.evaluation.scoring import answers
from ecgssl_jax.evaluation.settings import Evaluation
from ecgssl_jax.evaluation.split import validation_split
from ecgssl_jax.evaluation.summary import Key, Row, summarise
from tests.evaluation.labelled import labelled_set

SPLIT = validation_split((1, 2, 3), (4,))
SETTINGS = Evaluation(budgets=("20 %", "100 %"))


@pytest.fixture(scope="module")
def compared():
    """The question; and the cells of good features and of two sets of worse ones."""
    prepared, features = labelled_set()
    asked = question(prepared, "labels", SPLIT)
    random = np.random.default_rng(1)

    def row(name, noise, seeds):
        found = []
        for seed in seeds:
            noisy = features + noise * random.normal(size=features.shape)
            given = {"pooled": noisy.astype(np.float32)}
            drawn = (0, 1) if seed is None else (seed,)
            each = answers(given, [asked], SPLIT, SETTINGS, drawn)
            found += [(seed, answer) for answer in each]
        return Row(encoder=name, answers=found)

    rows = [row("random", 2, (0, 1)), row("trained", 0, (None,))]
    asked = asked.only(SPLIT.report)
    cells = summarise(
        rows, [asked], pairs=[("trained", "random")], draws=200, level=0.9
    )
    return asked, cells


def test_every_combination_has_a_cell_with_all_of_its_seeds(compared):
    _, cells = compared
    seeds = {(key.encoder, key.budget): cell.seeds for key, cell in cells.items()}
    assert seeds == {
        ("random", "20 %"): [(0, 0), (1, 1)],
        ("random", "100 %"): [(0, None), (1, None)],
        ("trained", "20 %"): [(None, 0), (None, 1)],
        ("trained", "100 %"): [(None, None)],
    }


def test_figures_are_means_over_the_seeds(compared):
    asked, cells = compared
    cell = cells[Key("random", "linear", "100 %", "labels")]
    known = asked.known[:, 1]
    values = [
        roc_auc_score(asked.labels[known, 1], answer.logits[known, 1])
        for answer in cell.answers
    ]
    assert cell.per_label()["b"] == pytest.approx(np.mean(values))
    assert cell.mean() == pytest.approx(np.mean(list(cell.per_label().values())))
    assert cell.labels["b"].low < np.mean(values) < cell.labels["b"].high
    assert cell.interval.low < cell.mean() < cell.interval.high
    assert cell.interval.level == cell.labels["b"].level == 0.9


def test_pairs_are_compared_on_the_same_draws(compared):
    asked, cells = compared
    trained, random = (
        cells[Key(name, "linear", "100 %", "labels")] for name in ("trained", "random")
    )
    assert not random.against and set(trained.against) == {"random"}
    records = asked.labels, asked.patient, asked.known
    one, other = (
        intervals.resample(
            np.stack([answer.logits for answer in cell.answers]), *records, draws=200
        )
        for cell in (trained, random)
    )
    assert trained.against["random"] == one.minus(other, 0.9)
    assert trained.against["random"].low > 0
