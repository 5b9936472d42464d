"""From heartbeats to an electrocardiogram: dipole, leads, noise, sampling.

The clean signal is computed at a rate well above all its frequencies, and the noise
as a spectrum; both are then low-pass filtered and sampled at the rate asked
for through the same inverse Fourier transform. So every rate sees the same
underlying signal, band-limited as a recorder would.
"""

import functools

import numpy as np
from scipy import fft

from ecgssl_jax.data.synthetic_heart import (
    AFTER,
    BEFORE,
    CENTRE,
    VENTRICULAR,
    Heart,
    X,
)
from ecgssl_jax.data.synthetic_rhythm import DURATION, Fibrillation, Rhythm
from ecgssl_jax.leads import LEADS_FROM_ELECTRODES

# No kernel is narrower than 5 ms: beyond 200 Hz there is nothing to speak of, and
# the clean signal may be computed at any rate that folds nothing from there back.
_HIGHEST = 200.0
_FINE_RATES = (250, 300, 400)
# The transform's period, with a margin on both sides for what wraps around.
_MARGIN = 1.0
_PERIOD = DURATION + 2.0 * _MARGIN
# Beats reach outside of the period: their windows fall into this padding.
_PADDING = 2.0
_QRS_WINDOW = (-0.06, 0.30)
_SLOW_WINDOW = (-0.52, 0.80)


def check_rate(rate: float) -> int:
    """Samples in the transform's period. Raises ValueError for a rate without them."""
    if not 50.0 <= rate <= 4000.0 or (2.0 * rate) % 1.0 != 0.0:
        raise ValueError(
            f"cannot sample synthetic records at {rate} Hz; give a rate from 50 to "
            "4000 Hz in whole or half Hz, such as 100, 250, 500 or 1000"
        )
    return round(rate * _PERIOD)


def clean_ecg(
    heart: Heart,
    field: np.ndarray,
    rhythm: Rhythm,
    *,
    rate: float,
) -> np.ndarray:
    """The ECG without any noise.

    Args:
      heart: shapes of the beats.
      field: [12, 3], millivolts per unit of dipole.
      rhythm: the beats.
      rate: Hz.

    Returns:
      [T, 12] float32, millivolts.
    """
    samples = check_rate(rate)
    fine_rate = next(r for r in _FINE_RATES if r >= _HIGHEST + min(rate / 2, 200.0))
    padding = round(_PADDING * fine_rate)
    fine = round(_PERIOD * fine_rate)
    dipole = np.zeros((fine + 2 * padding, 3), np.float32)
    for kind, shape in enumerate(heart.shapes):
        beats = np.flatnonzero(rhythm.kind == kind)
        if beats.size == 0:
            continue
        onset, breathing = rhythm.onset[beats], rhythm.breathing[beats]
        # QT follows the mean of the last intervals, by Fridericia's cube root.
        before = 0.6 * rhythm.before[beats] + 0.4 * rhythm.before.mean()
        qt = heart.qtc * np.cbrt(before)
        if kind == VENTRICULAR:
            qt = qt + 0.045
        _add(dipole, fine_rate, _QRS_WINDOW, onset, breathing, shape.qrs[None])
        slow = np.concatenate([shape.p, shape.st, shape.t])
        tables = np.repeat(slow[None], len(beats), axis=0)
        tables[:, -len(shape.t) :, CENTRE] += qt[:, None]
        # A fast heart shortens P-Q a little and pushes T together.
        squeeze = np.clip(np.sqrt(qt / 0.40), 0.7, 1.1)[:, None]
        tables[:, -len(shape.t) :, BEFORE : AFTER + 1] *= squeeze[..., None]
        _add(dipole, fine_rate, _SLOW_WINDOW, onset, breathing, tables)
    dipole = dipole[padding : padding + fine]
    if rhythm.fibrillation is not None:
        dipole += _fibrillatory_waves(rhythm.fibrillation, fine_rate)
    spectrum = np.asarray(fft.rfft(dipole, axis=0))
    bins = samples // 2 + 1
    sampled = np.zeros((bins, 3), np.complex64)
    kept = min(bins, spectrum.shape[0])
    sampled[:kept] = spectrum[:kept] * (samples / fine)
    moved = _to_time(sampled, samples, rate)
    return _project(moved, field)


def _add(
    dipole: np.ndarray,
    rate: int,
    window: tuple[float, float],
    onset: np.ndarray,
    breathing: np.ndarray,
    tables: np.ndarray,
) -> None:
    """Adds kernels around every onset to `dipole`, in place.

    `tables` is [N or 1, K, 6]: each beat's kernels, or one table for all.
    """
    if tables.shape[1] == 0:
        return
    tables = tables.astype(np.float32)
    offset = (onset + (_MARGIN + _PADDING + window[0])) * rate
    first = np.ceil(offset).astype(int)
    length = round((window[1] - window[0]) * rate)
    # Seconds from each beat's onset to its window's first sample.
    start = window[0] + (first - offset) / rate
    time = start[:, None] + np.arange(length) / rate
    distance = time.astype(np.float32)[:, None, :] - tables[:, :, CENTRE, None]
    # The one of the two widths that applies gives the larger, positive, quotient.
    quotient = np.maximum(
        distance * (-1.0 / tables[:, :, BEFORE, None]),
        distance * (1.0 / tables[:, :, AFTER, None]),
    )
    np.square(quotient, out=quotient)
    quotient *= -0.5
    bells = np.exp(quotient, out=quotient)  # [N, K, length]
    # Breathing turns the heart by a few degrees and moves it under the leads.
    vectors = tables[:, :, X:] @ (
        _IDENTITY + breathing[:, None, None].astype(np.float32) * _BREATHING
    )
    waves = np.matmul(bells.transpose(0, 2, 1), vectors)
    for index, beat in zip(first, waves, strict=True):
        if index >= 0 and index + length <= len(dipole):
            dipole[index : index + length] += beat


_IDENTITY = np.eye(3, dtype=np.float32)
_BREATHING = np.array(
    [[0.02, 0.05, 0.02], [-0.05, 0.03, 0.01], [-0.02, -0.01, 0.03]], np.float32
)


def _fibrillatory_waves(f: Fibrillation, rate: int) -> np.ndarray:
    """[samples of the period, 3]: never quite periodic."""
    time = np.arange(round(_PERIOD * rate), dtype=np.float32) / rate
    wander = 1.1 * np.sin(2.0 * np.pi * f.speeds[0] * time + f.phases[0])
    wander += 0.8 * np.sin(2.0 * np.pi * f.speeds[1] * time + f.phases[1])
    swell = 1.0 + 0.45 * np.sin(np.pi * f.speeds[2] * time + f.phases[2])
    phase = 2.0 * np.pi * f.rate * time + wander
    # The sawtooth-like shape of fibrillation: a fundamental and one harmonic.
    wave = np.sin(phase + f.phases[3]) + 0.35 * np.sin(2.0 * phase + f.phases[4])
    other = np.sin(1.13 * phase + f.phases[5])
    waves = (swell * wave)[:, None] * f.main + other[:, None] * f.side
    return (f.size * waves).astype(np.float32)


def noise(
    rng: np.random.Generator, rhythm: Rhythm, *, rate: float, level: float
) -> np.ndarray:
    """What electrodes, muscles, mains and breathing add to the leads.

    Noise arises at the nine electrodes, so that the limb leads keep their sums.

    Args:
      rng: source of randomness; a lower rate uses a prefix of the same draws.
      rhythm: for its breathing, which moves the baseline.
      rate: Hz.
      level: 1 for an ordinary recording.

    Returns:
      [T, 12] float32, millivolts.
    """
    samples = check_rate(rate)
    bins = samples // 2 + 1
    amplitude = level * np.exp(rng.standard_normal((3, 9)) * _SPREAD) * _PLACE
    mains = rng.random(2)
    mains_electrodes = rng.standard_normal((2, 9))
    breath = rng.standard_normal(10)
    burst = rng.random(4)
    density = np.sqrt(_densities(samples, rate) @ np.square(amplitude))
    hum = round(50.0 * _PERIOD)
    draws = rng.standard_normal((bins, 9, 2), np.float32)
    spectrum = draws.view(np.complex64)[..., 0] * density.astype(np.float32)
    if hum < bins:
        # Most recorders keep the mains out; some do not.
        size = (
            0.0025 * np.exp(1.1 * (2.0 * mains[0] - 1.0)) * (1.0 + 6.0 * mains[1] ** 8)
        )
        spectrum[hum] += (
            size * _PERIOD / 2.0 * (mains_electrodes[0] + 1j * mains_electrodes[1])
        )
    # Spectra are in millivolts times seconds: independent of the rate until here.
    spectrum *= rate
    electrodes = _to_time(spectrum, samples, rate)
    time = np.arange(len(electrodes), dtype=np.float32) / np.float32(rate)
    if burst[0] < 0.12:
        # Some movement: more noise for a second or two.
        middle, width = DURATION * burst[1], 0.3 + burst[2]
        bump = np.exp(-0.5 * np.square((time - middle) / width))
        electrodes *= 1.0 + (1.0 + 3.0 * burst[3]) * bump[:, None]
    breathing = np.sin(
        2.0 * np.pi * rhythm.breath_rate * time + rhythm.breath_phase + breath[9]
    )
    gain = 0.012 * np.exp(0.6 * breath[8]) * breath[:9]
    electrodes += breathing[:, None] * gain.astype(np.float32)
    return _project(electrodes, LEADS_FROM_ELECTRODES)


# Spread of log amplitudes between electrodes: drift, motion, muscle.
_SPREAD = np.array([[0.55], [0.45], [0.45]])
# Arms and legs carry more muscle than the chest, and move more.
_PLACE = np.array(
    [
        [1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3],
        [1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],
        [1.0, 1.0, 1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.5],
    ]
)


@functools.lru_cache(maxsize=8)
def _densities(samples: int, rate: float) -> np.ndarray:
    """Spectral densities of drift, motion and muscle noise, [bins, 3] float64."""
    frequency = np.maximum(fft.rfftfreq(samples, 1.0 / rate), 1.0 / _PERIOD)
    drift = 0.030 / (1.0 + np.power(frequency / 0.18, 2.2))
    motion = 0.0036 / (1.0 + np.power(frequency / 3.0, 1.4)) * (frequency > 0.3)
    muscle = 0.0006 / np.sqrt(
        (1.0 + np.square(12.0 / frequency)) * (1.0 + np.power(frequency / 50.0, 4))
    )
    # A one-sided density S gives mean |spectrum|^2 = S * period / 2, half of it in
    # each of the real and the imaginary part.
    densities = np.square(np.stack([drift, motion, muscle], axis=1)) * _PERIOD / 4.0
    densities[0] = 0.0
    return densities


def _project(wave: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """[T, channels] and [12, channels] -> [T, 12]."""
    # In five pieces, each too small for BLAS to wake its threads: where several
    # workers share the cores these cost several times what they save.
    pieces = wave.reshape(5, -1, wave.shape[1]) @ leads.T.astype(np.float32)
    return pieces.reshape(-1, len(leads))


def _to_time(spectrum: np.ndarray, samples: int, rate: float) -> np.ndarray:
    """Filters a spectrum over one period and returns the record, [T, channels]."""
    wave = fft.irfft(
        spectrum * _low_pass(samples, rate)[:, None],
        n=samples,
        axis=0,
        overwrite_x=True,
    )
    first = round(_MARGIN * rate)
    return np.asarray(wave[first : first + round(DURATION * rate)], np.float32)


@functools.lru_cache(maxsize=8)
def _low_pass(samples: int, rate: float) -> np.ndarray:
    """The recorder's anti-aliasing filter: 1 up to 0.40 of the rate, 0 at 0.49."""
    share = fft.rfftfreq(samples, 1.0 / rate) / rate
    edge = np.clip((share - 0.40) / 0.09, 0.0, 1.0)
    return (0.5 + 0.5 * np.cos(np.pi * edge)).astype(np.float32)
