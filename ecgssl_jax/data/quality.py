"""The quality pass: what is wrong with a recording, and what to do about it.

Each check is a function of a record and of `Thresholds`, and returns findings.
`assess` runs those that judge a window in order; from `check_amplitude` on they
expect a record without gaps whose leads have a median of zero. Nothing is changed
here: a finding names the leads that must not be used, or rejects the record, and the
caller obeys.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ecgssl_jax.data.findings import KEEP, REJECT, REPAIR, Finding, Thresholds
from ecgssl_jax.data.record import Record
from ecgssl_jax.data.stretches import interpolate, present_length, quiet_stretches
from ecgssl_jax.leads import LEADS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The findings of a record, and what is left of it.

    Attributes:
      findings: all of them, up to the first REJECT, which rejects the record.
      leads: the leads that can be used.
    """

    findings: tuple[Finding, ...]
    leads: tuple[str, ...]

    @property
    def rejected(self) -> bool:
        return any(finding.decision == REJECT for finding in self.findings)


def assess(
    record: Record, gaps: np.ndarray, seconds: float, thresholds: Thresholds
) -> Verdict:
    """Judges a record, or the window of one, that should last `seconds`.

    Args:
      record: what is to be judged; NaN where a sample is missing.
      gaps: [T, C] `gap_lengths`; a window's gaps may go on beyond its edges.
      seconds: the length it should have.
      thresholds: where a check speaks up.
    """
    findings = []
    for finding in _check(record, gaps, seconds, thresholds):
        findings.append(finding)
        # What a rejected record has besides is not worth the confusion.
        if finding.decision == REJECT:
            break
    leads = without_leads(record, findings).leads
    return Verdict(findings=tuple(findings), leads=leads)


def _check(
    record: Record, gaps: np.ndarray, seconds: float, thresholds: Thresholds
) -> Iterator[Finding]:
    had = len(record.leads)
    yield from check_length(record, seconds, thresholds)
    yield from (missing := check_missing_leads(record))
    yield from check_gaps(record, gaps, thresholds)
    record = without_leads(record, missing)
    record = dataclasses.replace(record, ecg=centre(record.ecg))
    yield from (implausible := check_amplitude(record, thresholds))
    record = without_leads(record, implausible)
    yield from (flat := check_flat(record, thresholds))
    record = without_leads(record, flat)
    yield from check_lead_count(record, had, thresholds)
    yield from check_clipping(record, thresholds)
    yield from check_limb_leads(record, thresholds)
    yield from check_ranges(record, thresholds)


def without_leads(record: Record, findings: Sequence[Finding]) -> Record:
    """The record without the leads that findings name."""
    gone = {lead for finding in findings for lead in finding.leads}
    if not gone:
        return record
    keep = [i for i, lead in enumerate(record.leads) if lead not in gone]
    return dataclasses.replace(
        record, ecg=record.ecg[:, keep], leads=tuple(record.leads[i] for i in keep)
    )


def centre(ecg: np.ndarray) -> np.ndarray:
    """[T, C] without gaps, and without each lead's median: its electrode's offset."""
    ecg = interpolate(ecg)
    return ecg - np.median(ecg, axis=0)


def check_end(record: Record) -> list[Finding]:
    """An end that no lead has: the record is shortened."""
    length, total = present_length(record.ecg), len(record.ecg)
    if length == total:
        return []
    detail = f"{(total - length) / record.rate:.2f} s without any sample at the end"
    return [_finding(record, "missing end", REPAIR, detail)]


def check_length(
    record: Record, seconds: float, thresholds: Thresholds
) -> list[Finding]:
    """Shorter than expected: padded if at least a share of it is there."""
    found = len(record.ecg) / record.rate
    # A length in seconds need not be one in whole samples.
    if len(record.ecg) > seconds * record.rate - 1:
        return []
    detail = f"{found:.2f} s, expected {seconds:g} s"
    if found < thresholds.min_length * seconds:
        return [_finding(record, "too short", REJECT, detail)]
    return [_optional(record, "short", detail, thresholds)]


def check_missing_leads(record: Record) -> list[Finding]:
    """Leads of the record without a single sample."""
    empty = np.isnan(record.ecg).all(axis=0)
    if not empty.any():
        return []
    leads = _leads(record, empty)
    detail = f"no sample in {', '.join(leads)}"
    return [_finding(record, "missing lead", REPAIR, detail, leads)]


def check_gaps(
    record: Record, gaps: np.ndarray, thresholds: Thresholds
) -> list[Finding]:
    """Runs of missing samples: short ones are interpolated, long ones reject.

    Leads without a single sample are left to `check_missing_leads`.
    """
    missing = gaps > 0
    partly = missing.any(axis=0) & ~missing.all(axis=0)
    if not partly.any():
        return []
    longest = gaps[:, partly].max() / record.rate
    share = missing[:, partly].mean(axis=0).max()
    detail = (
        f"{missing[:, partly].sum()} samples missing in "
        f"{', '.join(_leads(record, partly))}, at most {1000 * longest:.0f} ms in a "
        f"row, {share:.1%} of a lead"
    )
    # Half a sample of tolerance: a rate need not divide the limit.
    too_long = longest > thresholds.max_gap + 0.5 / record.rate
    if too_long or share > thresholds.max_missing:
        return [_finding(record, "long gap", REJECT, detail)]
    return [_finding(record, "short gap", REPAIR, detail)]


def check_amplitude(record: Record, thresholds: Thresholds) -> list[Finding]:
    """Amplitudes that no heart makes: a unit mistaken, or a loose electrode."""
    if not record.leads:
        return []
    spans = np.ptp(record.ecg, axis=0)
    if 0 < spans.max() < thresholds.flat:
        detail = (
            f"no lead spans more than {1000 * spans.max():.3g} uV"
            f"{_unit_hint(float(np.median(spans)))}"
        )
        return [_finding(record, "implausible amplitude", REJECT, detail)]
    deviation = np.abs(record.ecg)
    beyond = (deviation > thresholds.amplitude).mean(axis=0)
    high = beyond > thresholds.amplitude_share
    if not high.any():
        return []
    leads = _leads(record, high)
    detail = (
        f"{deviation.max():.4g} mV from the median, more than "
        f"{thresholds.amplitude:g} mV for {beyond.max():.1%} of the time, in "
        f"{', '.join(leads)}"
    )
    if high.sum() > len(record.leads) / 2:
        # Half of the deviations' range tells the size better than a peak does.
        detail += _unit_hint(float(np.median(spans)) / 2)
        return [_finding(record, "implausible amplitude", REJECT, detail)]
    return [_finding(record, "implausible amplitude", REPAIR, detail, leads)]


def _unit_hint(size: float) -> str:
    """Suggests the unit in which an amplitude would be that of an ECG."""
    # Between a low-voltage lead and hypertrophy.
    for factor, name in ((1e-3, "microvolts"), (1e-6, "nanovolts"), (1e3, "volts")):
        if 0.05 <= size * factor <= 10:
            return f"; are these {name}?"
    return ""


def check_flat(record: Record, thresholds: Thresholds) -> list[Finding]:
    """Leads that stand still: an electrode off, or a channel not connected."""
    if not record.leads:
        return []
    spans = np.ptp(record.ecg, axis=0)
    window = round(thresholds.flat_stretch * record.rate)
    runs = quiet_stretches(record.ecg, window, thresholds.flat) / record.rate
    total = len(record.ecg) / record.rate
    flat = (spans < thresholds.flat) | (runs > thresholds.flat_share * total)
    findings = []
    if flat.any():
        leads = _leads(record, flat)
        detail = "; ".join(
            f"{lead} spans {1000 * span:.3g} uV, flat for {run:.2f} s"
            for lead, span, run in zip(leads, spans[flat], runs[flat], strict=True)
        )
        findings.append(_finding(record, "flat lead", REPAIR, detail, leads))
    stretch = ~flat & (runs > 0)
    if stretch.any():
        names = ", ".join(_leads(record, stretch))
        detail = f"{names} flat for {runs[stretch].max():.2f} s"
        findings.append(_optional(record, "flat stretch", detail, thresholds))
    return findings


def check_lead_count(record: Record, had: int, thresholds: Thresholds) -> list[Finding]:
    """Too few leads left of those that the record `had`."""
    needed = max(thresholds.min_leads, int(np.ceil(thresholds.min_lead_share * had)))
    if len(record.leads) >= needed:
        return []
    detail = f"{len(record.leads)} of {had} leads can be used, needed are {needed}"
    return [_finding(record, "too few leads", REJECT, detail)]


def check_clipping(record: Record, thresholds: Thresholds) -> list[Finding]:
    """Plateaus at a lead's extremes, where an amplifier or converter gave out."""
    if not record.leads:
        return []
    ecg = record.ecg
    seconds = np.zeros(ecg.shape[1])
    for extreme in (ecg.max(axis=0), ecg.min(axis=0)):
        at_rail = ecg == extreme
        pairs = (at_rail[1:] & at_rail[:-1]).sum(axis=0) / record.rate
        far = np.abs(extreme) >= thresholds.clip_level
        seconds = np.maximum(seconds, np.where(far, pairs, 0))
    clipped = seconds >= thresholds.clip_seconds
    if not clipped.any():
        return []
    leads = _leads(record, clipped)
    detail = f"{', '.join(leads)} at an extreme for up to {seconds.max():.2f} s"
    return [_optional(record, "clipped lead", detail, thresholds)]


def check_limb_leads(record: Record, thresholds: Thresholds) -> list[Finding]:
    """Limb leads that contradict each other.

    Einthoven: I + III = II. Goldberger: aVR = -(I + II) / 2, aVL = (I - III) / 2,
    aVF = (II + III) / 2. Leads named wrongly, permuted, inverted, recorded one
    after the other or scaled one by one break these.
    """
    equations = _LIMB_WEIGHTS[:, [LEADS.index(lead) for lead in record.leads]]
    involved = equations != 0
    # With weights w and moments M, the mean square of w . x is w' M w.
    ecg = record.ecg.astype(np.float64)
    moments = ecg.T @ ecg / len(ecg)
    error = np.sqrt(np.maximum(((equations @ moments) * equations).sum(axis=1), 0))
    size = np.sqrt(involved @ np.diag(moments) / 3)
    broken = (
        (involved.sum(axis=1) == 3)
        & (error > thresholds.limb_level)
        & (error > thresholds.limb_share * size)
    )
    if not broken.any():
        return []
    worst = int(np.argmax(np.where(broken, error / np.maximum(size, 1e-9), 0)))
    detail = (
        f"{list(_LIMB_EQUATIONS)[worst]} is off by {error[worst]:.3f} mV rms, "
        f"{error[worst] / size[worst]:.0%} of these leads"
    )
    return [_optional(record, "limb leads", detail, thresholds)]


_LIMB_EQUATIONS = {
    "I - II + III = 0": {"I": 1.0, "II": -1.0, "III": 1.0},
    "aVR + (I + II) / 2 = 0": {"aVR": 1.0, "I": 0.5, "II": 0.5},
    "aVL - (I - III) / 2 = 0": {"aVL": 1.0, "I": -0.5, "III": 0.5},
    "aVF - (II + III) / 2 = 0": {"aVF": 1.0, "II": -0.5, "III": -0.5},
    "aVR + aVL + aVF = 0": {"aVR": 1.0, "aVL": 1.0, "aVF": 1.0},
}
_LIMB_WEIGHTS = np.array(
    [[row.get(lead, 0.0) for lead in LEADS] for row in _LIMB_EQUATIONS.values()]
)


def check_ranges(record: Record, thresholds: Thresholds) -> list[Finding]:
    """Leads that all span the same: scaled one by one, no longer in millivolts."""
    if len(record.leads) < 3:
        return []
    spans = np.ptp(record.ecg, axis=0)
    if np.ptp(spans) > thresholds.equal_ranges * spans.max():
        return []
    detail = (
        f"every lead spans {spans.max():.4g} mV: each was scaled by itself, and the "
        "amplitudes are lost"
    )
    return [_optional(record, "equal ranges", detail, thresholds)]


def _leads(record: Record, chosen) -> tuple[str, ...]:
    return tuple(np.array(record.leads)[chosen].tolist())


def _finding(record, finding, decision, detail, leads=()) -> Finding:
    return Finding(
        record=record.id,
        finding=finding,
        decision=decision,
        detail=detail,
        leads=leads,
    )


def _optional(record, finding, detail, thresholds) -> Finding:
    decision = REJECT if finding in thresholds.reject else KEEP
    return _finding(record, finding, decision, detail)
