"""A baseline without a network: the logarithm of each lead's spectrum."""

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet

_BANDS = 64
_HIGHEST = 40.0  # Hz; most of an ECG's power lies below
# Added to the amplitudes: about that of a silent lead's noise.
_FLOOR = 1e-4  # mV / Hz
_RECORDS_AT_A_TIME = 512


def log_spectrum(prepared: PreparedSet, rows: np.ndarray) -> np.ndarray:
    """Log of the mean amplitude in bands of equal width up to 40 Hz, lead by lead.

    A random encoder is a strong baseline on ECGs, and so is this: what an encoder
    has learnt is what it has beyond both.

    Returns:
      [n, bands * C] float32; 64 bands, fewer where records are too short to tell
      so many apart.
    """
    frequencies = np.fft.rfftfreq(prepared.length, 1 / prepared.rate)
    used = int(np.searchsorted(frequencies, _HIGHEST))
    # The mean of a lead says nothing: the first frequency is left out.
    edges = np.unique(np.linspace(1, used, _BANDS + 1).astype(int))[:-1]
    widths = np.diff([*edges, used])[None, :, None]
    parts = []
    for start in range(0, len(rows), _RECORDS_AT_A_TIME):
        ecg = prepared.read(rows[start : start + _RECORDS_AT_A_TIME])
        ecg = ecg.astype(np.float32) * np.float32(prepared.scale)
        amplitude = np.abs(np.fft.rfft(ecg, axis=1))[:, :used] / prepared.rate
        bands = np.add.reduceat(amplitude, edges, axis=1) / widths
        parts.append(np.log(bands + _FLOOR).reshape(len(ecg), -1).astype(np.float32))
    return np.concatenate(parts)
