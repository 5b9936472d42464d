"""Synthetic 12-lead ECGs: an endless, labelled data set that needs no download.

Record k of a seed is a pure function of (seed, k): any range can be made by any
worker. The signal comes from a moving cardiac dipole seen through the leads; see
`synthetic_patient` and `synthetic_heart` for people and their hearts,
`synthetic_rhythm` for the beats, `synthetic_signal` for leads, noise and sampling.
"""

import dataclasses
import functools

import numpy as np

from ecgssl_jax.data import (
    synthetic_heart,
    synthetic_patient,
    synthetic_rhythm,
    synthetic_signal,
)
from ecgssl_jax.data.record import Record
from ecgssl_jax.data.synthetic_heart import ATRIAL, VENTRICULAR, Heart
from ecgssl_jax.data.synthetic_patient import Patient
from ecgssl_jax.data.synthetic_rhythm import Rhythm
from ecgssl_jax.leads import LEADS

LABELS = (
    "normal",
    "sinus_bradycardia",
    "sinus_tachycardia",
    "sinus_arrhythmia",
    "atrial_fibrillation",
    "atrial_premature_beats",
    "ventricular_premature_beats",
    "first_degree_av_block",
    "right_bundle_branch_block",
    "left_bundle_branch_block",
    "left_anterior_fascicular_block",
    "left_ventricular_hypertrophy",
    "low_voltage",
    "st_elevation_anterior",
    "st_elevation_inferior",
    "st_elevation_lateral",
    "old_anterior_infarct",
    "old_inferior_infarct",
    "prolonged_qt",
    "t_wave_changes",
)
FOLDS = 10

# Of every 64 consecutive records, 32 are their patient's only one, 20 come in pairs
# and 12 in threes.
_BLOCK = 64
_PATIENTS_OF_BLOCK = np.repeat(np.arange(46), [1] * 32 + [2] * 10 + [3] * 4)
_PATIENTS_PER_BLOCK = 46
# What a stream of random numbers is for, so that no two share theirs.
_SHUFFLE, _PATIENT, _RECORD = range(3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis:
    """A synthetic record and all that is true of it.

    Attributes:
      patient: the person.
      heart: the shapes and intervals of the beats.
      rhythm: the beats.
      conditions: names of the labels that hold, "normal" among them; none where
        the only finding is an axis out of the ordinary.
      clean: [T, 12] float32, millivolts: the ECG without noise.
      noise: [T, 12] float32, millivolts: what was added to it.
      report: text.
      rate: Hz.
    """

    patient: Patient
    heart: Heart
    rhythm: Rhythm
    conditions: frozenset[str]
    clean: np.ndarray
    noise: np.ndarray
    report: str
    rate: float


def synthetic_record(k: int, *, seed: int = 0, rate: float = 100.0) -> Record:
    """Record k: 12 leads, 10 s, float32 millivolts; every label is known.

    Args:
      k: index, 0 or more.
      seed: 0 or more; every seed is another population.
      rate: 50 to 4000 Hz, whole or half ones. The underlying signal is the same at
        every rate.

    Raises:
      ValueError: an index, seed or rate outside of these.
    """
    truth = synthesise(k, seed=seed, rate=rate)
    number = patient_of(k, seed=seed)
    rhythm, heart = truth.rhythm, truth.heart
    in_sinus = "atrial_fibrillation" not in truth.conditions
    attributes = {
        "age": truth.patient.age,
        "sex": "male" if truth.patient.male else "female",
        "heart_rate": round(rhythm.heart_rate, 1),
        "pr_ms": round(1000.0 * heart.pr) if in_sinus else None,
        "qrs_ms": round(1000.0 * heart.qrs),
        "qtc_ms": round(1000.0 * heart.qtc),
        "axis_degrees": round(heart.axis),
    }
    return Record(
        id=f"synthetic-{seed}-{k:07d}",
        ecg=truth.clean + truth.noise,
        rate=rate,
        leads=LEADS,
        patient=f"synthetic-{seed}-{number:07d}",
        fold=1 + number % FOLDS,
        labels={name: float(name in truth.conditions) for name in LABELS},
        text=truth.report,
        attributes=attributes,
    )


def patient_of(k: int, *, seed: int) -> int:
    """The number of the patient of record k."""
    if k < 0 or seed < 0:
        raise ValueError(f"record {k} of seed {seed}: both must be 0 or more")
    block, place = divmod(k, _BLOCK)
    return block * _PATIENTS_PER_BLOCK + int(_shuffled(seed, block)[place])


@functools.lru_cache(maxsize=4)
def _shuffled(seed: int, block: int) -> np.ndarray:
    rng = np.random.default_rng([seed, _SHUFFLE, block])
    return rng.permutation(_PATIENTS_OF_BLOCK)


@functools.lru_cache(maxsize=64)
def _patient(seed: int, number: int) -> Patient:
    return synthetic_patient.draw_patient(
        np.random.default_rng([seed, _PATIENT, number])
    )


def synthesise(k: int, *, seed: int = 0, rate: float = 100.0) -> Synthesis:
    """Record k with its ground truth; arguments as for `synthetic_record`."""
    number = patient_of(k, seed=seed)
    patient = _patient(seed, number)
    rng = np.random.default_rng([seed, _RECORD, k])
    conditions = _acute(patient, rng)
    rhythm, conditions = _draw_rhythm(patient, conditions, rng)
    heart = synthetic_heart.draw_heart(patient, conditions, rng)
    conditions = _measured(conditions, heart, rhythm)
    clean = synthetic_signal.clean_ecg(heart, patient.field, rhythm, rate=rate)
    report = _report(conditions, heart.axis, rng)
    level = float(np.exp(0.60 * rng.standard_normal()))
    # Last, as it draws more at higher rates.
    noise = synthetic_signal.noise(rng, rhythm, rate=rate, level=level)
    return Synthesis(
        patient=patient,
        heart=heart,
        rhythm=rhythm,
        conditions=conditions,
        clean=clean,
        noise=noise,
        report=report,
        rate=rate,
    )


# Conditions of a day, and how often they come.
_ACUTE = {
    "atrial_premature_beats": 0.06,
    "ventricular_premature_beats": 0.065,
    "st_elevation_anterior": 0.045,
    "st_elevation_inferior": 0.050,
    "st_elevation_lateral": 0.045,
    "prolonged_qt": 0.035,
    "t_wave_changes": 0.07,
}


# Conditions whose T waves are explained by them.
_OWN_T_WAVES = {
    "left_bundle_branch_block",
    "right_bundle_branch_block",
    "left_ventricular_hypertrophy",
    "old_anterior_infarct",
    "old_inferior_infarct",
}


def _acute(patient: Patient, rng: np.random.Generator) -> frozenset[str]:
    """The patient's lasting conditions and today's."""
    draw = rng.random(len(_ACUTE))
    today = {name for name, d in zip(_ACUTE, draw, strict=True) if d < _ACUTE[name]}
    elevations = [name for name in _ACUTE if name in today and name.startswith("st_")]
    today -= set(elevations[1:])
    if patient.conditions & {
        "left_bundle_branch_block",
        "left_ventricular_hypertrophy",
        "old_anterior_infarct",
        "old_inferior_infarct",
    }:
        # Their own ST segments would make the territory arguable.
        today -= set(elevations)
    conditions = patient.conditions | today
    if elevations or conditions & _OWN_T_WAVES:
        conditions -= {"t_wave_changes"}
    if "atrial_fibrillation" in conditions:
        conditions -= {"atrial_premature_beats", "first_degree_av_block"}
    return frozenset(conditions)


def _draw_rhythm(
    patient: Patient, conditions: frozenset[str], rng: np.random.Generator
) -> tuple[Rhythm, frozenset[str]]:
    """The beats, and the conditions with what the beats add to them."""
    uniform, normal = rng.random(3), rng.standard_normal(3)
    if "atrial_fibrillation" in conditions:
        rhythm = synthetic_rhythm.fibrillating_rhythm(
            rng,
            heart_rate=float(np.clip(88.0 * np.exp(0.24 * normal[0]), 48.0, 165.0)),
            irregularity=0.15 + 0.11 * uniform[0],
        )
    else:
        heart_rate = 72.0 * np.exp(0.14 * normal[0])
        if uniform[0] < 0.055:
            heart_rate = 101.0 + 38.0 * uniform[1] ** 1.4
        elif uniform[0] > 0.95:
            heart_rate = 59.0 - 16.0 * uniform[1] ** 1.2
        # Breathing moves young hearts most, and slow ones.
        depth = 0.026 * np.exp(0.55 * normal[1] - 0.014 * (patient.age - 50))
        if uniform[2] < 0.05:
            depth *= 3.0
        rhythm = synthetic_rhythm.sinus_rhythm(
            rng, heart_rate=float(heart_rate), arrhythmia=float(min(depth, 0.24))
        )
        if np.ptp(rhythm.rr) > 0.16:
            conditions |= {"sinus_arrhythmia"}
    if "atrial_premature_beats" in conditions:
        rhythm = synthetic_rhythm.with_atrial_beats(rhythm, rng)
    if "ventricular_premature_beats" in conditions:
        rhythm = synthetic_rhythm.with_ventricular_beats(rhythm, rng)
    return rhythm, conditions


def _measured(
    conditions: frozenset[str], heart: Heart, rhythm: Rhythm
) -> frozenset[str]:
    """Adds and removes what is defined by a measurement rather than drawn."""
    beats = rhythm.kind[rhythm.inside]
    holds = {
        "atrial_premature_beats": bool(np.any(beats == ATRIAL)),
        "ventricular_premature_beats": bool(np.any(beats == VENTRICULAR)),
        "low_voltage": heart.limb_voltage < 0.5,
        "left_ventricular_hypertrophy": heart.sokolow > 3.5
        and "left_ventricular_hypertrophy" in conditions,
    }
    if "right_bundle_branch_block" not in conditions:
        holds["left_anterior_fascicular_block"] = (
            heart.axis < -30.0 and "left_anterior_fascicular_block" in conditions
        )
    if "atrial_fibrillation" not in conditions:
        holds["sinus_bradycardia"] = rhythm.heart_rate < 60.0
        holds["sinus_tachycardia"] = rhythm.heart_rate > 100.0
    found = (conditions - set(holds)) | {name for name, true in holds.items() if true}
    if found or not _NORMAL_AXIS[0] <= heart.axis <= _NORMAL_AXIS[1]:
        return found
    return frozenset({"normal"})


# Degrees, in adults. A heart outside of it is not normal, but has no label for that.
_NORMAL_AXIS = (-30.0, 100.0)


# Wordings of each finding, the usual one first.
_WORDINGS = {
    "normal": ("normal ecg.", "otherwise normal ecg.", "within normal limits."),
    "sinus": ("sinus rhythm.", "normal sinus rhythm.", "regular sinus rhythm."),
    "left_axis": ("left axis deviation.", "axis to the left."),
    "right_axis": ("right axis deviation.", "axis to the right."),
    "sinus_bradycardia": ("sinus bradycardia.", "bradycardic sinus rhythm."),
    "sinus_tachycardia": ("sinus tachycardia.", "tachycardic sinus rhythm."),
    "sinus_arrhythmia": ("sinus arrhythmia.", "respiratory sinus arrhythmia."),
    "atrial_fibrillation": (
        "atrial fibrillation.",
        "atrial fibrillation, ventricular response irregular.",
    ),
    "atrial_premature_beats": (
        "atrial premature complexes.",
        "supraventricular extrasystoles.",
        "premature atrial beats.",
    ),
    "ventricular_premature_beats": (
        "ventricular premature complexes.",
        "ventricular extrasystoles.",
        "premature ventricular beats.",
    ),
    "first_degree_av_block": (
        "first degree av block.",
        "prolonged pr interval.",
        "av block i.",
    ),
    "right_bundle_branch_block": (
        "complete right bundle branch block.",
        "right bundle branch block.",
        "rbbb.",
    ),
    "left_bundle_branch_block": (
        "complete left bundle branch block.",
        "left bundle branch block.",
        "lbbb.",
    ),
    "left_anterior_fascicular_block": (
        "left anterior fascicular block.",
        "left axis deviation, left anterior hemiblock.",
    ),
    "left_ventricular_hypertrophy": (
        "left ventricular hypertrophy.",
        "voltage criteria for left ventricular hypertrophy.",
        "high voltages, lv hypertrophy.",
    ),
    "low_voltage": ("low voltage in limb leads.", "low qrs voltages."),
    "st_elevation_anterior": (
        "st elevation in anterior leads.",
        "anterior st elevation, consider acute infarction.",
        "acute anterior myocardial infarction.",
    ),
    "st_elevation_inferior": (
        "st elevation in inferior leads.",
        "inferior st elevation, consider acute infarction.",
        "acute inferior myocardial infarction.",
    ),
    "st_elevation_lateral": (
        "st elevation in lateral leads.",
        "lateral st elevation, consider acute infarction.",
        "acute lateral myocardial infarction.",
    ),
    "old_anterior_infarct": (
        "old anterior myocardial infarction.",
        "anterior infarct, age undetermined.",
        "poor r progression, anterior infarct possible.",
    ),
    "old_inferior_infarct": (
        "old inferior myocardial infarction.",
        "inferior infarct, age undetermined.",
        "pathological q in inferior leads.",
    ),
    "prolonged_qt": ("prolonged qt interval.", "long qtc."),
    "t_wave_changes": (
        "nonspecific t wave changes.",
        "flat t waves.",
        "t wave abnormality, consider ischemia.",
    ),
}


def _report(conditions: frozenset[str], axis: float, rng: np.random.Generator) -> str:
    """A short report: the rhythm, then the findings; most take the usual words."""
    found = [name for name in LABELS if name in conditions]
    if (
        not {"sinus_bradycardia", "sinus_tachycardia", "atrial_fibrillation"}
        & conditions
    ):
        found.insert(0, "sinus")
    if "left_anterior_fascicular_block" not in conditions:
        if axis < _NORMAL_AXIS[0]:
            found.append("left_axis")
        elif axis > _NORMAL_AXIS[1]:
            found.append("right_axis")
    if found in (["sinus_bradycardia"], ["sinus_tachycardia"]):
        found.append("normal")
    sentences = []
    for name, draw in zip(found, rng.random(len(found)), strict=True):
        wordings = _WORDINGS[name]
        # 0.7 of the draws for the first, the rest shared by the others.
        index = 0 if draw < 0.7 else 1 + int((draw - 0.7) / 0.3 * (len(wordings) - 1))
        sentences.append(wordings[index])
    return " ".join(sentences)
