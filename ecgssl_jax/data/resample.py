"""Resampling to another sampling rate, free of aliasing and of delay."""

import functools
from fractions import Fraction

import numpy as np
import scipy.signal

# Rates are ratios of small integers (500:100, 257:100); anything finer than this
# is a clock error that no signal of some seconds shows.
_LARGEST_DENOMINATOR = 10_000
# The filter passes up to 90 % of the lower Nyquist frequency (45 Hz at 100 Hz:
# more than the 40 Hz of a monitor's ECG) and stops from that frequency on.
_TRANSITION = 0.1
_ATTENUATION_DB = 60.0


def resample(ecg: np.ndarray, rate: float, target: float) -> np.ndarray:
    """The signal at another rate: a polyphase linear-phase FIR filter.

    What lies above the lower of the two Nyquist frequencies is removed first, to a
    thousandth. The ends are extended by the line through the first and last sample,
    so that an offset makes no step there.

    Args:
      ecg: [T, C] float, finite.
      rate: its sampling rate, Hz.
      target: the rate wanted, Hz.

    Returns:
      [ceil(T * target / rate), C] of the same dtype.
    """
    ratio = _ratio(rate, target)
    if ratio == 1 or len(ecg) == 0:
        return ecg
    up, down = ratio.numerator, ratio.denominator
    coefficients = _lowpass(up, down).astype(ecg.dtype)
    return np.asarray(
        scipy.signal.resample_poly(
            ecg, up, down, axis=0, window=coefficients, padtype="line"
        )
    )


@functools.lru_cache(maxsize=16)
def _lowpass(up: int, down: int) -> np.ndarray:
    """Symmetric FIR filter at `up` times the source's rate, of unit gain at zero."""
    # In units of the Nyquist frequency of the upsampled signal.
    edge = 1.0 / max(up, down)
    count, beta = scipy.signal.kaiserord(_ATTENUATION_DB, _TRANSITION * edge)
    middle = edge * (1 - _TRANSITION / 2)
    count |= 1  # odd: a delay of whole samples, which resample_poly takes back
    time = np.arange(count) - count // 2
    coefficients = np.sinc(middle * time) * np.kaiser(count, float(beta))
    return coefficients / coefficients.sum()


def _ratio(rate: float, target: float) -> Fraction:
    if not (rate > 0 and target > 0):
        raise ValueError(f"sampling rates must be positive, not {rate} and {target}")
    ratio = Fraction(target).limit_denominator(10**6) / Fraction(
        rate
    ).limit_denominator(10**6)
    return ratio.limit_denominator(_LARGEST_DENOMINATOR)
