"""The synthetic patients: their bodies, and the conditions that stay with them."""

import dataclasses
import math

import numpy as np

# Leads from Frank's X, Y, Z: Dower, Machado & Osborne, Clin. Cardiol. 3:87 (1980),
# with leads I and V1 scaled to the sizes that they have beside the others in PTB-XL.
LEAD_FIELD = np.array(
    [
        [0.720, -0.220, 0.080],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.430, 0.130, -0.760],  # V1
        [0.044, 0.164, -1.387],  # V2
        [0.882, 0.098, -1.277],  # V3
        [1.213, 0.127, -0.601],  # V4
        [1.125, 0.127, -0.086],  # V5
        [0.831, 0.076, 0.230],  # V6
    ]
)
# All twelve leads from I, II, V1-V6: Einthoven's and Goldberger's equations.
TWELVE_FROM_EIGHT = np.zeros((12, 8))
TWELVE_FROM_EIGHT[0, 0] = TWELVE_FROM_EIGHT[1, 1] = 1.0
TWELVE_FROM_EIGHT[2, :2] = -1.0, 1.0
TWELVE_FROM_EIGHT[3, :2] = -0.5, -0.5
TWELVE_FROM_EIGHT[4, :2] = 1.0, -0.5
TWELVE_FROM_EIGHT[5, :2] = -0.5, 1.0
TWELVE_FROM_EIGHT[6:, 2:] = np.eye(6)

# Spread of every lead's direction between people, [8, 1].
_STRAY = 0.09 * np.linalg.norm(LEAD_FIELD, axis=1, keepdims=True)


# Lasting conditions: shares at the ages of 30 and 80.
_LASTING = {
    "atrial_fibrillation": (0.01, 0.12),
    "right_bundle_branch_block": (0.025, 0.075),
    "left_bundle_branch_block": (0.015, 0.070),
    "left_anterior_fascicular_block": (0.02, 0.09),
    "left_ventricular_hypertrophy": (0.04, 0.12),
    "old_anterior_infarct": (0.01, 0.08),
    "old_inferior_infarct": (0.01, 0.09),
    "first_degree_av_block": (0.02, 0.10),
    "low_voltage": (0.02, 0.06),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patient:
    """What the records of one person share.

    Attributes:
      age: years.
      male: sex.
      conditions: lasting ones, names of labels.
      field: [12, 3], millivolts per unit of dipole in every lead.
      angles: radians, turns of the heart against the mean person's: from X to Y,
        from X to Z, from Y to Z.
      size, t_size, p_size: amplitudes of QRS, T and P against the mean person's.
      scatter: [5, 3], individual departures of each QRS kernel and of T.
      late: size of a late force of the right ventricle, 0 in most.
      qrs, pr, qtc: durations, seconds, before any conduction disorder.
    """

    age: int
    male: bool
    conditions: frozenset[str]
    field: np.ndarray
    angles: tuple[float, float, float]
    size: float
    t_size: float
    p_size: float
    scatter: np.ndarray
    late: float
    qrs: float
    pr: float
    qtc: float


def draw_patient(rng: np.random.Generator) -> Patient:
    """A person from a hospital's population."""
    age = int(np.clip(rng.normal(59.0, 18.0), 18, 94))
    male = bool(rng.random() < 0.52)
    old = np.clip((age - 30) / 50.0, 0.0, 1.2)
    draw = dict(zip(_LASTING, rng.random(len(_LASTING)), strict=True))
    conditions = {
        name
        for name, (low, high) in _LASTING.items()
        if draw[name] < low + (high - low) * old
    }
    if "left_bundle_branch_block" in conditions:
        # The block hides or contradicts what these would show.
        conditions -= {
            "right_bundle_branch_block",
            "left_anterior_fascicular_block",
            "left_ventricular_hypertrophy",
            "old_anterior_infarct",
            "old_inferior_infarct",
            "low_voltage",
        }
    if "left_ventricular_hypertrophy" in conditions:
        conditions -= {"low_voltage", "right_bundle_branch_block"}
    normal = rng.standard_normal(64)
    field = LEAD_FIELD * (1.0 + 0.11 * normal[:8, None])
    field += _STRAY * normal[8:32].reshape(8, 3)
    # Variants of the norm that resemble bundle branch block.
    variant = rng.random()
    qrs = 0.089 + 0.004 * male + 0.008 * normal[53]
    if variant > 0.95:
        qrs += 0.022
    # Hearts turn to the left with age and girth.
    frontal = math.radians(max(-20.0, 9.0 - 17.0 * old + 14.0 * normal[32]))
    across, sagittal = math.radians(17.0 * normal[33]), math.radians(9.0 * normal[34])
    return Patient(
        age=age,
        male=male,
        conditions=frozenset(conditions),
        field=TWELVE_FROM_EIGHT @ field,
        angles=(frontal, across, sagittal),
        size=float(np.exp(0.06 + 0.06 * male - 0.10 * old + 0.21 * normal[35])),
        t_size=float(np.exp(0.12 + 0.15 * male - 0.35 * old + 0.42 * normal[36])),
        p_size=float(np.exp(0.28 * normal[37])),
        scatter=normal[38:53].reshape(5, 3),
        late=0.5 + float(rng.random()) if variant < 0.06 else 0.0,
        qrs=float(np.clip(qrs, 0.072, 0.116)),
        pr=float(np.clip(0.150 + 0.012 * old + 0.019 * normal[54], 0.112, 0.198)),
        qtc=float(np.clip(0.412 - 0.010 * male + 0.016 * normal[55], 0.370, 0.452)),
    )
