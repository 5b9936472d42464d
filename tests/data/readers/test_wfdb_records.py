import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgssl_jax.data.readers import wfdb_records
from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.readers.wfdb_header import read_header
from ecgssl_jax.data.readers.wfdb_records import read_wfdb, wfdb_source
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.leads import LEADS

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
LUDB = SHARED / "data" / "ludb"
needs_ludb = pytest.mark.skipif(
    not LUDB.exists(), reason="LUDB is not beside the checkout"
)


def _write(folder, name, signal, *, fmt="16", names=("I", "II"), units=None, **options):
    """A WFDB record by the wfdb package."""
    folder.mkdir(parents=True, exist_ok=True)
    count = signal.shape[1]
    wfdb.wrsamp(
        name,
        fs=options.pop("fs", 250),
        units=units or ["mV"] * count,
        sig_name=list(names),
        p_signal=np.asarray(signal, np.float64),
        fmt=[fmt] * count,
        write_dir=str(folder),
        **options,
    )


def _signal(length=2500, leads=2, seed=0):
    walk = np.random.default_rng(seed).normal(size=(length, leads)).cumsum(axis=0)
    return walk / np.abs(walk).max()


def _readings(source):
    return dict(reading for task in source.tasks for reading in task())


@needs_ludb
def test_the_same_as_the_wfdb_package():
    for name in ("data/1", "data/73", "data/200"):
        expected = wfdb.rdrecord(str(LUDB / name))
        found = read_wfdb(LUDB / name, id=name)
        np.testing.assert_allclose(found.ecg, expected.p_signal, atol=1e-6)
        assert [lead.lower() for lead in found.leads] == expected.sig_name
        assert found.rate == expected.fs == 500


@needs_ludb
def test_diagnoses_in_comments_become_text():
    readings = _readings(wfdb_source(LUDB))
    assert len(readings) == 200
    assert readings["data/1"].text.splitlines() == [
        "Rhythm: Sinus bradycardia.",
        "Electric axis of the heart: left axis deviation.",
        "Left ventricular hypertrophy.",
        "Left ventricular overload.",
        "Non-specific repolarization abnormalities: posterior wall.",
    ]
    assert readings["data/1"].attributes == {"age": "51", "sex": "F"}


@pytest.mark.parametrize("fmt", ["16", "212", "24", "32"])
def test_every_format_gives_the_samples(tmp_path, fmt):
    signal = _signal()
    _write(tmp_path, "a", signal, fmt=fmt)
    record = read_wfdb(tmp_path / "a", id="a")
    np.testing.assert_allclose(record.ecg, signal, atol=2e-3)
    assert record.rate == 250 and record.leads == ("I", "II")


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e-3), ("V", 1e3), ("mV", 1.0)])
@pytest.mark.parametrize("fmt", ["16", "24"])
def test_units_come_from_the_header(tmp_path, unit, factor, fmt):
    signal = _signal()
    _write(tmp_path, "a", signal / factor, fmt=fmt, units=[unit, "mV"][:1] * 2)
    record = read_wfdb(tmp_path / "a", id="a")
    np.testing.assert_allclose(record.ecg, signal, atol=1e-3)


@pytest.mark.parametrize("fmt", ["16", "24"])
def test_missing_samples_are_nan(tmp_path, fmt):
    signal = _signal()
    signal[100:110, 1] = np.nan
    _write(tmp_path, "a", signal, fmt=fmt)
    record = read_wfdb(tmp_path / "a", id="a")
    np.testing.assert_array_equal(np.isnan(record.ecg), np.isnan(signal))


@pytest.mark.parametrize("fmt", ["16", "24"])
def test_signals_that_are_no_leads_are_left_out(tmp_path, fmt):
    signal = _signal(leads=3)
    _write(tmp_path, "a", signal, names=("RESP", "v5", "ECG AVF"), fmt=fmt)
    record = read_wfdb(tmp_path / "a", id="a")
    assert record.leads == ("V5", "aVF")
    assert record.remarks == {"unknown signals": "left out: RESP"}
    np.testing.assert_allclose(record.ecg, signal[:, 1:], atol=1e-3)


@pytest.mark.parametrize("fmt", ["16", "24"])
def test_no_lead_at_all_is_an_error(tmp_path, fmt):
    _write(tmp_path, "a", _signal(), names=("RESP", "PLETH"), fmt=fmt)
    with pytest.raises(RecordError, match="none of the signals.*PLETH"):
        read_wfdb(tmp_path / "a", id="a")


@pytest.mark.parametrize("fmt", ["16", "24"])
def test_a_unit_that_is_no_voltage_is_an_error(tmp_path, fmt):
    _write(tmp_path, "a", _signal(), units=["mmHg", "mV"], fmt=fmt)
    with pytest.raises(RecordError, match="'mmHg' is none of V, mV"):
        read_wfdb(tmp_path / "a", id="a")


@pytest.mark.parametrize("fmt", ["16", "212", "24"])
def test_a_truncated_signal_is_an_error(tmp_path, fmt):
    _write(tmp_path, "a", _signal(), fmt=fmt)
    path = tmp_path / "a.dat"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RecordError, match="a"):
        read_wfdb(tmp_path / "a", id="a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a 2\n",
        "a two 250\n",
        "a 2 0 10\n",
        "a 2 250 10\na.dat 16 200/mV\n",
        "a 2 inf 10\n",
        "a 1 250 10\nb/a.dat 16 200/mV\n",
        "a 1 250 10\na.dat 16 nan/mV\n",
    ],
)
def test_a_malformed_header_is_an_error(tmp_path, text):
    (tmp_path / "a.hea").write_text(text)
    with pytest.raises(RecordError, match="a.hea"):
        read_header(tmp_path / "a.hea")


def test_defaults_of_a_sparse_header(tmp_path):
    """header(5): gain 200 per mV, baseline from the ADC's zero, counter frequency."""
    (tmp_path / "a.hea").write_text("a 1 360/1000(5) 4\na.dat 16 0 12 512 0 0 0 I\n")
    np.array([512, 712, 312, -32768], "<i2").tofile(tmp_path / "a.dat")
    text = (tmp_path / "a.hea").read_text().replace(" 0 0 0 I", " 0 -31232 0 I")
    (tmp_path / "a.hea").write_text(text)
    record = read_wfdb(tmp_path / "a", id="a")
    assert record.rate == 360
    np.testing.assert_array_equal(record.ecg[:, 0], [0, 1, -1, np.nan])
    assert record.remarks == {"gain not given": "I: 200/mV as WFDB defines"}


def test_records_listed_but_absent_are_not_lost(tmp_path):
    _write(tmp_path / "p1", "a", _signal())
    _write(tmp_path / "p2", "b", _signal(seed=1))
    (tmp_path / "RECORDS").write_text("p1/a\np3/c\n")
    readings = _readings(wfdb_source(tmp_path))
    assert list(readings) == ["p1/a", "p2/b", "p3/c"]
    assert isinstance(readings["p3/c"], RecordError)


def test_segments_are_read_as_one_record(tmp_path):
    _write(tmp_path, "s1", _signal(2000))
    _write(tmp_path, "s2", _signal(1000, seed=1))
    (tmp_path / "whole.hea").write_text("whole/2 2 250 3000\ns1 2000\ns2 1000\n")
    readings = _readings(wfdb_source(tmp_path))
    assert list(readings) == ["whole"]
    expected = np.concatenate([_signal(2000), _signal(1000, seed=1)])
    np.testing.assert_allclose(readings["whole"].ecg, expected, atol=1e-3)


def test_labels_from_a_comment(tmp_path):
    _write(
        tmp_path,
        "a",
        _signal(),
        comments=["Age: 60", "Dx: 111,222", "Rx: Unknown", "Hx: none"],
    )
    _write(tmp_path, "b", _signal(seed=1), comments=["Dx: 222"])
    _write(tmp_path, "c", _signal(seed=2))
    source = wfdb_source(tmp_path, label_comment="Dx")
    readings = _readings(source)
    assert source.labels == ("111", "222")
    assert readings["a"].labels == {"111": 1.0, "222": 1.0}
    assert readings["b"].labels == {"111": 0.0, "222": 1.0}
    assert readings["c"].labels == {}
    assert readings["a"].text == "Hx: none"
    with pytest.raises(SourceError, match="comment 'Diagnosis"):
        wfdb_source(tmp_path, label_comment="Diagnosis")


def test_headers_read_by_several_processes_are_the_same(tmp_path, monkeypatch):
    for number in range(5):
        comments = [f"Dx: {number},{number % 2}"] if number else []
        rate = 250 * (1 + number % 2)
        _write(tmp_path, f"r{number}", _signal(), fs=rate, comments=comments)
    (tmp_path / "long.hea").write_text("long/2 2 250 5000\nr0 2500\nr2 2500\n")
    (tmp_path / "r4.hea").write_text("nonsense")
    one = wfdb_source(tmp_path, label_comment="Dx")
    monkeypatch.setattr(wfdb_records, "_HEADERS", 2)
    two = wfdb_source(tmp_path, label_comment="Dx", workers=2)
    # Not those of segments, whose record has no comment of its own.
    assert one.labels == two.labels == ("1", "3")
    assert one.rates == two.rates == (250.0, 500.0)
    names = [
        [name for task in each.tasks for name in task.args[-1]] for each in (one, two)
    ]
    assert names[0] == names[1] == ["long", "r1", "r3", "r4"]


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no WFDB records"):
        wfdb_source(tmp_path)


def test_a_folder_of_several_rates_is_prepared_at_one(tmp_path):
    _write(tmp_path / "raw", "a", _signal(2500), fs=250)
    _write(tmp_path / "raw", "b", _signal(5000, seed=1), fs=500)
    source = wfdb_source(tmp_path / "raw")
    assert source.rates == (250, 500)
    settings = Settings(rate=100.0)
    prepared = prepare_dataset(source, tmp_path / "out", settings=settings)
    assert prepared.index["length"].tolist() == [1000, 1000]
    assert isinstance(_readings(source)["a"], Record)


def _matlab_style(tmp_path):
    """A record as of the Challenges: 24 bytes of another header, then format 16."""
    samples = np.random.default_rng(0).integers(-999, 999, (500, 2)).astype("<i2")
    sums = samples.sum(axis=0, dtype=int) % 65536
    lines = ["a 2 500 500"]
    for name, total in zip(("I", "II"), sums, strict=True):
        lines.append(f"a.mat 16+24 1000(0)/mV 16 0 0 {total} 0 {name}")
    (tmp_path / "a.hea").write_text("\n".join(lines) + "\n")
    (tmp_path / "a.mat").write_bytes(bytes(24) + samples.tobytes())
    return samples


def test_samples_behind_an_offset_are_read_and_verified(tmp_path):
    samples = _matlab_style(tmp_path)
    record = read_wfdb(tmp_path / "a", id="a")
    np.testing.assert_array_equal(record.ecg, (samples / 1000).astype(np.float32))
    content = bytearray((tmp_path / "a.mat").read_bytes())
    content[100] ^= 4
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(RecordError, match="does not match its checksum"):
        read_wfdb(tmp_path / "a", id="a")
    text = (tmp_path / "a.hea").read_text()
    (tmp_path / "a.hea").write_text(text.replace("16+24", f"16+{10**30}"))
    with pytest.raises(RecordError, match="a.mat"):
        read_wfdb(tmp_path / "a", id="a")


def test_any_int16_becomes_the_nearest_float32(tmp_path):
    """The quotient of exact integers is rounded once, as IEEE 754 defines."""
    steps = np.arange(-32767, 32768, dtype="<i2")
    steps.tofile(tmp_path / "a.dat")
    header = f"a 1 500 {len(steps)}\na.dat 16 1000(-7)/mV 16 0 0 0 0 I\n"
    (tmp_path / "a.hea").write_text(header)
    ecg = read_wfdb(tmp_path / "a", id="a").ecg[:, 0]
    exact = (steps.astype(np.float64) + 7) / 1000
    np.testing.assert_array_equal(ecg, exact.astype(np.float32))


def test_reading_takes_few_bytes_for_each_sample(tmp_path):
    shape = (200_000, 12)
    np.zeros(shape, "<i2").tofile(tmp_path / "a.dat")
    lines = [f"a 12 500 {shape[0]}"]
    lines += [f"a.dat 16 1000(0)/mV 16 0 0 0 0 {name}" for name in LEADS]
    (tmp_path / "a.hea").write_text("\n".join(lines))
    read_wfdb(tmp_path / "a", id="a")
    tracemalloc.start()
    read_wfdb(tmp_path / "a", id="a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # int16 as stored, the chosen leads of it, and float32.
    assert peak < 8.5 * np.prod(shape)


@pytest.mark.parametrize("fmt", ["16", "24"])
@pytest.mark.parametrize("kept", [0, 1])
def test_signals_without_a_name_are_unknown(tmp_path, fmt, kept):
    _write(tmp_path, "a", _signal(), fmt=fmt)
    first, *described = (tmp_path / "a.hea").read_text().splitlines()
    cut = [line.rpartition(" ")[0] for line in described[kept:]]
    (tmp_path / "a.hea").write_text("\n".join([first, *described[:kept], *cut]))
    if kept:
        record = read_wfdb(tmp_path / "a", id="a")
        assert record.leads == ("I",)
        assert record.remarks == {"unknown signals": "left out: ?"}
    else:
        with pytest.raises(RecordError, match="none of the signals"):
            read_wfdb(tmp_path / "a", id="a")


def test_a_folder_without_any_known_lead_is_an_error_at_once(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path, name, _signal(), names=("RESP", "PLETH"))
    with pytest.raises(SourceError, match="standard lead; found 'PLETH', 'RESP'"):
        wfdb_source(tmp_path)
    _write(tmp_path, "c", _signal(), names=("RESP", "DII"))
    readings = _readings(wfdb_source(tmp_path))
    assert isinstance(readings["a"], RecordError)
    assert readings["c"].leads == ("II",)


def test_a_name_that_is_not_utf_8_is_found_and_the_rest_kept(tmp_path):
    raw = tmp_path / "raw"
    _write(raw, "a", _signal())
    _write(raw, "b", _signal(seed=1))
    try:
        os.rename(raw / "b.hea", os.fsencode(raw) + b"/b\xfc.hea")
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    (raw / "RECORDS").write_bytes(b"a\nc\xe4\n")
    readings = _readings(wfdb_source(raw))
    assert list(readings) == ["a", "b\\udcfc", "c\\udce4"]
    assert "is not UTF-8; rename" in str(readings["b\\udcfc"])
    settings = Settings(rate=250.0, max_rejected=0.7)
    assert len(prepare_dataset(wfdb_source(raw), tmp_path / "s", settings=settings)) > 0


def test_each_header_is_read_once_by_the_scan_and_once_by_its_task(
    tmp_path, monkeypatch
):
    _write(tmp_path, "a", _signal())
    seen = []

    def count(path):
        seen.append(path.name)
        return read_header(path)

    monkeypatch.setattr(wfdb_records, "read_header", count)
    source = wfdb_source(tmp_path)
    assert seen == ["a.hea"]
    _readings(source)
    assert seen == ["a.hea"] * 2
