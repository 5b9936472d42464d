import dataclasses

import numpy as np
import pytest

from ecgssl_jax.data import quality
from ecgssl_jax.data.findings import KEEP, REJECT, REPAIR, Thresholds
from ecgssl_jax.data.stretches import gap_lengths
from ecgssl_jax.leads import LEADS


@pytest.fixture
def judge(make_record):
    """Changes the signal of a clean record, and returns its verdict."""

    def judge(change=lambda ecg: ecg, *, rate=100.0, seconds=10.0, **thresholds):
        record = make_record(rate=rate, seconds=seconds)
        ecg = record.ecg.copy()
        changed = change(ecg)
        record = dataclasses.replace(record, ecg=ecg if changed is None else changed)
        gaps = gap_lengths(np.isnan(record.ecg))
        return quality.assess(record, gaps, 10.0, Thresholds(**thresholds))

    return judge


def _kinds(verdict):
    return [(finding.finding, finding.decision) for finding in verdict.findings]


@pytest.mark.parametrize("rate", [100.0, 250.0, 500.0])
def test_a_clean_record_has_no_findings(judge, rate):
    verdict = judge(rate=rate)
    assert verdict.findings == ()
    assert verdict.leads == LEADS


def test_a_short_gap_is_repaired(judge):
    def change(ecg):
        ecg[100:102, 3] = np.nan

    verdict = judge(change)
    assert _kinds(verdict) == [("short gap", REPAIR)]
    assert "2 samples missing in aVR, at most 20 ms" in verdict.findings[0].detail


def test_a_long_gap_rejects(judge):
    def change(ecg):
        ecg[100:110, 3] = np.nan

    assert _kinds(judge(change)) == [("long gap", REJECT)]


def test_many_short_gaps_reject(judge):
    def change(ecg):
        ecg[::10, 3] = np.nan

    assert _kinds(judge(change)) == [("long gap", REJECT)]


def test_a_gap_counts_in_seconds_not_samples(judge):
    def change(ecg):
        ecg[100:110, 3] = np.nan

    assert _kinds(judge(change, rate=500.0)) == [("short gap", REPAIR)]


def test_an_end_that_no_lead_has_is_found(make_record):
    record = make_record()
    assert quality.check_end(record) == []
    record.ecg[800:, :11] = np.nan
    assert quality.check_end(record) == []
    record.ecg[800:] = np.nan
    (finding,) = quality.check_end(record)
    assert (finding.finding, finding.decision) == ("missing end", REPAIR)
    assert "2.00 s without any sample" in finding.detail


def test_a_gap_counts_with_what_lies_beyond_the_edges(make_record):
    record = make_record()
    record.ecg[:2, 3] = np.nan
    gaps = gap_lengths(np.isnan(record.ecg))
    for length, decision in ((2, REPAIR), (4, REJECT)):
        gaps[:2, 3] = length
        verdict = quality.assess(record, gaps, 10.0, Thresholds())
        assert verdict.findings[0].decision == decision


def test_less_than_a_sample_is_not_short(make_record):
    # Windows of 10 s at 33.36 Hz have 333 or 334 samples.
    record = make_record(rate=33.36)
    for length, kinds in ((334, []), (333, []), (332, ["short"])):
        ecg = record.ecg[:length]
        cut = dataclasses.replace(record, ecg=ecg)
        found = quality.check_length(cut, 10.0, Thresholds())
        assert [finding.finding for finding in found] == kinds


def test_less_than_half_of_the_length_rejects(judge):
    assert _kinds(judge(seconds=4.9)) == [("too short", REJECT)]
    assert _kinds(judge(seconds=5.1)) == [("short", KEEP)]
    assert _kinds(judge(seconds=5.1, reject=("short",))) == [("short", REJECT)]


def test_a_record_without_samples_rejects(judge):
    assert _kinds(judge(lambda ecg: ecg[:0])) == [("too short", REJECT)]
    assert judge(lambda ecg: np.full_like(ecg, np.nan)).rejected


def test_a_lead_without_samples_is_missing(judge):
    def change(ecg):
        ecg[:, 7] = np.nan

    verdict = judge(change)
    assert _kinds(verdict) == [("missing lead", REPAIR)]
    assert verdict.leads == tuple(lead for lead in LEADS if lead != "V2")


@pytest.mark.parametrize("level", [0.0, -1.3])
def test_a_flat_lead_is_missing(judge, level):
    def change(ecg):
        ecg[:, 11] = level

    verdict = judge(change)
    assert _kinds(verdict) == [("flat lead", REPAIR)]
    assert "V6" in verdict.findings[0].detail
    assert "V6" not in verdict.leads


def test_a_lead_that_dies_is_flat_or_reported(judge):
    def change(after):
        def change(ecg):
            ecg[after:, 11] = 0.0

        return change

    assert _kinds(judge(change(300))) == [("flat lead", REPAIR)]
    assert _kinds(judge(change(700))) == [("flat stretch", KEEP)]
    assert _kinds(judge(change(900))) == []


def test_an_electrode_that_is_off_is_flat_though_it_hums(judge):
    def change(seconds):
        def change(ecg):
            noise = np.random.default_rng(0).normal(0, 0.002, round(100 * seconds))
            ecg[: len(noise), 11] = 0.3 + noise

        return change

    verdict = judge(change(7))
    assert _kinds(verdict) == [("flat lead", REPAIR)]
    assert "flat for 7.0" in verdict.findings[0].detail
    assert "V6" not in verdict.leads
    assert _kinds(judge(change(3))) == [("flat stretch", KEEP)]
    assert _kinds(judge(change(1.5))) == []


def test_a_record_that_is_zero_has_too_few_leads(judge):
    verdict = judge(np.zeros_like)
    assert verdict.rejected
    assert "0 of 12 leads can be used" in verdict.findings[-1].detail


def test_losing_most_leads_rejects(judge):
    def change(count):
        def change(ecg):
            ecg[:, 12 - count :] = 0.0

        return change

    assert not judge(change(6)).rejected
    assert judge(change(7)).rejected
    assert judge(change(2), min_leads=11).rejected


def test_a_clipped_lead_is_reported(judge):
    def change(ecg):
        ecg[:, 8] = np.clip(5 * ecg[:, 8], None, 1.5)

    verdict = judge(change)
    assert _kinds(verdict) == [("clipped lead", KEEP)]
    assert verdict.findings[0].detail.startswith("V3 at an extreme")
    assert judge(change, reject=("clipped lead",)).rejected


@pytest.mark.parametrize(
    ("factor", "hint"),
    [(1e3, "microvolts"), (1e6, "nanovolts"), (1e-3, "volts")],
)
def test_a_mistaken_unit_rejects_and_is_suggested(judge, factor, hint):
    verdict = judge(lambda ecg: ecg * np.float32(factor))
    assert _kinds(verdict) == [("implausible amplitude", REJECT)]
    assert verdict.findings[0].detail.endswith(f"are these {hint}?")


def test_one_loose_electrode_costs_one_lead(judge):
    def change(ecg):
        ecg[200:300, 6] += np.linspace(0, -30, 100)

    verdict = judge(change)
    assert _kinds(verdict) == [("implausible amplitude", REPAIR)]
    assert "V1" not in verdict.leads


def test_an_electrode_offset_is_no_amplitude(judge):
    assert judge(lambda ecg: ecg + 250.0).findings == ()


@pytest.mark.parametrize(
    "columns",
    [
        [1, 0, 2, 3, 4, 5],  # I and II exchanged
        [0, 2, 1, 3, 4, 5],  # II and III
        [0, 1, 2, 4, 3, 5],  # aVR and aVL
        [3, 4, 5, 0, 1, 2],
    ],
)
def test_permuted_limb_leads_are_reported(judge, columns):
    def change(ecg):
        ecg[:, :6] = ecg[:, columns]

    assert _kinds(judge(change)) == [("limb leads", KEEP)]
    assert judge(change, reject=("limb leads",)).rejected


def test_an_inverted_limb_lead_is_reported(judge):
    def change(ecg):
        ecg[:, 0] *= -1

    assert _kinds(judge(change)) == [("limb leads", KEEP)]


def test_permuted_chest_leads_are_no_contradiction(judge):
    def change(ecg):
        ecg[:, 6:] = ecg[:, [7, 6, 8, 9, 11, 10]]

    assert judge(change).findings == ()


def test_leads_scaled_one_by_one_are_reported(judge):
    verdict = judge(lambda ecg: ecg / np.ptp(ecg, axis=0))
    assert ("equal ranges", KEEP) in _kinds(verdict)


def test_an_unknown_finding_to_reject_is_an_error():
    with pytest.raises(ValueError, match="cannot reject 'clippd lead'.*'clipped lead'"):
        Thresholds(reject=("clippd lead",))
