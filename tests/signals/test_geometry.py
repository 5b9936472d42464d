"""Transforms of time, on ramps, impulses and sinusoids whose result is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ecgssl_jax.signals.geometry import (
    RandomCrop,
    RandomResizedCrop,
    Reversal,
    TimeOut,
    TimeWarp,
)

KEY = jax.random.key(0)


def _ramps(batch=4, samples=100, leads=2):
    """Each sample says its own index, from 1; each lead is on another scale."""
    ramp = np.arange(1.0, samples + 1)[:, None] * np.arange(1.0, leads + 1)
    return jnp.asarray(np.broadcast_to(ramp, (batch, samples, leads)), jnp.float32)


def _padded(ecg, length):
    return jnp.where(jnp.arange(ecg.shape[1])[:, None] < length[:, None, None], ecg, 0)


def test_a_crop_is_a_stretch_of_the_record_in_all_leads():
    ecg, length = RandomCrop(seconds=0.3)(KEY, _ramps(), rate=100.0)
    assert ecg.shape == (4, 30, 2) and length is None
    start = np.asarray(ecg)[:, 0, 0]
    np.testing.assert_array_equal(ecg[:, :, 0], start[:, None] + np.arange(30))
    np.testing.assert_array_equal(ecg[:, :, 1], 2 * ecg[:, :, 0])
    assert len(set(start)) > 1


def test_crops_start_everywhere_alike_the_first_and_the_last_place_included():
    ecg, _ = RandomCrop(seconds=0.09)(KEY, _ramps(8000, 12, 1), rate=100.0)
    start, count = np.unique(np.asarray(ecg)[:, 0, 0], return_counts=True)
    np.testing.assert_array_equal(start, [1, 2, 3, 4])
    assert stats.chisquare(count).pvalue > 1e-3


def test_crops_stay_within_the_valid_part_and_shorten_what_is_longer():
    length = jnp.array([100, 40, 30, 12])
    ecg = _padded(_ramps(), length)
    for key in jax.random.split(KEY, 20):
        crop, short = RandomCrop(seconds=0.3)(key, ecg, length, rate=100.0)
        np.testing.assert_array_equal(short, [30, 30, 30, 12])
        valid = np.arange(30) < np.asarray(short)[:, None]
        np.testing.assert_array_equal(np.asarray(crop)[:, :, 0] > 0, valid)


def test_a_crop_longer_than_the_signal_is_refused():
    with pytest.raises(ValueError, match="random_crop: 1.5 s at 100 Hz are 150"):
        RandomCrop(seconds=1.5)(KEY, _ramps(), rate=100.0)


def test_a_resized_crop_of_a_ramp_is_a_flatter_ramp_of_the_same_length():
    length = jnp.array([100, 80, 60, 51])
    ecg = _padded(_ramps(), length)
    crop, same = RandomResizedCrop(scale=(0.4, 0.6))(KEY, ecg, length, rate=100.0)
    assert same is length and crop.shape == ecg.shape
    for row, size in enumerate(np.asarray(length)):
        found = np.asarray(crop)[row, :size, 0]
        # Cubic convolution is exact on straight lines, except beside the ends.
        slope = np.diff(found)[2:-2]
        np.testing.assert_allclose(slope, slope[0], atol=1e-4)
        assert 0.4 <= slope[0] <= 0.6
        assert found.min() >= 0.9 and found.max() <= size + 0.1


def test_a_resized_crop_reaches_both_ends_and_every_scale():
    ecg, _ = RandomResizedCrop(scale=(0.5, 1.0))(KEY, _ramps(4000), rate=100.0)
    first, last = np.asarray(ecg)[:, 0, 0], np.asarray(ecg)[:, -1, 0]
    scale = (last - first) / 99
    assert stats.kstest(scale, stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3
    place = (first - 1) / np.maximum(99 - (last - first), 1e-6)
    assert stats.kstest(place[scale < 0.99], "uniform").pvalue > 1e-3


def test_a_warp_maps_the_valid_part_onto_itself_in_order():
    length = jnp.array([1000, 900, 600, 2])
    ecg = _padded(_ramps(4, 1000), length)
    warp, _ = TimeWarp(strength=0.4, period=2.0)(KEY, ecg, length, rate=100.0)
    for row, size in enumerate(np.asarray(length)):
        found = np.asarray(warp)[row, :size, 0]
        np.testing.assert_allclose(found[[0, -1]], [1, size], atol=1e-2)
        assert np.all(np.diff(found) > 0)


def test_the_speed_of_a_warp_changes_by_no_more_than_its_strength():
    warp, _ = TimeWarp(strength=0.3, period=2.0)(KEY, _ramps(200, 1000), rate=100.0)
    speed = np.diff(np.asarray(warp)[:, 2:-2, 0], axis=1)
    largest = np.abs(speed - 1).max(axis=1)
    assert largest.max() <= 0.3 + 5e-3
    assert largest.max() > 0.2 and largest.min() < 0.05


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_a_time_out_lasts_its_seconds_at_any_rate(rate):
    ecg = jnp.ones((500, round(10 * rate), 2))
    erased = np.asarray(TimeOut(seconds=(0.5, 3.0))(KEY, ecg, rate=rate)[0]) == 0
    np.testing.assert_array_equal(erased[..., 0], erased[..., 1])
    seconds = erased[..., 0].sum(axis=1) / rate
    assert stats.kstest(seconds, stats.uniform(0.5, 2.5).cdf).pvalue > 1e-3
    # One span: zero begins once at most.
    assert (np.diff(erased[..., 0].astype(int), axis=1) == 1).sum(axis=1).max() == 1


def test_a_time_out_lies_within_the_valid_part_and_leaves_some_of_it():
    length = jnp.full((500,), 200)
    ecg, _ = TimeOut(seconds=(3.0, 3.0))(
        KEY, jnp.ones((500, 1000, 1)), length, rate=100.0
    )
    erased = np.asarray(ecg)[:, :200, 0] == 0
    assert np.all(np.asarray(ecg)[:, 200:] == 1)
    assert abs(erased.sum(axis=1) - 60).max() <= 1
    assert erased[:, 0].any() and erased[:, -1].any()


def test_a_time_out_of_the_whole_signal_is_refused():
    with pytest.raises(ValueError, match="time_out: 1 s would erase"):
        TimeOut(seconds=(0.1, 1.0))(KEY, _ramps(), rate=100.0)


@pytest.mark.parametrize("length", [None, jnp.array([100, 63, 1, 0])])
def test_reversal_is_an_involution_that_leaves_padding_at_the_end(length):
    ecg = _ramps() if length is None else _padded(_ramps(), length)
    back, same = Reversal()(KEY, ecg, length, rate=100.0)
    assert same is length
    size = np.full(4, 100) if length is None else np.asarray(length)
    back = _padded(back, jnp.asarray(size))
    for row, n in enumerate(size):
        np.testing.assert_array_equal(back[row, :n], np.asarray(ecg)[row, :n][::-1])
    twice = _padded(Reversal()(KEY, back, length, rate=100.0)[0], jnp.asarray(size))
    np.testing.assert_array_equal(twice, ecg)
