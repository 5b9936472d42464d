"""Stretches of a signal, [T, C]: without samples, or without anything on them."""

import numpy as np
import scipy.ndimage


def present_length(ecg: np.ndarray) -> int:
    """Samples up to the last one that any lead has; NaN where one is missing."""
    (present,) = np.nonzero(~np.isnan(ecg).all(axis=1))
    return int(present[-1]) + 1 if len(present) else 0


def gap_lengths(missing: np.ndarray) -> np.ndarray:
    """[T, C] int32: samples of the run of True that each sample is in; else 0."""
    lengths = np.zeros(missing.shape, np.int32)
    for lead in np.nonzero(missing.any(axis=0))[0]:
        edges = np.diff(missing[:, lead], prepend=False, append=False)
        for start, stop in np.flatnonzero(edges).reshape(-1, 2):
            lengths[start:stop, lead] = stop - start
    return lengths


def interpolate(ecg: np.ndarray) -> np.ndarray:
    """[T, C] with missing samples on straight lines between their neighbours.

    Ends continue the nearest sample; a lead without any sample becomes zero.
    """
    missing = np.isnan(ecg)
    if not missing.any():
        return ecg
    ecg = ecg.copy()
    time = np.arange(len(ecg))
    for lead in np.nonzero(missing.any(axis=0))[0]:
        gap = missing[:, lead]
        there = ecg[~gap, lead]
        ecg[gap, lead] = np.interp(time[gap], time[~gap], there) if there.size else 0
    return ecg


def quiet_stretches(ecg: np.ndarray, window: int, limit: float) -> np.ndarray:
    """[C] longest stretch, in samples, in which no `window` span `limit` or more.

    Zero where it would be shorter than a window.
    """
    stretches = np.zeros(ecg.shape[1], np.int64)
    if not 1 < window <= len(ecg):
        return stretches
    # Every quiet window has a quiet block of half its size: few leads have one.
    half = window // 2
    blocks = ecg[: len(ecg) // half * half].reshape(-1, half, ecg.shape[1])
    (candidates,) = np.nonzero((np.ptp(blocks, axis=1) < limit).any(axis=0))
    if len(candidates) == 0:
        return stretches
    ecg = ecg[:, candidates]
    highest = scipy.ndimage.maximum_filter1d(ecg, window, axis=0)
    lowest = scipy.ndimage.minimum_filter1d(ecg, window, axis=0)
    # The filters centre their windows; those beyond the ends are left out.
    spans = (highest - lowest)[half : half + len(ecg) - window + 1]
    runs = longest_runs(spans < limit)
    stretches[candidates] = np.where(runs > 0, runs + window - 1, 0)
    return stretches


def longest_runs(mask: np.ndarray) -> np.ndarray:
    """[C] length of the longest run of True in each column of [T, C]."""
    time = np.arange(len(mask))[:, None]
    last_false = np.maximum.accumulate(np.where(mask, -1, time), axis=0)
    return (time - last_false).max(axis=0)
