"""Features of whole records, with an encoder whose features are known."""

import itertools

import jax
import numpy as np
import pytest

from ecgssl_jax import sharding
from ecgssl_jax.data.readers.source import Source
from ecgssl_jax.data.record import Record
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation.features import extract, make_feature_function, statistics_of
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.leads import LEADS

RATE, CROP = 100.0, 250
SHORT = {4: 600}


class Means:
    """Pooled: each lead's mean, scaled; tokens: means of 50 samples."""

    def features(self, params, extra, batch):
        ecg = batch["ecg"]
        tokens = ecg.reshape(len(ecg), -1, 50, ecg.shape[-1]).mean(axis=2)
        valid = jax.numpy.arange(0, ecg.shape[1], 50) < batch["length"][:, None]
        pooled = params * ecg.mean(axis=1)
        return {"pooled": pooled, "tokens": tokens, "tokens_valid": valid}


def read(lengths):
    for number, length in enumerate(lengths):
        rng = np.random.default_rng(number)
        independent = 0.3 * rng.standard_normal((length, 8))
        i, ii = independent[:, 0], independent[:, 1]
        limb = [i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2]
        ecg = np.column_stack([*limb, independent[:, 2:]]).astype(np.float32)
        yield f"r{number}", Record(id=f"r{number}", ecg=ecg, rate=RATE, leads=LEADS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """13 records of 10 s, one of them 6 s long."""
    lengths = [SHORT.get(number, 1000) for number in range(13)]
    source = Source(
        description="noise",
        tasks=[lambda: read(lengths)],
        num_records=len(lengths),
        rates=(RATE,),
        labels=(),
    )
    folder = tmp_path_factory.mktemp("features") / "noise"
    return prepare_dataset(source, folder, report=lambda text: None)


def features(prepared, rows, *, devices=8, tokens=np.float16, batch_size=16, crop=CROP):
    mesh = sharding.make_mesh(Mesh(), jax.devices()[:devices])
    function = make_feature_function(Means(), mesh, clip=None, tokens=tokens)
    return extract(
        *(function, np.float32(2.0), {}, prepared, np.asarray(rows)),
        statistics=statistics_of([prepared]),
        crop=crop,
        batch_size=batch_size,
        mesh=mesh,
    )


def normalised(prepared, row):
    """[T, C], as a user would compute it from the stored integers."""
    millivolts = prepared.read([row])[0] * prepared.scale
    return (millivolts - prepared.mean) / prepared.std


def test_pooled_features_are_the_mean_over_the_windows(prepared):
    rows = [7, 0, 12, 3, 7]
    found = features(prepared, rows)["pooled"]
    expected = [2 * normalised(prepared, row).mean(axis=0) for row in rows]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_last_window_that_is_half_empty_does_not_count(prepared):
    # 6 s are two whole windows and 1 s of the third; the fourth holds nothing.
    signal = normalised(prepared, 4)[:500]
    found = features(prepared, [4])["pooled"][0]
    np.testing.assert_allclose(found, 2 * signal.mean(axis=0), atol=1e-5)


def test_a_last_window_that_is_half_full_counts_by_what_it_holds(prepared):
    found = features(prepared, [4, 2], crop=400)
    # 10 s are two windows and 2 s of a third, 6 s one and 2 s of a second.
    for place, (row, windows) in enumerate([(4, [400, 200]), (2, [400, 400, 200])]):
        signal = normalised(prepared, row)
        edges = np.cumsum([0, *windows])
        means = [
            signal[start:stop].sum(axis=0) / 400
            for start, stop in itertools.pairwise(edges)
        ]
        expected = 2 * np.average(means, axis=0, weights=windows)
        np.testing.assert_allclose(found["pooled"][place], expected, atol=1e-5)
    assert found["tokens_valid"].sum(axis=1).tolist() == [12, 20]


def test_tokens_of_the_windows_follow_each_other(prepared):
    found = features(prepared, [2, 9])["tokens"]
    assert found.shape == (2, 20, 12) and found.dtype == np.float16
    expected = normalised(prepared, 9).reshape(20, 50, 12).mean(axis=1)
    np.testing.assert_allclose(found[1], expected, atol=2e-3)


def test_tokens_beyond_the_end_of_a_short_record_are_not_valid(prepared):
    found = features(prepared, [2, 4])["tokens_valid"]
    assert found.shape == (2, 20) and found.dtype == bool
    assert found.sum(axis=1).tolist() == [20, 10]
    assert found[1, :10].all()


def test_batches_and_devices_change_nothing(prepared):
    rows = np.arange(13)
    expected = features(prepared, rows, devices=1, batch_size=4)
    for devices, batch_size in ((8, 4), (8, 100), (2, 20)):
        found = features(prepared, rows, devices=devices, batch_size=batch_size)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_the_tables_stand_in_the_order_of_the_sets(prepared):
    tables = statistics_of([prepared, prepared])
    assert tables.scale.shape == tables.mean.shape == tables.std.shape == (2, 12)
    np.testing.assert_allclose(tables.mean[1], prepared.mean, rtol=1e-6)
    np.testing.assert_allclose(tables.scale[0], 0.001)
