"""Integers to normalised signals, against NumPy."""

import jax
import numpy as np
import pytest

from ecgssl_jax.signals import Statistics, prepare, prepare_views
from ecgssl_jax.signals.views import build_views

B, T, C, S = 4, 6, 3, 2


def _statistics():
    rng = np.random.default_rng(1)
    return Statistics(
        scale=rng.uniform(0.001, 0.005, (S, C)).astype(np.float32),
        mean=rng.normal(0, 0.1, (S, C)).astype(np.float32),
        std=rng.uniform(0.1, 0.5, (S, C)).astype(np.float32),
    )


def _batch():
    rng = np.random.default_rng(0)
    return dict(
        ecg=rng.integers(-2000, 2000, (B, T, C), np.int16, endpoint=True),
        source=np.array([0, 1, 1, 0], np.int32),
        lead_valid=np.ones((B, C), bool),
        length=np.full(B, T, np.int32),
    )


def _reference(batch, statistics):
    """[B, T, C] float64: every row in millivolts, then standardised by its set."""
    rows = zip(batch["ecg"].astype(np.float64), batch["source"], strict=True)
    return np.stack(
        [
            (ecg * statistics.scale[s] - statistics.mean[s]) / statistics.std[s]
            for ecg, s in rows
        ]
    )


def test_every_row_is_standardised_by_the_statistics_of_its_set():
    batch, statistics = _batch(), _statistics()
    found = jax.jit(prepare)(batch, statistics)
    assert found.dtype == np.float32 and found.shape == (B, T, C)
    expected = _reference(batch, statistics)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    swapped = dict(batch, source=1 - batch["source"])
    expected = _reference(swapped, statistics)
    np.testing.assert_allclose(prepare(swapped, statistics), expected, rtol=1e-5)


def test_missing_leads_and_samples_are_zero():
    batch, statistics = _batch(), _statistics()
    batch["lead_valid"][1, 2] = False
    batch["length"] = np.array([T, 4, 0, 1], np.int32)
    expected = _reference(batch, statistics)
    expected[1, :, 2] = 0
    for row, length in enumerate(batch["length"]):
        expected[row, length:] = 0
    found = prepare(batch, statistics)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_batch_without_lengths_is_full():
    batch, statistics = _batch(), _statistics()
    expected = prepare(batch, statistics)
    del batch["length"]
    np.testing.assert_array_equal(prepare(batch, statistics), expected)


@pytest.mark.parametrize("clip", [0.5, 5.0, None])
def test_magnitudes_are_clipped_after_normalising(clip):
    batch, statistics = _batch(), _statistics()
    expected = _reference(batch, statistics)
    assert np.abs(expected).max() > 5
    if clip is not None:
        expected = np.clip(expected, -clip, clip)
    found = prepare(batch, statistics, clip=clip)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_view_without_transforms_is_the_prepared_signal():
    batch, statistics = _batch(), _statistics()
    (view,) = prepare_views(
        build_views([[]]), jax.random.key(0), batch, statistics, rate=100.0, clip=2.0
    )
    expected = prepare(batch, statistics, clip=2.0)
    np.testing.assert_array_equal(view["ecg"], expected)


@pytest.mark.parametrize(
    "step", [("lead_dropout", 1.0, dict(probability=0.9)), ("time_out", 1.0)]
)
def test_what_a_transform_erases_is_to_the_encoder_what_is_missing(step):
    batch, statistics = _batch(), _statistics()
    (view,) = prepare_views(
        build_views([[step]]), jax.random.key(0), batch, statistics, rate=1.0
    )
    expected = np.asarray(prepare(batch, statistics))
    kept = view["ecg"] != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(view["ecg"][kept], expected[kept], rtol=1e-5)


def test_lead_without_any_deviation_gives_no_nan_where_it_is_missing():
    batch, statistics = _batch(), _statistics()
    statistics.std[:, 2] = 0
    batch["lead_valid"][:, 2] = False
    assert np.all(np.isfinite(prepare(batch, statistics, clip=5.0)))
