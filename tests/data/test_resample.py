import numpy as np
import pytest

from ecgssl_jax.data.resample import resample


def _tone(frequency, rate, seconds=10.0):
    time = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * frequency * time + 0.3)[:, None].astype(np.float32)


def _middle(x, rate):
    return x[round(rate) : -round(rate)]


@pytest.mark.parametrize("frequency", [51.0, 60.0, 90.0, 150.0, 249.0])
def test_a_tone_above_the_new_nyquist_frequency_disappears(frequency):
    found = resample(_tone(frequency, 500), 500, 100)
    assert np.abs(_middle(found, 100)).max() < 0.0015


@pytest.mark.parametrize(("rate", "target"), [(500, 100), (257, 100), (100, 500)])
@pytest.mark.parametrize("frequency", [1.0, 10.0, 30.0, 44.0])
def test_a_tone_below_it_keeps_amplitude_and_phase(frequency, rate, target):
    found = resample(_tone(frequency, rate), rate, target)
    expected = _tone(frequency, target)[: len(found)]
    error = _middle(found, target) - _middle(expected, target)
    assert np.abs(error).max() < 0.0015


def test_an_offset_stays_up_to_the_ends():
    found = resample(np.full((5000, 2), 3.0, np.float32), 500, 100)
    np.testing.assert_allclose(found, 3.0, atol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 999, 1000, 5003])
def test_the_length_is_rounded_up(length):
    x = np.zeros((length, 1), np.float32)
    for rate, target in ((500, 100), (257, 100), (100, 250), (100, 100)):
        found = resample(x, rate, target)
        assert len(found) == int(np.ceil(length * target / rate))


def test_the_same_rate_changes_nothing():
    x = _tone(7.0, 100)
    assert resample(x, 100, 100) is x
