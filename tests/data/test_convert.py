import dataclasses

import numpy as np
import pytest

from ecgssl_jax.data.convert import Format, convert, quantise
from ecgssl_jax.data.findings import Thresholds
from ecgssl_jax.data.record import RecordError
from ecgssl_jax.leads import LEADS

FORM = Format(rate=100.0, length=1000, scale=0.001)


def _convert(record, form=FORM, **thresholds):
    return convert(record, form, Thresholds(**thresholds))


def test_leads_are_put_in_order_by_name(make_record):
    record = make_record()
    order = np.random.default_rng(0).permutation(12)
    shuffled = dataclasses.replace(
        record, ecg=record.ecg[:, order], leads=tuple(LEADS[i] for i in order)
    )
    (expected,), _ = _convert(record)
    (found,), _ = _convert(shuffled)
    np.testing.assert_array_equal(found.ecg, expected.ecg)
    np.testing.assert_array_equal(
        expected.ecg, np.rint(record.ecg.astype(np.float64) * 1000)
    )


def test_leads_that_a_record_lacks_are_zero_and_invalid(make_record):
    record = make_record()
    some = ("V6", "I", "II")
    columns = [LEADS.index(lead) for lead in some]
    record = dataclasses.replace(record, ecg=record.ecg[:, columns], leads=some)
    (window,), findings = _convert(record)
    assert findings == []
    assert [lead in some for lead in LEADS] == window.lead_valid.tolist()
    assert not window.ecg[:, ~window.lead_valid].any()
    np.testing.assert_array_equal(window.ecg[:, 11], np.rint(record.ecg[:, 0] * 1000))


def test_a_flat_lead_is_stored_as_missing(make_record):
    record = make_record()
    record.ecg[:, 5] = -2.0
    (window,), _ = _convert(record)
    assert not window.lead_valid[5] and not window.ecg[:, 5].any()


def test_windows_cover_a_long_recording_in_order(make_record):
    record = make_record(seconds=36.0)
    windows, findings = _convert(record)
    assert [window.offset for window in windows] == [0, 1000, 2000, 3000]
    assert [window.length for window in windows] == [1000, 1000, 1000, 600]
    joined = np.concatenate([window.ecg[: window.length] for window in windows])
    np.testing.assert_array_equal(joined, quantise(record.ecg, 0.001))
    assert not windows[-1].ecg[600:].any()
    assert [(x.finding, x.offset) for x in findings] == [("short", 3000)]


def test_a_remainder_too_short_to_keep_is_reported(make_record):
    windows, findings = _convert(make_record(seconds=24.0))
    assert [window.offset for window in windows] == [0, 1000]
    assert [(x.finding, x.decision, x.offset) for x in findings] == [
        ("remainder", "reject", 2000)
    ]


def test_a_gap_costs_only_its_window(make_record):
    record = make_record(seconds=30.0)
    record.ecg[1500:1700] = np.nan
    windows, findings = _convert(record)
    assert [window.offset for window in windows] == [0, 2000]
    assert [(x.finding, x.offset) for x in findings] == [("long gap", 1000)]


def test_a_window_without_any_sample_is_rejected_and_no_remainder(make_record):
    record = make_record(seconds=30.0)
    record.ecg[1000:2000] = np.nan
    windows, findings = _convert(record)
    assert [window.offset for window in windows] == [0, 2000]
    (rejection,) = [x for x in findings if x.decision == "reject"]
    assert (rejection.finding, rejection.offset) == ("too few leads", 1000)


def test_padding_at_the_end_of_a_recording_is_one_finding(make_record):
    record = make_record(seconds=60.0)
    record.ecg[1700:] = np.nan
    windows, findings = _convert(record)
    assert [window.length for window in windows] == [1000, 700]
    assert [(x.finding, x.offset) for x in findings] == [
        ("missing end", 0),
        ("short", 1000),
    ]


def test_a_gap_across_the_edge_of_two_windows_is_one_gap(make_record):
    record = make_record(seconds=30.0, rate=500.0)
    record.ecg[4990:5009, 7] = np.nan  # 38 ms, of which 20 and 18 in each window
    record.ecg[9998:10003, 7] = np.nan  # 10 ms
    windows, findings = _convert(record)
    assert [window.offset for window in windows] == [2000]
    assert [(x.finding, x.offset) for x in findings] == [
        ("long gap", 0),
        ("long gap", 1000),
        ("short gap", 2000),
    ]
    assert "at most 38 ms" in findings[0].detail
    assert "at most 10 ms" in findings[2].detail


@pytest.mark.parametrize("sizes", [(0.0,) * 12, (20.0, -300.0) + (0.0,) * 10])
def test_a_large_offset_is_subtracted_and_reported(make_record, sizes):
    record = make_record()
    (expected,), _ = _convert(record)
    record.ecg[:] += np.array(sizes, np.float32)
    (window,), findings = _convert(record)
    offset = [i for i, size in enumerate(sizes) if size]
    assert [(x.finding, x.decision) for x in findings] == [("offset", "repair")][
        : len(offset)
    ]
    # 300 mV in float32 are right to 0.03 of a step.
    shape = expected.ecg - np.where(sizes, np.median(expected.ecg, axis=0), 0)
    np.testing.assert_allclose(window.ecg, shape, atol=1.1)
    for finding in findings:
        assert "20.0 mV in I, -300.0 mV in II" in finding.detail


def test_an_offset_within_the_limit_is_left_alone(make_record):
    record = make_record()
    record.ecg[:, 3] += 4.0
    (window,), findings = _convert(record)
    assert findings == []
    np.testing.assert_array_equal(window.ecg, quantise(record.ecg, 0.001))
    assert [x.finding for x in _convert(record, offset=3.0)[1]] == ["offset"]


@pytest.mark.parametrize("count", [0, 1])
def test_a_recording_of_almost_no_samples_is_too_short_at_any_rate(make_record, count):
    record = make_record(rate=500.0)
    windows, findings = _convert(dataclasses.replace(record, ecg=record.ecg[:count]))
    assert windows == []
    assert [(x.finding, x.decision) for x in findings] == [("too short", "reject")]


def test_faults_are_found_in_the_window_they_are_in_at_any_rate(make_record):
    record = make_record(seconds=30.0, rate=500.0)
    record.ecg[7_000:8_000] = np.nan
    windows, findings = _convert(record)
    assert [window.offset for window in windows] == [0, 2000]
    assert [(x.finding, x.offset) for x in findings] == [("long gap", 1000)]


def test_a_missing_end_shortens_the_stored_record(make_record):
    record = make_record(rate=500.0)
    record.ecg[4000:] = np.nan
    (window,), _ = _convert(record)
    assert window.length == 800
    assert not window.ecg[800:].any() and window.ecg[799].any()


def test_no_sample_is_invented_for_infinity(make_record):
    record = make_record()
    record.ecg[500:502, 2] = np.inf
    (window,), findings = _convert(record)
    assert [x.finding for x in findings] == ["short gap"]
    line = np.interp([1, 2], [0, 3], record.ecg[[499, 502], 2])
    np.testing.assert_allclose(window.ecg[500:502, 2] * 0.001, line, atol=0.0006)


def test_offsets_count_samples_of_the_prepared_rate(make_record):
    windows, _ = _convert(make_record(seconds=30.0, rate=500.0))
    assert [window.offset for window in windows] == [0, 1000, 2000]
    assert [window.length for window in windows] == [1000] * 3


def test_windows_of_a_resampled_recording_join_without_edges(make_ecg, make_record):
    time = np.arange(15000) / 500
    tone = np.sin(2 * np.pi * 3 * time)[:, None] * np.linspace(0.5, 2, 12)
    record = make_record(rate=500.0, ecg=tone.astype(np.float32))
    windows, _ = _convert(record)
    joined = np.concatenate([window.ecg for window in windows]) * 0.001
    np.testing.assert_allclose(joined[100:-100], tone[::5][100:-100], atol=0.02)


def test_a_signal_beyond_int16_is_rejected_not_clipped(make_record):
    record = make_record()
    record.ecg[500, 7] = 40.0
    windows, findings = _convert(record)
    assert windows == []
    assert findings[-1].finding == "beyond int16"
    assert "40.0 mV" in findings[-1].detail and "--scale" in findings[-1].detail


@pytest.mark.parametrize("scale", [0.001, 0.0005, 0.005])
def test_quantising_is_off_by_half_a_step_at_most(scale):
    x = np.random.default_rng(0).uniform(-15, 15, 10_000)
    assert np.abs(quantise(x, scale) * scale - x).max() <= scale / 2 + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leads": LEADS[:11]}, "expected samples x 11 leads"),
        ({"leads": (*LEADS[:11], "X")}, "not distinct leads"),
        ({"leads": (*LEADS[:11], "I")}, "not distinct leads"),
        ({"rate": 0.0}, "sampling rate"),
    ],
)
def test_a_contradictory_record_is_an_error(make_record, change, message):
    with pytest.raises(RecordError, match=message):
        _convert(dataclasses.replace(make_record(), **change))
