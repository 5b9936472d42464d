import csv

import numpy as np
import pytest

from ecgssl_jax.data.readers.manifest import Signals, manifest_source, split_leads
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
        {"path": "0.npy", "labels": "afib; lbbb"},
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
        ([{"file": "0.npy"}], "no column 'path'; found file"),
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
    bad = {
        "truncated.npy": "not a readable .npy file",
        "empty.npy": "not a readable .npy file",
        "absent.npy": "not a readable .npy file",
        "turned.npy": "would fit layout CT",
        "text.npy": "expected numbers",
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


def test_a_flag_without_a_known_lead_or_unit_is_found(folder):
    path = _table(folder, [{"path": "0.npy"}])
    names = tuple(f"channel {i}" for i in range(12))
    (reading,) = _readings(
        manifest_source(path, Signals(rate=100.0, unit="mV", leads=names))
    )
    assert "none of ['channel 0'" in str(reading)
    (reading,) = _readings(
        manifest_source(path, Signals(rate=100.0, unit="cm", leads=LEADS))
    )
    assert "unit 'cm'" in str(reading)


def test_lead_lists_may_be_separated_by_anything_usual():
    for text in ("I,II,V1", "I II V1", "I; II; V1", "I, II, V1"):
        assert split_leads(text) == ("I", "II", "V1")
