"""Noise, by its spectrum, its size and the laws of the leads."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal, stats

from ecgssl_jax.leads import LEADS
from ecgssl_jax.signals.noise import (
    BaselineShift,
    BaselineWander,
    EmgNoise,
    GaussianNoise,
    PowerlineNoise,
    RandomWander,
    band_pass,
)

KEY = jax.random.key(0)
ELECTRODE_NOISE = [
    BaselineWander(),
    BaselineShift(),
    EmgNoise(),
    PowerlineNoise(frequencies=(40.0,)),
    RandomWander(noise=(0.0, 0.0)),
]


def _noise(transform, *, rate=100.0, seconds=10.0, batch=8, key=KEY, length=None):
    """[B, T, 12]: what the transform adds to nothing."""
    silence = jnp.zeros((batch, round(seconds * rate), 12))
    added, _ = jax.jit(functools.partial(transform, rate=rate))(key, silence, length)
    return np.asarray(added, np.float64)


def _spectrum(noise, rate):
    """[F] Hz and [F] power, of all records and leads, its leakage suppressed."""
    window = signal.windows.blackmanharris(noise.shape[1])[:, None]
    power = np.abs(np.fft.rfft(noise * window, axis=1)) ** 2
    return np.fft.rfftfreq(noise.shape[1], 1 / rate), power.sum(axis=(0, 2))


def _root_mean_square(noise):
    return np.sqrt(np.square(noise).mean())


@pytest.mark.parametrize("transform", ELECTRODE_NOISE, ids=lambda x: type(x).__name__)
def test_noise_of_the_electrodes_keeps_the_laws_of_the_leads(transform):
    noise = _noise(transform)
    lead = dict(zip(LEADS, np.moveaxis(noise, -1, 0), strict=True))
    close = dict(atol=1e-5 * np.abs(noise).max(), rtol=0)
    np.testing.assert_allclose(lead["III"], lead["II"] - lead["I"], **close)
    np.testing.assert_allclose(lead["aVR"], -(lead["I"] + lead["II"]) / 2, **close)
    np.testing.assert_allclose(lead["aVL"], lead["I"] - lead["II"] / 2, **close)
    np.testing.assert_allclose(lead["aVF"], lead["II"] - lead["I"] / 2, **close)


@pytest.mark.parametrize(
    "transform", [*ELECTRODE_NOISE, GaussianNoise()], ids=lambda x: type(x).__name__
)
def test_no_two_leads_or_records_have_the_same_noise(transform):
    noise = _noise(transform, batch=3).transpose(0, 2, 1).reshape(36, -1)
    # aVR is the negative of a mean; signs apart, all differ by a fifth of their size.
    for sign in (-1.0, 1.0):
        apart = np.abs(noise[:, None] + sign * noise[None]).max(axis=2)
        size = np.abs(noise).max(axis=1)
        apart[np.diag_indices(36)] = np.inf
        assert np.all(apart > 1e-3 * size)


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (lambda d: BaselineWander(deviation=d), 400),
        (lambda d: EmgNoise(deviation=d, burst=None), 8),
        (lambda d: PowerlineNoise(deviation=d, harmonics=(1.0,)), 600),
        (lambda d: RandomWander(deviation=d, noise=(0.0, 0.0)), 600),
    ],
    ids=["wander", "emg", "powerline", "random"],
)
@pytest.mark.parametrize("rate", [125.0, 250.0])
def test_the_deviation_is_in_millivolts_over_the_leads_at_any_rate(make, batch, rate):
    noise = _noise(make((0.2, 0.2)), rate=rate, batch=batch, seconds=2.0)
    assert _root_mean_square(noise) == pytest.approx(0.2, rel=0.05)


def test_deviations_are_drawn_between_the_two_for_each_record():
    noise = _noise(EmgNoise(deviation=(0.02, 0.1), burst=None), batch=60)
    found = np.sqrt(np.square(noise).mean(axis=(1, 2)))
    assert stats.kstest(found, stats.uniform(0.02, 0.08).cdf).pvalue > 1e-3


def test_gaussian_noise_is_white_normal_and_independent_between_leads():
    noise = _noise(GaussianNoise(deviation=(0.05, 0.05)))
    assert stats.kstest(noise.ravel() / 0.05, "norm").pvalue > 1e-3
    correlation = np.corrcoef(noise.reshape(-1, 12).T) - np.eye(12)
    assert np.abs(correlation).max() < 4 / np.sqrt(8000)
    frequency, power = _spectrum(noise, 100.0)
    thirds = [power[frequency < 17].mean(), power[frequency > 33].mean()]
    assert thirds[0] == pytest.approx(thirds[1], rel=0.1)


def test_an_impulse_stays_in_its_lead_under_gaussian_noise_without_size():
    ecg = jnp.zeros((1, 100, 12)).at[0, 50, 3].set(1.0)
    same, _ = GaussianNoise(deviation=(0.0, 0.0))(KEY, ecg, rate=100.0)
    np.testing.assert_array_equal(same, ecg)


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_wander_stays_within_its_band(rate):
    transform = BaselineWander(band=(0.5, 2.0))
    frequency, power = _spectrum(_noise(transform, rate=rate, seconds=40.0), rate)
    within = (frequency > 0.5 - 0.1) & (frequency < 2.0 + 0.1)
    assert power[within].sum() > 0.999 * power.sum()
    for low in (0.5, 1.0, 1.5):
        part = (frequency >= low) & (frequency < low + 0.5)
        assert 0.2 < power[part].sum() / power.sum() < 0.5


def test_wander_does_not_repeat_within_the_record():
    noise = _noise(BaselineWander(), seconds=10.0, batch=50)
    halves = np.corrcoef(noise[:, :500].ravel(), noise[:, 500:].ravel())[0, 1]
    assert abs(halves) < 0.5


@pytest.mark.parametrize(
    "transform",
    [
        BaselineWander(),
        RandomWander(noise=(0.0, 0.0)),
        PowerlineNoise(harmonics=(1.0,)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_one_key_gives_the_same_waves_at_every_rate(transform):
    slow, fast = (_noise(transform, rate=rate) for rate in (125.0, 500.0))
    np.testing.assert_allclose(fast[:, ::4], slow, atol=2e-5)


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_shifts_are_steps_and_nothing_else(rate):
    noise = _noise(BaselineShift(deviation=(0.2, 0.2)), rate=rate, batch=200)
    change = np.abs(np.diff(noise, axis=1, prepend=0)).max(axis=2) > 1e-6
    # Two steps in ten seconds; they may fall on one sample, rarely.
    assert change.sum(axis=1).max() == 2 and change.sum(axis=1).mean() > 1.95
    place = np.nonzero(change)[1] / noise.shape[1]
    assert stats.kstest(place, "uniform").pvalue > 1e-3
    height = np.diff(noise, axis=1, prepend=0)[change]
    assert _root_mean_square(height) == pytest.approx(0.2, rel=0.1)


def test_shifts_of_short_records_fall_within_them():
    length = jnp.full((50,), 30)
    noise = _noise(BaselineShift(), batch=50, length=length)
    assert np.all(noise[:, 30:] == noise[:, 30:31])
    assert np.abs(noise[:, 29]).max(axis=1).min() > 0


@pytest.mark.parametrize(
    ("rate", "high"), [(100.0, 50.0), (250.0, 125.0), (500.0, 150.0), (1000.0, 150.0)]
)
def test_the_electromyogram_stays_within_its_band_and_fills_it(rate, high):
    noise = _noise(EmgNoise(burst=None), rate=rate)
    frequency, power = _spectrum(noise, rate)
    within = (frequency >= 20.0) & (frequency <= high)
    assert power[within].sum() > 0.995 * power.sum()
    edges = np.linspace(30.0, high - 10.0 * (high < rate / 2), 5)
    parts = [
        power[(frequency >= a) & (frequency < b)].mean()
        for a, b in itertools.pairwise(edges)
    ]
    assert max(parts) / min(parts) < 1.4


@pytest.mark.parametrize("rate", [100.0, 360.0, 1000.0])
def test_the_band_pass_is_symmetric_and_keeps_the_power_of_white_noise(rate):
    kernel = band_pass((20.0, 150.0), rate)
    np.testing.assert_allclose(kernel, kernel[::-1])
    assert len(kernel) % 2 == 1 and np.square(kernel).sum() == pytest.approx(1.0)


def test_bursts_are_bells_within_the_record():
    transform = EmgNoise(deviation=(0.1, 0.1), burst=(0.5, 0.5))
    power = np.square(_noise(transform, batch=100)).mean(axis=2)
    time = (np.arange(1000) + 0.5) / 100
    middle = (power * time).sum(axis=1) / power.sum(axis=1)
    inside = (middle > 2) & (middle < 8)
    spread = np.sqrt(
        (power * (time - middle[:, None]) ** 2).sum(axis=1) / power.sum(axis=1)
    )
    # The power's deviation is that of the amplitude, over the root of two.
    assert np.median(spread[inside]) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    assert 0.4 < inside.mean() < 0.8


@pytest.mark.parametrize("rate", [250.0, 500.0])
def test_the_mains_are_lines_at_their_harmonics_below_half_the_rate(rate):
    transform = PowerlineNoise(frequencies=(50.0,), harmonics=(1.0, 0.25, 0.5))
    frequency, power = _spectrum(_noise(transform, rate=rate, batch=400), rate)
    found = [power[abs(frequency - 50.0 * h) < 0.6].sum() for h in (1, 2, 3)]
    assert sum(found) > 0.9999 * power.sum()
    # At 250 Hz the third harmonic would fold onto the second one.
    expected = [1.0, 0.0625, 0.25 if rate > 300 else 0.0]
    np.testing.assert_allclose(np.array(found) / found[0], expected, rtol=0.25)


def test_each_record_has_one_of_the_mains_frequencies():
    noise = _noise(PowerlineNoise(harmonics=(1.0,)), rate=500.0, batch=400, seconds=1)
    power = np.abs(np.fft.rfft(noise, axis=1)).sum(axis=2) ** 2
    share = power[:, [50, 60]] / power.sum(axis=1, keepdims=True)
    assert np.all((share > 0.999) | (share < 0.001))
    assert 0.4 < (share[:, 0] > 0.5).mean() < 0.6


def test_random_wander_is_one_sinusoid_with_white_noise():
    transform = RandomWander(deviation=(0.3, 0.3), band=(0.2, 0.5), noise=(0.01, 0.01))
    noise = _noise(transform, seconds=60.0)
    # Whatever its frequency, a sinusoid obeys x[t+1] + x[t-1] = 2 cos(2 pi f) x[t].
    for row in noise:
        for lead in row.T:
            outer = lead[200:] + lead[:-200]
            cosine = (outer @ lead[100:-100]) / (lead[100:-100] @ lead[100:-100]) / 2
            frequency = np.arccos(np.clip(cosine, -1, 1)) / (2 * np.pi)
            assert 0.19 < frequency < 0.51
            rest = outer - 2 * cosine * lead[100:-100]
            expected = 0.01 * np.sqrt(2 + 4 * cosine**2)
            assert rest.std() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (PowerlineNoise(), "powerline_noise: 60 Hz is not below"),
        (BaselineWander(band=(1.0, 50.0)), "baseline_wander: 50 Hz"),
        (RandomWander(band=(1.0, 50.0)), "random_wander: 50 Hz"),
        (EmgNoise(band=(45.0, 80.0)), "emg_noise: 55 Hz"),
    ],
)
def test_frequencies_that_the_rate_cannot_hold_are_refused(transform, message):
    with pytest.raises(ValueError, match=message):
        _noise(transform, rate=100.0)


@pytest.mark.parametrize("transform", ELECTRODE_NOISE, ids=lambda x: type(x).__name__)
def test_fewer_leads_are_refused(transform):
    with pytest.raises(ValueError, match="needs the 12 leads"):
        transform(KEY, jnp.ones((2, 100, 8)), rate=100.0)
