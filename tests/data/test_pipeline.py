"""Batches of a small prepared set: what is in them, and that nothing else matters."""

import dataclasses
import subprocess
import sys
import types
from collections import Counter

import jax
import numpy as np
import pytest
from scipy import stats

from ecgssl_jax import device_cache, sharding
from ecgssl_jax.data import masks as masks_lib
from ecgssl_jax.data.mixture import Mixture, select_records
from ecgssl_jax.data.pipeline import Pipeline, import_tensorflow
from ecgssl_jax.data.prepared import DamagedSetError
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.experiment import Mesh

RECORDS, LENGTH, CROP = 23, 1000, 700
SHORT = {3: 600, 7: 550, 11: 800}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, make_record, make_source):
    """23 records of 1000 samples, three of them shorter; folds 1 to 4."""
    records = [
        make_record(i, seconds=SHORT.get(i, LENGTH) / 100, fold=i % 4 + 1)
        for i in range(RECORDS)
    ]
    folder = tmp_path_factory.mktemp("sets") / "small"
    return prepare_dataset(make_source(records), folder, report=lambda text: None)


@pytest.fixture(scope="module")
def other(tmp_path_factory, make_record, make_source):
    """Nine records of 800 samples, of another scale."""
    records = [make_record(100 + i, seconds=8, fold=i % 4 + 1) for i in range(9)]
    folder = tmp_path_factory.mktemp("sets") / "other"
    settings = Settings(seconds=8, scale=0.002)
    source = make_source(records)
    return prepare_dataset(source, folder, settings=settings, report=lambda text: None)


def mixed(prepared, other, *, weights=(2.0, 1.0), **fields):
    """A pipeline on both sets, two rows of the first for each of the second."""
    rows = (select_records(prepared, (1, 2, 4)), select_records(other, None))
    mixture = Mixture(sets=(prepared, other), rows=rows, weights=weights)
    return dataclasses.replace(pipeline(prepared, **fields), mixture=mixture)


def pipeline(prepared, *, folds=None, batch_size=8, seed=0, mask=True, **data):
    return Pipeline(
        mixture=Mixture(sets=(prepared,), rows=(select_records(prepared, folds),)),
        **{"crop": CROP, "cache": "none", **data},
        masks=masks_lib.build("blocks", 14, min_block=2) if mask else None,
        num_patches=14,
        seed=seed,
        batch_size=batch_size,
    )


def full_length(prepared):
    """The rows of the set that are not short."""
    return np.flatnonzero(prepared.index["length"] == LENGTH)


def starts_of(prepared, batch):
    """Where each crop of a batch was cut, by comparison with the whole records."""
    whole = prepared.load()
    starts = []
    for record, ecg in zip(batch["record"], batch["ecg"], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(whole[record], CROP, axis=0)
        same = (windows.transpose(0, 2, 1) == ecg).all(axis=(1, 2))
        (found,) = np.flatnonzero(same)
        starts.append(found)
    return np.array(starts)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_starting_at_a_step_equals_skipping_to_it(prepared):
    whole = list(pipeline(prepared).batches(0, 9))
    late = list(pipeline(prepared).batches(5, 9))
    assert len(late) == 4
    for one, other in zip(whole[5:], late, strict=True):
        assert_equal(one, other)


def test_other_seeds_give_other_batches(prepared):
    one, other = (next(pipeline(prepared, seed=seed).batches(0, 1)) for seed in (0, 1))
    for name in ("record", "ecg", "context"):
        assert (one[name] != other[name]).any()


@pytest.mark.parametrize("cache", ["none", "host", "device"])
def test_rows_are_those_of_the_global_batch(prepared, cache):
    batches = pipeline(prepared, cache=cache)
    whole = list(batches.batches(1, 3))
    for rows in map(np.array, ([0, 1], range(2, 8), [5], [0, 1, 6, 7])):
        for one, part in zip(whole, batches.batches(1, 3, rows), strict=True):
            assert_equal({name: x[rows] for name, x in one.items()}, part)


def test_each_epoch_visits_every_record_once_whatever_the_batch(prepared):
    # 8 does not divide 23: batch 2 holds the end of one epoch and the start of the
    # next, batch 22 ends the eighth epoch.
    batches = pipeline(prepared, mask=False).batches(0, RECORDS)
    order = np.concatenate([batch["record"] for batch in batches])
    epochs = order.reshape(8, RECORDS)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(RECORDS))
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_only_records_of_the_folds_are_used(prepared):
    batches = list(pipeline(prepared, folds=(1, 3)).batches(0, 4))
    seen = np.concatenate([batch["record"] for batch in batches])
    fold = np.arange(RECORDS) % 4 + 1
    assert set(seen) == set(np.flatnonzero((fold == 1) | (fold == 3)))


def test_a_batch_holds_what_the_set_says_of_its_records(prepared):
    batch = next(pipeline(prepared).batches(0, 1))
    record = batch["record"]
    np.testing.assert_array_equal(batch["patient"], prepared.index["patient"][record])
    assert batch["lead_valid"].all() and batch["lead_valid"].shape == (8, 12)
    np.testing.assert_array_equal(batch["source"], 0)
    assert batch["ecg"].dtype == np.int16 and batch["ecg"].shape == (8, CROP, 12)
    # Context and targets are the 14 patches, each once.
    for row in range(8):
        patches = [
            *batch["context"][row][batch["context_valid"][row]],
            *batch["targets"][row][batch["targets_valid"][row]],
        ]
        assert sorted(patches) == list(range(14))


def test_crops_are_uniform_over_the_record(prepared):
    mixture = Mixture(sets=(prepared,), rows=(full_length(prepared),))
    few = dataclasses.replace(
        pipeline(prepared, crop=CROP, mask=False, batch_size=200), mixture=mixture
    )
    counts = Counter()
    for batch in few.batches(0, 10):
        counts.update(starts_of(prepared, batch).tolist())
    starts = np.array(sorted(counts.elements()))
    assert starts.min() >= 0 and starts.max() <= LENGTH - CROP
    bins, _ = np.histogram(starts, bins=10, range=(0, LENGTH - CROP + 1))
    assert stats.chisquare(bins).pvalue > 1e-3
    assert starts.min() < 10 and starts.max() > LENGTH - CROP - 10


def test_crops_of_short_records_stay_within_them(prepared):
    batches = pipeline(prepared, mask=False)
    for batch in batches.batches(0, 3 * RECORDS):
        for row, record in enumerate(batch["record"]):
            length = SHORT.get(int(record), LENGTH)
            assert batch["length"][row] == min(length, CROP)
            if length < LENGTH:
                inside = batch["ecg"][row, : batch["length"][row]]
                assert (inside != 0).any(axis=1).all()
                assert (batch["ecg"][row, batch["length"][row] :] == 0).all()


def test_no_lengths_where_every_record_fills_the_crop(prepared):
    batch = next(pipeline(prepared, folds=(1, 2), mask=False).batches(0, 1))
    assert "length" not in batch


def test_host_cache_changes_nothing(prepared):
    both = [pipeline(prepared, cache=cache).batches(0, 5) for cache in ("none", "host")]
    for one, other in zip(*both, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("mesh", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
def test_device_cache_gives_the_same_signals_on_any_mesh(prepared, mesh):
    data, fsdp, tensor = mesh
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = sharding.make_mesh(Mesh(data=data, fsdp=fsdp, tensor=tensor), devices)
    resident_pipeline = pipeline(prepared, cache="device", folds=(1, 2, 4))
    resident = device_cache.load_records(resident_pipeline.mixture, mesh)
    held = resident.addressable_shards[0].data.shape[0]
    assert held == -(-len(resident_pipeline.mixture.records) // (data * fsdp))
    materialise = jax.jit(
        device_cache.make_materialise(mesh, crop=CROP, leads=12),
        out_shardings=sharding.batch_sharding(mesh),
    )
    reference = pipeline(prepared, folds=(1, 2, 4)).batches(0, 4)
    for batch, expected in zip(resident_pipeline.batches(0, 4), reference, strict=True):
        put = sharding.to_devices(batch, sharding.batch_sharding(mesh), 8, 0)
        found = {k: np.asarray(v) for k, v in materialise(put, resident).items()}
        assert_equal(found, expected)


def test_device_cache_exchanges_crops_and_never_the_set(prepared):
    mesh = sharding.make_mesh(Mesh())
    batches = pipeline(prepared, cache="device", mask=False)
    resident = device_cache.load_records(batches.mixture, mesh)
    batch = sharding.to_devices(
        next(batches.batches(0, 1)), sharding.batch_sharding(mesh), 8, np.arange(8)
    )
    materialise = jax.jit(device_cache.make_materialise(mesh, crop=CROP, leads=12))
    text = materialise.lower(batch, resident).compile().as_text()
    collectives = [
        line
        for line in text.splitlines()
        if any(f" {name}(" in line for name in ("all-gather", "all-to-all"))
        or "reduce-scatter(" in line
        or "all-reduce(" in line
    ]
    assert collectives
    assert not any(str(LENGTH * 12) in line for line in collectives)


def places_of_epochs(seed, records=20_000, epochs=4):
    """[epochs, records]: the place that each record has in each epoch."""
    tf = import_tensorflow()
    nothing = types.SimpleNamespace(rate=100.0, leads=())
    mixture = Mixture(sets=(nothing,), rows=(np.arange(records),))
    batches = Pipeline(
        mixture=mixture,
        crop=1,
        cache="none",
        masks=None,
        num_patches=0,
        seed=seed,
        batch_size=records,
    )
    find = batches._places(tf, range(records))
    orders = [find(tf.constant(step, tf.int64))[1].numpy() for step in range(epochs)]
    return np.argsort(orders, axis=1)


def test_orders_of_epochs_and_of_seeds_are_independent():
    places = np.concatenate([places_of_epochs(seed) for seed in range(3)])
    correlation = np.corrcoef(places)[~np.eye(len(places), dtype=bool)]
    # Of independent orders its deviation is 1 / sqrt(20,000), 0.007.
    assert np.abs(correlation).max() < 0.03
    assert correlation.std() < 0.01


def test_records_of_a_batch_meet_again_no_more_often_than_by_chance():
    batch_of = places_of_epochs(0) // 100
    rng = np.random.default_rng(0)
    pairs = rng.integers(20_000, size=(2, 400_000))
    together = [(epoch[pairs[0]] == epoch[pairs[1]]) for epoch in batch_of]
    again = (together[0] & together[1]).mean() / together[0].mean()
    # Two records share one of 200 batches by chance once in 200 epochs.
    assert again < 0.015


def test_rows_have_the_leads_of_their_records(prepared):
    valid = np.random.default_rng(0).integers(2, size=(RECORDS, 12)).astype(bool)
    index = {**prepared.index, "lead_valid": valid}
    some = dataclasses.replace(prepared, index=index)
    for batch in pipeline(some, folds=(2, 3), mask=False).batches(0, 3):
        np.testing.assert_array_equal(batch["lead_valid"], valid[batch["record"]])


# ---- Mixtures ----


def test_a_mixture_takes_each_set_in_its_own_order(prepared, other):
    """The rows of the first set are those of a run on it alone, one after another."""
    batches = list(mixed(prepared, other).batches(0, 30))
    source, record = (
        np.concatenate([batch[name] for batch in batches])
        for name in ("source", "record")
    )
    first = record[source == 0]
    assert len(first) == 160 and (source == 1).sum() == 80
    alone = pipeline(prepared, folds=(1, 2, 4)).batches(0, 20)
    np.testing.assert_array_equal(
        first, np.concatenate([batch["record"] for batch in alone])
    )
    # Each record of the second set once in each of its epochs, in changing orders.
    epochs = record[source == 1][:72].reshape(8, 9) - RECORDS
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(9), (8, 1)))
    assert len(np.unique(epochs, axis=0)) == 8


def test_rows_of_a_mixture_are_those_of_their_sets(prepared, other):
    for batch in mixed(prepared, other).batches(0, 6):
        for row, (source, record) in enumerate(
            zip(batch["source"], batch["record"], strict=True)
        ):
            origin, place = (other, record - RECORDS) if source else (prepared, record)
            whole = origin.read([place])[0]
            windows = np.lib.stride_tricks.sliding_window_view(whole, CROP, axis=0)
            same = windows.transpose(0, 2, 1) == batch["ecg"][row]
            assert same.all(axis=(1, 2)).any()
            length = min(origin.index["length"][place], CROP)
            assert batch["length"][row] == length


def test_a_mixture_continues_and_is_divided_exactly(prepared, other):
    whole = list(mixed(prepared, other).batches(0, 9))
    for batch, expected in zip(
        mixed(prepared, other).batches(4, 9), whole[4:], strict=True
    ):
        assert_equal(batch, expected)
    part = mixed(prepared, other).batches(4, 9, np.array([2, 3, 6]))
    for batch, expected in zip(part, whole[4:], strict=True):
        assert_equal(
            batch, {name: value[[2, 3, 6]] for name, value in expected.items()}
        )


@pytest.mark.parametrize("cache", ["host", "device"])
def test_a_mixture_in_memory_is_the_one_on_disk(prepared, other, cache):
    cached = mixed(prepared, other, cache=cache)
    expected = mixed(prepared, other).batches(0, 4)
    mesh = sharding.make_mesh(Mesh())
    parts = sharding.batch_sharding(mesh)
    materialise, resident = None, None
    if cache == "device":
        resident = device_cache.load_records(cached.mixture, mesh)
        materialise = jax.jit(device_cache.make_materialise(mesh, crop=CROP, leads=12))
    for batch, whole in zip(cached.batches(0, 4), expected, strict=True):
        if materialise is not None:
            put = sharding.to_devices(batch, parts, 8, 0)
            batch = {k: np.asarray(v) for k, v in materialise(put, resident).items()}
        assert_equal(batch, whole)


def test_shapes_are_those_of_the_batches(prepared):
    for cache in ("none", "device"):
        batches = pipeline(prepared, cache=cache)
        shapes, batch = batches.shapes(), batches.example()
        assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {
            k: (v.shape, v.dtype) for k, v in batch.items()
        }


def test_a_damaged_record_is_named_from_within_the_pipeline(
    tmp_path, make_record, make_source
):
    source = make_source([make_record(i) for i in range(6)])
    damaged = prepare_dataset(source, tmp_path / "bad", report=lambda text: None)
    file = max(damaged.directory.glob("*array_record*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedSetError, match="is damaged"):
        for _ in pipeline(damaged, mask=False, batch_size=6).batches(0, 2):
            pass


ENDS_EARLY = """
import sys
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.data.prepared import open_prepared
import numpy as np

prepared = open_prepared(sys.argv[1])
mixture = Mixture(sets=(prepared,), rows=(np.arange(len(prepared)),))
pipeline = Pipeline(mixture=mixture, crop=300, cache="none", masks=None, num_patches=0, seed=0, batch_size=64)
batches = pipeline.batches(0, 100_000)
next(batches)
batches.close()
print("ends")
"""


def test_a_process_that_closes_its_batches_ends_quietly(prepared):
    done = subprocess.run(
        [sys.executable, "-c", ENDS_EARLY, str(prepared.directory)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
