"""What the quality pass says of recordings, and where it speaks up."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ecgssl_jax.leads import LEADS

KEEP, REPAIR, REJECT = "keep", "repair", "reject"
# Findings that are reported and kept unless `Thresholds.reject` names them.
OPTIONAL = ("short", "flat stretch", "clipped lead", "limb leads", "equal ranges")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where a check speaks up. The shares in brackets are PTB-XL's at 100 Hz.

    Attributes:
      max_gap: longest run of missing samples that is interpolated, seconds. A
        quarter of a narrow QRS complex (80 ms): a longer one can hide a wave.
      max_missing: largest share of missing samples that is interpolated.
      min_length: shortest usable piece, as a share of the window.
      flat: a lead with less than this between its extremes is flat, mV. An
        electrode's noise alone is about as large (smallest real lead: 0.13).
      flat_stretch: a lead that is flat for this long is reported, seconds: the
        pause between two beats at 30 per minute.
      flat_share: flat for more than this share of the record is a flat lead.
      offset: a median farther from zero is an electrode's offset and subtracted,
        mV. Filters take it out of most recordings (largest but for a loose
        electrode: 9.8).
      amplitude: largest plausible deviation from a lead's median, mV. QRS
        complexes reach about 8 mV in extreme hypertrophy.
      amplitude_share: of the samples that may exceed it, as pacing spikes do
        (0.001 % of leads, all of them with an electrode's drift).
      clip_level: plateaus at the extremes count from this deviation on, mV. No
        electrocardiograph's range is smaller (IEC 60601-2-25 asks for 5), while
        quiet baselines nearer to zero are plateaus by nature.
      clip_seconds: time at an extreme, in runs of two samples or more, from
        which on a lead is clipped: a few R waves cut off (none; broad drifts
        reach 0.05).
      limb_share: largest disagreement between limb leads, as a share of their
        amplitude, both root mean square. Six leads are two measurements:
        I + III = II, and so on (0.08 % exceed it; permuted leads give 1 or more).
      limb_level: disagreement below this is noise, mV.
      equal_ranges: when the ranges of all leads agree to this share, each lead
        was scaled by itself, and its amplitude is lost.
      min_leads: leads that must remain.
      min_lead_share: share of the record's own leads that must remain.
      reject: findings out of OPTIONAL that reject a record.
    """

    max_gap: float = 0.02
    max_missing: float = 0.05
    min_length: float = 0.5
    flat: float = 0.02
    flat_stretch: float = 2.0
    flat_share: float = 0.5
    offset: float = 10.0
    amplitude: float = 10.0
    amplitude_share: float = 0.01
    clip_level: float = 1.0
    clip_seconds: float = 0.1
    limb_share: float = 0.5
    limb_level: float = 0.05
    equal_ranges: float = 1e-3
    min_leads: int = 1
    min_lead_share: float = 0.5
    reject: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.min_leads <= len(LEADS):
            raise ValueError(
                f"min_leads must be 0 to {len(LEADS)}, found {self.min_leads}"
            )
        unknown = sorted(set(self.reject) - set(OPTIONAL))
        if unknown:
            raise ValueError(
                f"cannot reject {', '.join(map(repr, unknown))}; findings that are "
                f"kept unless asked otherwise are {', '.join(map(repr, OPTIONAL))}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found in a record, and what was decided.

    Attributes:
      record: its id.
      finding: the kind, such as "flat lead".
      decision: KEEP (only reported), REPAIR (something is changed or left out)
        or REJECT (the window is left out).
      detail: the figures behind it.
      offset: start of the window it concerns, in samples of the prepared rate.
      leads: leads that must be marked missing.
    """

    record: str
    finding: str
    decision: str
    detail: str
    offset: int = 0
    leads: tuple[str, ...] = ()


def write_quality(path: Path, findings: Sequence[Finding]) -> None:
    """Writes quality.csv: one line for each finding."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["record", "finding", "decision", "detail", "offset"])
        for x in findings:
            writer.writerow([x.record, x.finding, x.decision, x.detail, x.offset])
