"""Budgets of labels: by patient, nested, and the same every time."""

import numpy as np
import pytest

from ecgssl_jax.evaluation.budget import Budget, draw, parse_budget
from ecgssl_jax.settings import ConfigError


def records():
    """1000 records of 400 patients, and four labels from frequent to absent."""
    random = np.random.default_rng(0)
    patients = random.integers(0, 400, 1000)
    labels = random.random((1000, 4)) < [0.5, 0.1, 0.006, 0]
    return patients, labels.astype(np.float32), np.ones(labels.shape, bool)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1 %", Budget(share=0.01)),
        ("12.5%", Budget(share=0.125)),
        ("100 %", Budget(share=1)),
        ("5 per class", Budget(per_class=5)),
    ],
)
def test_budgets_are_written_as_they_are_read(text, budget):
    assert parse_budget(text) == budget == parse_budget(str(budget))
    assert budget.is_all == (text == "100 %")


@pytest.mark.parametrize("text", ["", "1", "0 %", "120 %", "0 per class", "5 each"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ConfigError, match="such as '1 %' .*'10 per class'"):
        parse_budget(text)


def test_shares_are_of_patients_with_all_their_records_and_nested():
    patients, labels, known = records()
    distinct = len(set(patients.tolist()))
    chosen = [
        draw(Budget(share=share), patients, labels, known, population=400, seed=3)
        for share in (0.01, 0.1, 1)
    ]
    for share, rows in zip((0.01, 0.1, 1), chosen, strict=True):
        inside, outside = set(patients[rows]), set(patients[~rows])
        assert not inside & outside
        assert len(inside) == np.ceil(share * distinct)
    assert not (chosen[0] & ~chosen[1]).any() and chosen[2].all()


def test_a_share_is_not_rounded_up_by_the_last_bit():
    patients, labels, known = np.arange(100), np.ones((100, 1)), np.ones((100, 1), bool)
    for percent in range(1, 101):
        budget = parse_budget(f"{percent} %")
        found = draw(budget, patients, labels, known, population=100, seed=0)
        assert found.sum() == percent


def test_parts_of_a_population_are_drawn_in_one_order():
    patients, labels, known = records()
    part = patients % 3 > 0
    budget = Budget(share=0.2)
    whole, some = (
        draw(budget, patients[x], labels[x], known[x], population=400, seed=0)
        for x in (np.ones(len(patients), bool), part)
    )
    # A fifth of either, of the same order: most of those drawn of the part were drawn
    # of the whole, where an order of its own would have a fifth of them.
    shared = set(patients[part][some]) & set(patients[whole])
    assert len(shared) > 0.6 * len(set(patients[part][some]))


def test_shares_do_not_look_at_labels_and_follow_the_seed():
    patients, labels, known = records()
    budget = Budget(share=0.1)
    first = draw(budget, patients, labels, known, population=400, seed=0)
    again = draw(budget, patients, 1 - labels, ~known, population=400, seed=0)
    other = draw(budget, patients, labels, known, population=400, seed=1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_each_class_has_its_positives_or_all_there_are():
    patients, labels, known = records()
    known[:500, 1] = False
    chosen = draw(Budget(per_class=10), patients, labels, known, population=400, seed=0)
    assert not set(patients[chosen]) & set(patients[~chosen])
    counts = (known & (labels == 1))[chosen].sum(axis=0)
    there = (known & (labels == 1)).sum(axis=0)
    assert there[2] < 10 and counts[2] == there[2] and counts[3] == 0
    assert (counts[:2] >= 10).all()
    # Hardly more than needed: a patient brings a few records.
    assert counts[1] <= 14 and chosen.sum() < 60


def test_a_part_of_the_records_is_drawn_in_the_order_of_all():
    patients, labels, known = records()
    part = np.arange(1000) % 3 > 0
    chosen = [
        draw(
            Budget(share=0.1),
            patients[rows],
            labels[rows],
            known[rows],
            population=400,
            seed=0,
        )
        for rows in (np.ones(1000, bool), part)
    ]
    everyone, some = set(patients[chosen[0]]), set(patients[part][chosen[1]])
    # The part has fewer patients, and so a shorter tenth; who is left out of it makes
    # place for the next.
    here = set(patients[part])
    assert len(some - everyone) <= len(everyone - here)
