"""The synthetic heart: who the patient is, what ails them, and how a beat looks.

A beat is a moving dipole, a sum of bell curves ("kernels") for the waves P, QRS,
ST and T along three axes: X to the left, Y to the feet, Z to the back (Frank). Its
mean shape follows the mean vector loop of healthy adults, its changes the
textbook criteria (Surawicz & Knilans, "Chou's Electrocardiography"; AHA/ACCF/HRS
recommendations, Circulation 119, 2009: e235-e261). Seconds and millivolts throughout.
"""

import dataclasses
import math

import numpy as np

from ecgssl_jax.data.synthetic_patient import Patient

# Columns of a table of kernels: centre, width before and after it, dipole X, Y, Z.
# Widths are standard deviations; a wave is taken to end 2 to 2.3 of them away.
CENTRE, BEFORE, AFTER, X, Y, Z = range(6)
SINUS, VENTRICULAR, ATRIAL = range(3)  # kinds of beats
_PVC, _PAC = "ventricular_premature_beats", "atrial_premature_beats"

# The normal QRS, centres and widths as shares of its duration: septum, free wall,
# base, and the terminal vector.
_NORMAL_QRS = np.array(
    [
        [0.23, 0.085, 0.085, -0.05, -0.02, -0.34],
        [0.43, 0.092, 0.092, 1.31, 0.48, 0.09],
        [0.56, 0.100, 0.110, 0.16, 0.16, 0.75],
        [0.71, 0.085, 0.100, -0.22, -0.06, 0.20],
    ]
)
# Left anterior fascicular block: first down and to the right, then up and left.
_LEFT_ANTERIOR_QRS = np.array(
    [
        [0.21, 0.080, 0.080, -0.10, 0.28, -0.18],
        [0.42, 0.092, 0.092, 1.00, -0.25, 0.05],
        [0.57, 0.105, 0.110, 0.40, -0.82, 0.50],
        [0.73, 0.090, 0.100, -0.02, -0.26, 0.25],
    ]
)
# Left bundle branch block: no septal vector, two slow humps to the left and back.
_LEFT_BUNDLE_QRS = np.array(
    [
        [0.20, 0.070, 0.080, 0.26, 0.10, 0.02],
        [0.37, 0.095, 0.100, 0.95, 0.30, 0.90],
        [0.63, 0.100, 0.100, 0.98, 0.10, 1.35],
        [0.80, 0.080, 0.080, 0.18, -0.06, 0.52],
    ]
)
# Injury vectors of the territories, and the leads (of twelve) that look at them.
_INJURY = {
    "st_elevation_anterior": ((0.15, -0.08, -0.25), (6, 7, 8, 9)),
    "st_elevation_inferior": ((-0.08, 0.35, 0.10), (1, 2, 5)),
    "st_elevation_lateral": ((0.32, -0.15, 0.06), (0, 4, 10, 11)),
}
_PRECORDIAL = slice(6, 12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One kind of beat: tables of kernels [K, 6].

    Times of `p`, `qrs` and `st` count from the onset of QRS, those of `t` from the
    end of T, which moves with the heart rate.
    """

    p: np.ndarray
    qrs: np.ndarray
    st: np.ndarray
    t: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heart:
    """A patient's heart during one record.

    Attributes:
      shapes: the beats by kind: sinus, ventricular and atrial premature.
      pr, qrs, qtc: intervals of the sinus beats, seconds; QT = qtc * RR ** (1/3).
      sokolow: S in V1 plus the taller R of V5 and V6, millivolts, without noise.
      limb_voltage: largest QRS of the limb leads, peak to peak, millivolts.
      axis: of the QRS in the frontal plane, degrees.
    """

    shapes: tuple[Shape, Shape, Shape]
    pr: float
    qrs: float
    qtc: float
    sokolow: float
    limb_voltage: float
    axis: float


def _rotation(angles: tuple[float, float, float], share: float = 1.0) -> np.ndarray:
    """[3, 3]: a share of the turns from X to Y, then X to Z, then Y to Z."""
    (c1, s1), (c2, s2), (c3, s3) = (
        (math.cos(share * angle), math.sin(share * angle)) for angle in angles
    )
    return np.array(
        [
            [c1 * c2, -s1 * c2, -s2],
            [s1 * c3 - c1 * s2 * s3, c1 * c3 + s1 * s2 * s3, -c2 * s3],
            [s1 * s3 + c1 * s2 * c3, c1 * s3 - s1 * s2 * c3, c2 * c3],
        ]
    )


def draw_heart(
    patient: Patient, conditions: frozenset[str], rng: np.random.Generator
) -> Heart:
    """The beats of one record; `conditions` are the lasting and the acute ones.

    How far a condition is developed varies from the border of its definition on.
    """
    severity = dict(zip(_GRADED, rng.beta(1.1, 1.6, len(_GRADED)), strict=True))
    qrs, duration = _qrs(patient, conditions, severity)
    qrs = _fit_voltage(patient, conditions, severity, qrs)
    st, t = _repolarisation(patient, conditions, severity, qrs, duration, rng)
    pr = patient.pr + 0.004 * float(rng.standard_normal())
    pr = float(np.clip(pr, 0.110, 0.199))
    if "first_degree_av_block" in conditions:
        pr = 0.204 + 0.11 * severity["first_degree_av_block"]
    qtc = patient.qtc + 0.6 * max(0.0, duration - 0.105)
    if "prolonged_qt" in conditions:
        qtc = 0.484 + 0.075 * severity["prolonged_qt"]
    p = _atrial(patient, pr)
    if "atrial_fibrillation" in conditions:
        p = p[:0]
    sinus = Shape(p=p, qrs=qrs, st=st, t=t)
    leads = qrs_leads(qrs, patient.field)
    net = leads.sum(axis=0)
    return Heart(
        shapes=(
            sinus,
            _ventricular(patient, rng) if _PVC in conditions else sinus,
            _premature_atrial(sinus, rng) if _PAC in conditions else sinus,
        ),
        pr=pr,
        qrs=duration,
        qtc=qtc,
        sokolow=sokolow_lyon(leads),
        limb_voltage=float(np.ptp(leads[:, :6], axis=0).max()),
        # aVF is the shorter axis of the limb leads' triangle: 2/sqrt(3).
        axis=float(np.degrees(np.arctan2(2.0 * net[5], np.sqrt(3.0) * net[0]))),
    )


_GRADED = (
    "right_bundle_branch_block",
    "left_bundle_branch_block",
    "left_anterior_fascicular_block",
    "left_ventricular_hypertrophy",
    "strain",
    "old_anterior_infarct",
    "old_inferior_infarct",
    "first_degree_av_block",
    "low_voltage",
    "prolonged_qt",
    "t_wave_changes",
    *_INJURY,
)


def _qrs(
    patient: Patient, conditions: frozenset[str], severity: dict[str, float]
) -> tuple[np.ndarray, float]:
    """Kernels of QRS and its duration."""
    duration = patient.qrs
    table = _NORMAL_QRS.copy()
    turned = 1.0
    if "left_bundle_branch_block" in conditions:
        duration = 0.127 + 0.045 * severity["left_bundle_branch_block"]
        table = _LEFT_BUNDLE_QRS.copy()
        turned = 0.5
        # In some the two humps run into one.
        table[1, AFTER] = table[2, BEFORE] = 0.095 + 0.02 * abs(patient.scatter[4, 1])
    elif "left_anterior_fascicular_block" in conditions:
        grade = 0.75 + 0.25 * severity["left_anterior_fascicular_block"]
        duration = min(0.112, duration + 0.010)
        table += grade * (_LEFT_ANTERIOR_QRS - table)
        turned = 0.35
    if "left_ventricular_hypertrophy" in conditions:
        duration = min(0.112, duration + 0.008)
        table[1:3, [X, Z]] += 0.12, 0.15
    scale = np.linalg.norm(table[:, X:], axis=1, keepdims=True)
    table[:, X:] += (0.25 + scale) * patient.scatter[:4] * (0.14, 0.09, 0.14)
    table[:, X:] = patient.size * table[:, X:] @ _rotation(patient.angles, turned).T
    _infarct(table, conditions, severity)
    table[:, :X] *= duration
    late = patient.late * patient.size
    if late and not any("bundle_branch" in name for name in conditions):
        # Incomplete right bundle branch block, a variant of the norm: a small r'.
        duration = min(0.114, duration + 0.010)
        slow = [duration - 0.027, 0.011, 0.012, -0.28 * late, 0.0, -0.42 * late]
        table = np.vstack([table, slow])
    if "right_bundle_branch_block" in conditions:
        grade = severity["right_bundle_branch_block"]
        duration = 0.124 + 0.040 * grade
        width = 0.016 + 0.006 * grade
        # The right ventricle comes last, alone: to the right and to the front.
        force = np.array([-0.48, 0.02, -0.78]) + 0.10 * patient.scatter[3]
        force *= (0.65 + 0.6 * grade) * patient.size
        table[3, X:] *= 0.3
        slow = np.array([duration - 2.25 * width, width, width, *force])
        table = np.vstack([table, slow])
    return table, duration


def _infarct(
    table: np.ndarray, conditions: frozenset[str], severity: dict[str, float]
) -> None:
    """Old infarcts: the first vectors point away from the dead wall, for >= 30 ms."""
    if "old_inferior_infarct" in conditions:
        grade = severity["old_inferior_infarct"]
        table[0, Y] = -0.24 - 0.22 * grade
        table[0, BEFORE : AFTER + 1] *= 1.0, 1.35
        table[1, Y] = min(table[1, Y], 0.6) - 0.10 - 0.25 * grade
    if "old_anterior_infarct" in conditions:
        grade = severity["old_anterior_infarct"]
        table[0, Z] = 0.18 + 0.34 * grade
        table[0, AFTER] *= 1.2
        table[1, [X, Z]] += -0.10 - 0.16 * grade, 0.14 + 0.24 * grade


def _fit_voltage(
    patient: Patient,
    conditions: frozenset[str],
    severity: dict[str, float],
    qrs: np.ndarray,
) -> np.ndarray:
    """Scales QRS to the voltages that define hypertrophy and low voltage, and keeps
    hearts without them on the other side of the limits."""
    qrs = qrs.copy()
    leads = qrs_leads(qrs, patient.field)
    limb = float(np.ptp(leads[:, :6], axis=0).max())
    sokolow = sokolow_lyon(leads)
    if "low_voltage" in conditions:
        qrs[:, X:] *= (0.49 - 0.22 * severity["low_voltage"]) / limb
    elif "left_ventricular_hypertrophy" in conditions:
        grade = severity["left_ventricular_hypertrophy"]
        # No heart grows without limit: where the leads miss it, it is not labelled.
        qrs[:, X:] *= min(2.2, (3.6 + 2.0 * grade) / sokolow)
    else:
        factor = min(1.6, max(1.0, 0.56 / limb))
        blocked = any("bundle_branch" in name for name in conditions)
        if sokolow * factor > 3.4 and not blocked:
            # Tall normal hearts bunch below the limit otherwise.
            factor = 3.4 / sokolow * (1.0 - 0.15 * abs(np.tanh(patient.scatter[4, 0])))
        qrs[:, X:] *= factor
    return qrs


def _repolarisation(
    patient: Patient,
    conditions: frozenset[str],
    severity: dict[str, float],
    qrs: np.ndarray,
    duration: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernels of ST (from the onset of QRS) and of T (from its end)."""
    mean = np.array([0.27, 0.13, -0.20]) + patient.scatter[4] * (0.06, 0.05, 0.09)
    vector = patient.t_size * _rotation(patient.angles, 0.6) @ mean
    size = np.linalg.norm(vector)
    injury = np.zeros(3)
    # The area vector of QRS, which secondary changes oppose.
    area = (qrs[:, X:] * (qrs[:, BEFORE] + qrs[:, AFTER])[:, None]).sum(axis=0)
    area /= np.linalg.norm(area) + 1e-9
    if "left_bundle_branch_block" in conditions:
        injury -= 0.20 * patient.size * area
        vector = 0.12 * vector - (0.25 + 0.6 * size) * area
    if "right_bundle_branch_block" in conditions:
        last = qrs[-1, X:] / (np.linalg.norm(qrs[-1, X:]) + 1e-9)
        vector = vector - (0.18 + 0.30 * size) * last
        injury -= 0.04 * last
    if "left_ventricular_hypertrophy" in conditions:
        strain = max(0.0, 1.35 * severity["strain"] - 0.15)
        injury -= 0.16 * strain * area
        vector = vector - strain * (0.25 + 0.9 * size) * area
    if "old_inferior_infarct" in conditions:
        vector = vector + (0.0, -0.20 * severity["old_inferior_infarct"], 0.0)
    if "old_anterior_infarct" in conditions:
        grade = severity["old_anterior_infarct"]
        vector = vector + (-0.08 * grade, 0.0, 0.32 * grade)
    early = float(rng.random())
    if patient.age < 60 and early < (0.40 if patient.male else 0.18):
        # Early repolarisation: elevation that means nothing.
        injury += (0.35 + early) * 0.45 * vector
    for name, (direction, looking) in _INJURY.items():
        if name in conditions:
            unit = patient.field @ np.asarray(direction)
            second = max(np.sort(unit[list(looking)])[-2], 0.05)
            grade = (0.11 + 0.30 * severity[name]) / second * np.asarray(direction)
            injury += grade
            vector = vector + 0.6 * grade
    vector = vector * np.exp(0.22 * rng.standard_normal())
    if "low_voltage" in conditions:
        vector = 0.6 * vector
    if "t_wave_changes" in conditions:
        # Flat at the border of the definition, inverted beyond.
        vector = (0.38 - 0.95 * severity["t_wave_changes"]) * vector
    late, tail = 0.115, 0.036
    st = np.array(
        [
            [duration + 0.012, 0.010, 0.085, *(0.75 * injury)],
            [duration + 0.085, 0.045, 0.080, *(0.45 * injury + 0.14 * vector)],
        ]
    )
    # The front of the heart recovers first, the left later: T is skewed.
    t = np.array(
        [
            [-late, 0.062, tail + 0.010, *(vector * (0.20, 0.20, 0.75))],
            [-2.1 * tail, 0.050, tail, *(vector * (0.88, 0.88, 0.42))],
        ]
    )
    return st, t


def _atrial(patient: Patient, pr: float) -> np.ndarray:
    """Kernels of P, right atrium before left, and of the atria's recovery."""
    turn = _rotation(patient.angles, 0.4)
    right = patient.p_size * turn @ (0.040, 0.075, -0.030)
    left = patient.p_size * turn @ (0.046, 0.040, 0.034)
    return np.array(
        [
            [-pr + 0.043, 0.019, 0.019, *right],
            [-pr + 0.072, 0.019, 0.020, *left],
            [-pr + 0.165, 0.045, 0.070, *(-0.16 * (right + left))],
        ]
    )


def _ventricular(patient: Patient, rng: np.random.Generator) -> Shape:
    """A ventricular premature beat: no P, broad, T against QRS."""
    duration = rng.uniform(0.135, 0.175)
    # From the right ventricle (to the left and back, as in left bundle branch
    # block) or from the left one (to the right and front); from base or apex.
    right = rng.random() < 0.6
    main = np.array([0.8, 0.0, 0.7]) if right else np.array([-0.7, 0.0, -0.8])
    main[1] = np.clip(rng.normal(0.2, 0.6), -0.9, 1.1)
    main *= rng.uniform(1.1, 1.9) * np.exp(0.5 * np.log(patient.size))
    turn = rng.normal(0.0, 0.25, (3, 3))
    first, second = main @ (np.eye(3) + turn), main @ (np.eye(3) - turn)
    qrs = np.array(
        [
            [0.35, 0.125, 0.11, *(0.75 * first)],
            [0.60, 0.110, 0.13, *(0.85 * second)],
        ]
    )
    qrs[:, :X] *= duration
    recovery = -rng.uniform(0.28, 0.42) * main
    st = np.array([[duration + 0.030, 0.022, 0.080, *(0.35 * recovery)]])
    t = np.array([[-0.085, 0.062, 0.042, *recovery]])
    return Shape(p=np.zeros((0, 6)), qrs=qrs, st=st, t=t)


def _premature_atrial(sinus: Shape, rng: np.random.Generator) -> Shape:
    """An atrial premature beat: another P, later conduction, the same QRS."""
    p = sinus.p.copy()
    p[:, X:] *= rng.uniform(-0.9, 1.2, 3)
    p[:, CENTRE] -= rng.uniform(-0.02, 0.03)
    return dataclasses.replace(sinus, p=p)


def qrs_leads(
    qrs: np.ndarray, field: np.ndarray, rate: float = 500.0, length: float = 0.24
) -> np.ndarray:
    """QRS alone, [length * rate, 12] millivolts, from its onset on."""
    time = np.arange(round(length * rate)) / rate
    distance = time[:, None] - qrs[:, CENTRE]
    width = np.where(distance < 0, qrs[:, BEFORE], qrs[:, AFTER])
    return np.exp(-0.5 * np.square(distance / width)) @ (qrs[:, X:] @ field.T)


def sokolow_lyon(qrs: np.ndarray) -> float:
    """S in V1 plus the taller R of V5 and V6, from [T, 12] of one QRS."""
    precordial = qrs[:, _PRECORDIAL]
    return float(-precordial[:, 0].min() + precordial[:, 4:].max())
