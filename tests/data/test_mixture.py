"""Several prepared sets as one: numbering, and the pattern that draws from them."""

import dataclasses

import numpy as np
import pytest

from ecgssl_jax.data.mixture import Mixture, check_crop, even_slots, select_records
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.settings import ConfigError


@pytest.fixture(scope="module")
def sets(tmp_path_factory, make_record, make_source):
    """Seven records of 10 s, and five of 4 s; two patients each, of equal names."""
    folder = tmp_path_factory.mktemp("sets")
    found = []
    for name, count, seconds in (("long", 7, 10), ("short", 5, 4)):
        records = [
            make_record(i, seconds=seconds, fold=i % 2 + 1, patient=f"p{i % 2}")
            for i in range(count)
        ]
        found.append(
            prepare_dataset(
                make_source(records),
                folder / name,
                settings=Settings(seconds=seconds),
                report=lambda text: None,
            )
        )
    return tuple(found)


def mix(sets, *, weights=(1.0, 3.0), folds=(None, None)):
    rows = [select_records(*pair) for pair in zip(sets, folds, strict=True)]
    return Mixture(sets=sets, rows=tuple(rows), weights=weights)


# ---- The pattern ----


@pytest.mark.parametrize(
    "weights", [(1, 1), (2, 1), (0.7, 0.3), (17418, 3), (5, 3, 1, 1), (1, 1e-3, 40)]
)
def test_every_stretch_of_rows_holds_each_source_by_its_share(weights):
    sources, _ = even_slots(weights)
    shares = np.asarray(weights) / sum(weights)
    taken = np.cumsum(sources[:, None] == np.arange(len(weights)), axis=0)
    expected = np.arange(1, len(sources) + 1)[:, None] * shares
    # Drawing at random would be off by hundreds after so many rows.
    assert np.abs(taken - expected).max() < 0.5 + len(weights) / 2
    assert (taken[-1] > 0).all()


def test_ranks_count_the_earlier_slots_of_the_same_source():
    sources, ranks = even_slots((3, 2, 1))
    for source in range(3):
        found = ranks[sources == source]
        np.testing.assert_array_equal(found, np.arange(len(found)))


def test_one_source_has_every_slot():
    sources, ranks = even_slots((0.1,))
    assert sources.tolist() == ranks.tolist() == [0]


# ---- Numbering ----


def test_records_are_numbered_through(sets):
    mixture = mix(sets, folds=((2,), None))
    assert len(mixture) == 12 and mixture.length == 1000 and mixture.rate == 100
    assert mixture.first.tolist() == [0, 7]
    assert mixture.records.tolist() == [1, 3, 5, 7, 8, 9, 10, 11]
    assert mixture.column("length").tolist() == [1000] * 7 + [400] * 5
    assert mixture.shares == pytest.approx((0.25, 0.75))


def test_patients_of_different_sets_are_different_ones(sets):
    mixture = mix(sets)
    expected = [*sets[0].index["patient"], *(sets[1].index["patient"] + 2)]
    assert mixture.patients.tolist() == expected
    assert len(set(expected)) == 4 and mixture.patients.dtype == np.int32


def test_signals_come_from_their_sets_in_the_order_asked(sets):
    mixture = mix(sets)
    found = mixture.read(np.array([8, 2, 11, 0, 2]))
    assert found.shape == (5, 1000, 12) and found.dtype == np.int16
    for place, (source, row) in enumerate([(1, 1), (0, 2), (1, 4), (0, 0), (0, 2)]):
        expected = sets[source].read([row])[0]
        np.testing.assert_array_equal(found[place, : len(expected)], expected)
        assert not found[place, len(expected) :].any()


# ---- What does not fit ----


def test_sets_of_different_rates_are_refused(sets):
    other = dataclasses.replace(sets[1], rate=500.0)
    with pytest.raises(ConfigError, match="long has 100 Hz, short 500 Hz; prepare"):
        mix((sets[0], other))


def test_sets_of_different_leads_are_refused(sets):
    other = dataclasses.replace(sets[1], leads=sets[1].leads[::-1])
    with pytest.raises(ConfigError, match="long has the leads .* short"):
        mix((sets[0], other))


def test_a_fold_that_does_not_exist_is_named(sets):
    with pytest.raises(ConfigError, match=r"data.folds: long has no fold \[9\]"):
        select_records(sets[0], (1, 9))


def test_a_crop_longer_than_the_records_is_named(sets):
    with pytest.raises(ConfigError, match="401 samples.*short are stored with 400"):
        check_crop(sets[1], 401)


def test_shares_are_those_that_the_pattern_can_give(sets):
    shares = mix(sets, weights=(1e6, 1.0)).shares
    # A slot of 65536 is the least.
    assert shares == pytest.approx((1 - 1 / 65537, 1 / 65537), rel=1e-3)
