"""When the synthetic heart beats: sinus rhythm, atrial fibrillation, ectopy."""

import dataclasses
import functools

import numpy as np

from ecgssl_jax.data.synthetic_heart import ATRIAL, SINUS, VENTRICULAR

# Beats are placed in a window wider than the record (of DURATION seconds), so that
# the record shows the ends of waves whose beats lie outside.
DURATION = 10.0
_FIRST, _LAST = -2.6, 12.2
_GRID = np.arange(_FIRST, _LAST, 0.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fibrillation:
    """The atria's own waves in atrial fibrillation.

    Attributes:
      rate: Hz, about 4 to 9.
      size: millivolts.
      phases, speeds: [6] radians and [3] Hz of their slow changes.
      main, side: [3] axes of the two components.
    """

    rate: float
    size: float
    phases: np.ndarray
    speeds: np.ndarray
    main: np.ndarray
    side: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Beats around and in one record, in order.

    Attributes:
      onset: [N] seconds from the record's start to each onset of QRS.
      kind: [N] int, SINUS, VENTRICULAR or ATRIAL; conducted beats of atrial
        fibrillation are SINUS as well: they have the shape of the patient's QRS.
      before: [N] seconds, the RR interval that ends with the beat.
      breathing: [N] in -1 to 1, the phase of breathing at each beat.
      breath_rate, breath_phase: breathing is sin(2 pi rate t + phase), t in seconds.
    """

    onset: np.ndarray
    kind: np.ndarray
    before: np.ndarray
    breathing: np.ndarray
    breath_rate: float
    breath_phase: float
    fibrillation: Fibrillation | None = None

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """[N] bool: the beats whose QRS begins within the record."""
        return (self.onset >= 0.0) & (self.onset < DURATION)

    @functools.cached_property
    def rr(self) -> np.ndarray:
        """Intervals between consecutive beats within the record, seconds."""
        return np.diff(self.onset[self.inside])

    @functools.cached_property
    def heart_rate(self) -> float:
        """Mean ventricular rate within the record, beats per minute."""
        return 60.0 / float(self.rr.mean())


def sinus_rhythm(
    rng: np.random.Generator, *, heart_rate: float, arrhythmia: float
) -> Rhythm:
    """Beats of the sinus node: an integral pulse frequency model.

    Args:
      rng: source of randomness.
      heart_rate: mean, beats per minute.
      arrhythmia: relative depth at which breathing modulates the rate.
    """
    uniform = rng.random(5)
    breath_rate, phase = 0.17 + 0.16 * uniform[0], 2.0 * np.pi * uniform[1]
    drift = 0.012 * rng.standard_normal(2)
    # Breathing, Mayer waves of 0.1 Hz, and a slow trend.
    rate = (heart_rate / 60.0) * (
        1.0
        + arrhythmia * np.sin(2.0 * np.pi * breath_rate * _GRID + phase)
        + (0.008 + 0.25 * arrhythmia)
        * np.sin(2.0 * np.pi * (0.08 + 0.04 * uniform[2]) * _GRID + 6.283 * uniform[3])
        + drift[0] * (_GRID - 5.0) / 5.0
    )
    cycles = np.cumsum(rate) * 0.1 + uniform[4]
    numbers = np.arange(np.ceil(cycles[0]), cycles[-1])
    onset = np.interp(numbers, cycles, _GRID)
    onset += 0.003 * rng.standard_normal(len(onset))
    return _rhythm(onset, np.full(len(onset), SINUS), breath_rate, phase)


def fibrillating_rhythm(
    rng: np.random.Generator, *, heart_rate: float, irregularity: float
) -> Rhythm:
    """Ventricular beats in atrial fibrillation: independent intervals.

    Args:
      rng: source of randomness.
      heart_rate: mean, beats per minute.
      irregularity: standard deviation of the intervals over their mean.
    """
    mean = 60.0 / heart_rate
    shortest = min(0.55 * mean, 0.30)
    # A gamma distribution above the refractory period of the AV node.
    shape = ((mean - shortest) / (irregularity * mean)) ** 2
    count = int(2.0 * (_LAST - _FIRST) / mean) + 4
    intervals = shortest + rng.gamma(shape, (mean - shortest) / shape, count)
    onset = _FIRST - intervals[0] * rng.random() + np.cumsum(intervals)
    onset = onset[onset < _LAST]
    breath_rate, phase = 0.17 + 0.16 * rng.random(), 2.0 * np.pi * rng.random()
    return _rhythm(
        onset,
        np.full(len(onset), SINUS),
        breath_rate,
        phase,
        _draw_fibrillation(rng),
    )


def _draw_fibrillation(rng: np.random.Generator) -> Fibrillation:
    """F waves strongest over the right atrium, hence in V1."""
    return Fibrillation(
        rate=float(np.clip(rng.normal(6.3, 0.9), 4.2, 8.8)),
        size=0.055 * float(np.exp(0.45 * rng.standard_normal())),
        phases=2.0 * np.pi * rng.random(6),
        speeds=rng.uniform(0.15, 0.9, 3),
        main=np.array([-0.35, 0.45, -0.85]) + rng.normal(0.0, 0.25, 3),
        side=np.array([0.30, 0.35, 0.15]),
    )


def with_ventricular_beats(rhythm: Rhythm, rng: np.random.Generator) -> Rhythm:
    """Replaces one or more beats by ventricular ones; each comes early and is
    followed by a compensatory pause (the sinus node goes on undisturbed)."""
    onset, kind = rhythm.onset.copy(), rhythm.kind.copy()
    coupling = rng.uniform(0.50, 0.72)
    for index in _choose(rhythm, rng, most=4):
        early = np.clip(coupling + rng.normal(0.0, 0.015), 0.45, 0.78)
        onset[index] = onset[index - 1] + early * (onset[index] - onset[index - 1])
        kind[index] = VENTRICULAR
    return _rhythm(
        onset, kind, rhythm.breath_rate, rhythm.breath_phase, rhythm.fibrillation
    )


def with_atrial_beats(rhythm: Rhythm, rng: np.random.Generator) -> Rhythm:
    """Makes one or more beats atrial premature ones; each resets the sinus node, so
    that all later beats come earlier."""
    onset, kind = rhythm.onset.copy(), rhythm.kind.copy()
    for index in _choose(rhythm, rng, most=3):
        interval = onset[index] - onset[index - 1]
        advance = (1.0 - rng.uniform(0.58, 0.80)) * interval
        onset[index] -= advance
        onset[index + 1 :] -= advance - rng.uniform(0.02, 0.12) * interval
        kind[index] = ATRIAL
    while onset[-1] < _LAST - 0.6:  # refill what moved out of the record's end
        onset = np.append(onset, 2.0 * onset[-1] - onset[-2])
        kind = np.append(kind, SINUS)
    return _rhythm(
        onset, kind, rhythm.breath_rate, rhythm.breath_phase, rhythm.fibrillation
    )


def _choose(rhythm: Rhythm, rng: np.random.Generator, *, most: int) -> list[int]:
    """Indices of sinus beats well inside the record, no two of them adjacent; the
    first is sure to stay inside when the others move it forward."""
    candidates = np.flatnonzero(
        (rhythm.onset > 0.9 + 60.0 / 45.0)
        & (rhythm.onset < DURATION - 0.8)
        & (rhythm.kind == SINUS)
        & (np.roll(rhythm.kind, 1) == SINUS)
        & (np.roll(rhythm.kind, -1) == SINUS)
    )
    chosen: list[int] = []
    if rng.random() < 0.12 and most > 3:  # bigeminy
        return [int(i) for i in candidates[:: 2 if rng.random() < 0.6 else 3]]
    for index in rng.permutation(candidates)[: int(rng.integers(1, most + 1))]:
        if all(abs(int(index) - other) > 1 for other in chosen):
            chosen.append(int(index))
    return sorted(chosen)


def _rhythm(
    onset: np.ndarray,
    kind: np.ndarray,
    breath_rate: float,
    breath_phase: float,
    fibrillation: Fibrillation | None = None,
) -> Rhythm:
    before = np.diff(onset, prepend=2.0 * onset[0] - onset[1])
    return Rhythm(
        onset=onset,
        kind=kind,
        before=before,
        breathing=np.sin(2.0 * np.pi * breath_rate * onset + breath_phase),
        breath_rate=float(breath_rate),
        breath_phase=float(breath_phase),
        fibrillation=fibrillation,
    )
