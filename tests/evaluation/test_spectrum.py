from types import SimpleNamespace

import numpy as np
import pytest

from ecgssl_jax.evaluation.spectrum import log_spectrum


def prepared_set(ecg, *, rate, scale):
    return SimpleNamespace(
        rate=rate, scale=scale, length=ecg.shape[1], read=lambda rows: ecg[rows]
    )


@pytest.mark.parametrize("rate", [100.0, 500.0])
def test_a_sine_is_found_in_its_band_whatever_the_rate(rate):
    # Amplitude A over T seconds: |X(f)| = A T / 2. 10 Hz is frequency 100 of 0.1 Hz;
    # 64 bands of the 399 frequencies below 40 Hz hold 6 or 7 of them.
    seconds, amplitude = 10.0, 2.0
    time = np.arange(int(seconds * rate)) / rate
    ecg = np.zeros((3, len(time), 12), np.int16)
    ecg[1, :, 4] = np.round(amplitude * 1000 * np.sin(2 * np.pi * 10 * time))
    found = log_spectrum(prepared_set(ecg, rate=rate, scale=1e-3), np.array([2, 1]))
    bands = np.exp(found.reshape(2, 64, 12)) - 1e-4
    expected = amplitude * seconds / 2
    peak = bands[1, :, 4].argmax()
    assert peak == pytest.approx(10 / 40 * 64, abs=1)
    assert expected / 7.1 < bands[1, peak, 4] < expected / 5.9
    bands[1, peak, 4] = 0
    assert bands.max() < 1e-3


def test_short_records_have_fewer_bands():
    ecg = np.zeros((2, 100, 12), np.int16)
    found = log_spectrum(prepared_set(ecg, rate=100.0, scale=1e-3), np.arange(2))
    # 1 Hz apart: 1 to 39 Hz.
    assert found.shape == (2, 39 * 12)
