import csv

import numpy as np
import pytest
import wfdb

from ecgssl_jax.data.readers import manifest
from ecgssl_jax.data.readers.manifest import manifest_source
from ecgssl_jax.data.readers.signals import Signals
from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.leads import LEADS

PLAIN = Signals(rate=100.0, unit="mV", leads=LEADS)


@pytest.fixture
def folder(tmp_path, make_ecg):
    """Six arrays, 0.npy to 5.npy."""
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", make_ecg(number))
    return tmp_path


def _table(folder, rows, name="table.csv"):
    path = folder / name
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _readings(source):
    return [reading for task in source.tasks for _, reading in task()]


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_columns_become_fields(folder, make_ecg, name):
    row = {"path": "0.npy", "id": "x", "patient": 17, "fold": 3, "text": "ok", "age": 5}
    rows = [row, {**row, "path": "1.npy", "id": "y", "patient": None, "fold": None}]
    first, second = _readings(manifest_source(_table(folder, rows, name), PLAIN))
    np.testing.assert_array_equal(first.ecg, make_ecg(0))
    assert (first.id, first.patient, first.fold, first.text) == ("x", "17", 3, "ok")
    assert {k: int(v) for k, v in first.attributes.items()} == {"age": 5}
    assert (second.patient, second.fold) == ("", -1)


def test_listed_labels(folder):
    rows = [
        {"path": "0.npy", "labels": "afib; lbbb\n"},
        {"path": "1.npy", "labels": "none"},
        {"path": "2.npy", "labels": ""},
    ]
    source = manifest_source(_table(folder, rows), PLAIN)
    assert source.labels == ("afib", "lbbb")
    found = [reading.labels for reading in _readings(source)]
    assert found == [{"afib": 1, "lbbb": 1}, {"afib": 0, "lbbb": 0}, {}]


def test_one_column_for_each_label(folder):
    rows = [
        {"path": "0.npy", "label_b": "1", "label_a": "0"},
        {"path": "1.npy", "label_b": "", "label_a": "1.0"},
    ]
    source = manifest_source(_table(folder, rows), PLAIN)
    assert source.labels == ("b", "a")
    found = [reading.labels for reading in _readings(source)]
    assert found == [{"b": 1, "a": 0}, {"a": 1}]


def test_rate_unit_leads_and_layout_by_row(folder, make_ecg):
    ecg = make_ecg(7, rate=250.0)
    np.save(folder / "other.npy", (ecg[:, ::-1].T * 1000).round().astype(np.int16))
    rows = [
        {"path": "0.npy", "rate": 100, "unit": "mV", "leads": ",".join(LEADS)},
        {
            "path": "other.npy",
            "rate": 250,
            "unit": "uV",
            "leads": " ".join(LEADS[::-1]),
        },
    ]
    rows[1]["layout"] = "CT"
    rows[0]["layout"] = ""
    source = manifest_source(_table(folder, rows), Signals())
    assert source.rates == (100.0, 250.0)
    _, other = _readings(source)
    assert other.rate == 250.0 and other.leads == LEADS[::-1]
    np.testing.assert_allclose(other.ecg[:, ::-1], ecg, atol=0.00051)


def test_what_no_column_and_no_flag_says_is_asked_for(folder):
    path = _table(folder, [{"path": "0.npy"}])
    for missing, flag in (("rate", "--source-rate"), ("unit", "--unit")):
        signals = {"rate": 100.0, "unit": "mV", "leads": LEADS} | {missing: None}
        with pytest.raises(SourceError, match=f"no column '{missing}'.*{flag}"):
            manifest_source(path, Signals(**signals))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"where": "0.npy"}], "no column 'path'; found where"),
        ([{"path": "0.npy", "labels": "a", "label_a": 1}], "keep one"),
        ([{"path": "0.npy", "id": 1}, {"path": "1.npy", "id": 1}], "repeats 1"),
    ],
)
def test_a_table_that_makes_no_sense_is_an_error(folder, rows, message):
    with pytest.raises(SourceError, match=message):
        manifest_source(_table(folder, rows), PLAIN)


def test_a_table_that_cannot_be_read_is_an_error(folder):
    for name, content in (("a.csv", b""), ("b.csv", b"\xff\xfe\x00"), ("c.pq", b"no")):
        (folder / name).write_bytes(content)
        with pytest.raises(SourceError, match=name):
            manifest_source(folder / name, PLAIN)
    with pytest.raises(SourceError, match="absent.csv"):
        manifest_source(folder / "absent.csv", PLAIN)


def test_damaged_rows_and_files_are_found_and_the_rest_kept(folder, make_ecg, tmp_path):
    whole = (folder / "1.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "turned.npy", make_ecg(9).T)
    np.save(folder / "text.npy", np.array([["a"] * 12] * 1000))
    np.save(folder / "three.npy", np.zeros((2, 1000, 12)))
    np.savez(folder / "archive.npz", make_ecg(9))
    bad = {
        "archive.npz": "a .npz archive",
        "truncated.npy": "not a readable .npy file",
        "empty.npy": "not a readable .npy file",
        "absent.npy": "not a readable .npy file",
        "turned.npy": "would fit layout CT",
        "text.npy": "expected real numbers",
        "three.npy": r"shape \(2, 1000, 12\)",
        "": "has no path",
    }
    rows = [{"path": name, "fold": 1, "label_a": 1} for name in ("0.npy", *bad)]
    rows += [{"path": "1.npy", "fold": "one", "label_a": 1}]
    rows += [{"path": "2.npy", "fold": 1, "label_a": 2}]
    rows += [{"path": "3.npy", "fold": "nan", "label_a": 1}]
    source = manifest_source(_table(folder, rows), PLAIN)
    readings = _readings(source)
    assert len(readings) == len(rows)
    assert isinstance(readings[0], Record)
    messages = [*bad.values(), "column fold holds 'one'", "column label_a holds '2'"]
    messages += ["column fold holds 'nan'"]
    for reading, message in zip(readings[1:], messages, strict=True):
        with pytest.raises(RecordError, match=message):
            raise reading
    settings = Settings(max_rejected=0.95)
    assert len(prepare_dataset(source, tmp_path / "out", settings=settings)) == 1
    lines = (tmp_path / "out" / "1.0.0" / "quality.csv").read_text().splitlines()
    assert len(lines) == 1 + len(bad) + 3


def test_a_flag_that_is_wrong_is_an_error_at_once(folder):
    path = _table(folder, [{"path": "0.npy"}])
    typo = Signals(rate=100.0, unit="mV", leads=(*LEADS[:11], "V66"))
    with pytest.raises(SourceError, match="'V66'.*did you mean V6"):
        manifest_source(path, typo)
    with pytest.raises(SourceError, match="unit 'cm'"):
        manifest_source(path, Signals(rate=100.0, unit="cm", leads=LEADS))


def test_lists_of_a_parquet_file(folder):
    rows = [
        {"path": "0.npy", "labels": ["AFIB", "LBBB"], "leads": list(LEADS)},
        {"path": "1.npy", "labels": ["none"], "leads": list(LEADS)},
        {"path": "2.npy", "labels": [], "leads": list(LEADS[::-1])},
        {"path": "3.npy", "labels": None, "leads": None},
    ]
    source = manifest_source(_table(folder, rows, "table.parquet"), PLAIN)
    assert source.labels == ("AFIB", "LBBB")
    readings = _readings(source)
    found = [reading.labels for reading in readings]
    assert found == [{"AFIB": 1, "LBBB": 1}, {"AFIB": 0, "LBBB": 0}, {}, {}]
    assert [reading.leads for reading in readings] == [LEADS, LEADS, LEADS[::-1], LEADS]


def test_none_is_no_label_however_it_is_written(folder):
    cells = ("a", "None", "NONE", "a; none")
    rows = [{"path": f"{i}.npy", "labels": cell} for i, cell in enumerate(cells)]
    source = manifest_source(_table(folder, rows), PLAIN)
    assert source.labels == ("a",)
    *readings, mixed = _readings(source)
    assert [reading.labels for reading in readings] == [{"a": 1}, {"a": 0}, {"a": 0}]
    assert "none, or some?" in str(mixed)


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("patient_id", "patient"),
        ("Patient", "patient"),
        ("Subject ID", "patient"),
        ("patient ", "patient"),
        ("Fold", "fold"),
        ("label", "labels"),
        ("Label_AFIB", "label_X"),
        ("report", "text"),
        ("sampling-rate", "rate"),
        ("pateint", "patient"),
        ("Lables", "labels"),
    ],
)
def test_a_column_named_almost_as_ours_is_an_error(folder, column, meant):
    path = _table(folder, [{"path": "0.npy", column: "1"}])
    with pytest.raises(SourceError, match=f"column '{column}'.* If it is '{meant}'"):
        manifest_source(path, PLAIN)


def test_another_name_beside_our_column_is_an_attribute_but_for_patients(folder):
    row = {"path": "0.npy", "filename": "a", "patient": "p"}
    (record,) = _readings(manifest_source(_table(folder, [row]), PLAIN))
    assert record.attributes == {"filename": "a"}
    with pytest.raises(SourceError, match="'patient_id' would be kept"):
        manifest_source(_table(folder, [{**row, "patient_id": "p"}]), PLAIN)


def test_a_name_that_is_merely_like_ours_is_an_attribute(folder):
    row = {"path": "0.npy", "test": "a", "ratio": "b", "device": "c"}
    (record,) = _readings(manifest_source(_table(folder, [row]), PLAIN))
    assert record.attributes == {"test": "a", "ratio": "b", "device": "c"}


def test_cells_separated_otherwise_than_by_commas_are_named(folder):
    (folder / "table.csv").write_text("path;fold\n0.npy;1\n")
    with pytest.raises(SourceError, match="cells must be separated by commas"):
        manifest_source(folder / "table.csv", PLAIN)


def test_a_repeated_column_is_an_error(folder):
    (folder / "table.csv").write_text("path,fold,fold\n0.npy,1,2\n")
    with pytest.raises(SourceError, match="more than one column 'fold'"):
        manifest_source(folder / "table.csv", PLAIN)


def test_notes_say_what_is_stored_as_it_is_and_what_is_not_known(folder):
    source = manifest_source(_table(folder, [{"path": "0.npy", "age": 5}]), PLAIN)
    notes = "\n".join(source.notes)
    assert "no column 'patient'" in notes and "no column 'fold'" in notes
    assert "kept as attributes, as they are: age" in notes
    row = {"path": "0.npy", "patient": 1, "fold": 1, "label_a": 1}
    assert manifest_source(_table(folder, [row]), PLAIN).notes == ()


def test_a_row_with_too_many_cells_is_found(folder):
    lines = ["path,text", "0.npy,sinus rhythm, normal", '1.npy,"sinus rhythm, normal"']
    (folder / "table.csv").write_text("\n".join(lines))
    cut, whole = _readings(manifest_source(folder / "table.csv", PLAIN))
    assert "0.npy: its row has more cells" in str(cut) and "' normal'" in str(cut)
    assert whole.text == "sinus rhythm, normal" and whole.attributes == {}


def test_an_empty_cell_leaves_the_word_to_the_flag(folder):
    rows = [
        {"path": "0.npy", "rate": "", "unit": "", "leads": ""},
        {"path": "1.npy", "rate": 200, "unit": "uV", "leads": ",".join(LEADS)},
    ]
    source = manifest_source(_table(folder, rows), PLAIN)
    assert source.rates == (100.0, 200.0)
    assert [reading.rate for reading in _readings(source)] == [100.0, 200.0]
    first, second = _readings(manifest_source(_table(folder, rows), Signals()))
    assert "0.npy: no rate" in str(first) and second.rate == 200.0


def test_an_identifier_of_zero_is_one(folder):
    rows = [{"path": f"{i}.npy", "id": i, "patient": i} for i in range(2)]
    readings = _readings(manifest_source(_table(folder, rows, "t.parquet"), PLAIN))
    assert [reading.id for reading in readings] == ["0", "1"]
    assert [reading.patient for reading in readings] == ["0", "1"]
    rows[1]["id"] = 0
    with pytest.raises(SourceError, match="repeats 0"):
        manifest_source(_table(folder, rows, "t.parquet"), PLAIN)


def _write_wfdb(folder, name, ecg, rate):
    folder.mkdir(exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        p_signal=ecg.astype(np.float64),
        fmt=["16"] * 12,
        comments=["the header's own text"],
        write_dir=str(folder),
    )


def test_rows_may_point_at_wfdb_records(folder, make_ecg):
    ecg = make_ecg(8, rate=250.0)
    _write_wfdb(folder / "raw", "a_1", ecg, 250)
    _write_wfdb(folder / "raw", "b", ecg, 250)
    facts = {"patient": "p", "fold": 2, "text": "ours", "labels": "x"}
    rows = [{"path": path, **facts} for path in ("raw/a_1", "raw/b.hea")]
    source = manifest_source(_table(folder, rows), Signals())
    assert source.rates == (250.0,)
    for reading in _readings(source):
        np.testing.assert_allclose(reading.ecg, ecg, atol=1e-3)
        assert (reading.rate, reading.leads) == (250.0, LEADS)
        assert (reading.patient, reading.fold, reading.text) == ("p", 2, "ours")
        assert reading.labels == {"x": 1}
    # Beside arrays, what the arrays do not say is needed again.
    rows.append({"path": "0.npy", **facts})
    with pytest.raises(SourceError, match="no column 'rate', and 0.npy is no WFDB"):
        manifest_source(_table(folder, rows), Signals())
    source = manifest_source(_table(folder, rows), PLAIN)
    assert source.rates == (100.0, 250.0)
    assert [reading.rate for reading in _readings(source)] == [250.0, 250.0, 100.0]


def test_headers_are_read_only_where_their_rates_are_wanted(
    folder, make_ecg, monkeypatch
):
    _write_wfdb(folder, "a", make_ecg(8), 100)
    path = _table(folder, [{"path": "a"}, {"path": "0.npy"}])
    monkeypatch.setattr(manifest, "read_header", None)
    assert manifest_source(path, PLAIN, find_rates=False).rates == ()
    with pytest.raises(TypeError):
        manifest_source(path, PLAIN)
    # That an array needs more than the flags say is noticed all the same.
    with pytest.raises(SourceError, match="no column 'rate', and 0.npy is no WFDB"):
        manifest_source(path, Signals(), find_rates=False)


def test_headers_read_by_several_processes_are_the_same(folder, make_ecg, monkeypatch):
    monkeypatch.setattr(manifest, "_HEADERS", 2)
    for number, rate in enumerate((100, 250, 500)):
        _write_wfdb(folder, f"w{number}", make_ecg(8, rate=float(rate)), rate)
    rows = [{"path": f"w{number}"} for number in range(3)]
    source = manifest_source(_table(folder, rows), Signals(), workers=2)
    assert source.rates == (100.0, 250.0, 500.0)
    rows += [{"path": "0.npy"}, {"path": "1.npy"}]
    with pytest.raises(SourceError, match="and 0.npy is no WFDB"):
        manifest_source(_table(folder, rows), Signals(), workers=2)


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_tasks_taken_again_are_the_same(folder, name):
    rows = [{"path": f"{i % 6}.npy", "text": f'line\n"{i}"'} for i in range(300)]
    source = manifest_source(_table(folder, rows, name), PLAIN)
    first, again = ([task.args[-1] for task in source.tasks] for _ in range(2))
    assert first == again and [len(part) for part in first] == [128, 128, 44]
    assert [row for part in first for row in part] == rows


def test_damaged_wfdb_records_of_a_table_are_found(folder, make_ecg):
    for name in "abc":
        _write_wfdb(folder, name, make_ecg(8), 100)
    (folder / "a.dat").write_bytes(b"short")
    (folder / "b.hea").write_text("nonsense")
    rows = [{"path": name, "rate": ""} for name in ("a", "b", "c.hea", "d.hea")]
    rows[2]["rate"] = "500"
    readings = _readings(manifest_source(_table(folder, rows), Signals()))
    expected = ("truncated", "malformed", "holds '500', the header 100", "cannot be")
    for reading, message in zip(readings, expected, strict=True):
        assert isinstance(reading, RecordError) and message in str(reading)
