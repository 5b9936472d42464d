import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers import ptbxl
from ecgssl_jax.data.readers.source import SourceError
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.leads import LEADS

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
needs_ptbxl = pytest.mark.skipif(
    not (SHARED / "data" / "ptbxl").exists(), reason="PTB-XL is not beside the checkout"
)
# Columns and values as published.
STATEMENTS = """\
,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass,AHA code
NORM,normal ECG,1.0,,,NORM,NORM,1
IMI,inferior myocardial infarction,1.0,,,MI,IMI,161
AFIB,atrial fibrillation,,,1.0,,,50
PVC,ventricular premature complex,,1.0,,,,60
"""


def _write_record(path, samples, rate):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples.astype("<i2").tofile(path.with_name(f"{path.name}.dat"))
    names = ("I", "II", "III", "AVR", "AVL", "AVF", *LEADS[6:])
    lines = [f"{path.name} 12 {rate} {len(samples)}"]
    for name, x in zip(names, samples.T.astype(int), strict=True):
        checksum = x.sum() % 65536
        lines.append(f"{path.name}.dat 16 1000.0(0)/mV 16 0 {x[0]} {checksum} 0 {name}")
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight records of six patients at both rates, in PhysioNet's layout."""
    root = tmp_path_factory.mktemp("ptbxl") / "raw"
    rng = np.random.default_rng(0)
    codes = ({"NORM": 100.0}, {"IMI": 35.0, "AFIB": 0.0}, {"PVC": 100.0}, {})
    rows = []
    for number in range(1, 9):
        names = {
            "filename_lr": f"records100/00000/{number:05d}_lr",
            "filename_hr": f"records500/00000/{number:05d}_hr",
        }
        for name, rate in zip(names.values(), (100, 500), strict=True):
            samples = rng.normal(0, 300, (10 * rate, 12)).round()
            _write_record(root / name, samples, rate)
        rows.append(
            {
                "ecg_id": number,
                "patient_id": f"{15000 + number % 6}.0",
                "age": 50.0 + number,
                "report": f"sinusrhythmus, nr. {number}",
                "scp_codes": str(codes[number % 4]),
                "strat_fold": 1 + number % 2,
                **names,
            }
        )
    (root / ptbxl.STATEMENTS).write_text(STATEMENTS)
    _write_rows(root, rows)
    return root


def _write_rows(root, rows):
    with (root / ptbxl.DATABASE).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """200 records of PTB-XL itself."""
    root = tmp_path_factory.mktemp("published") / "raw"
    unpack = SHARED / "data" / "ptbxl" / "unpack"
    command = [sys.executable, unpack, root, "--folds", "9", "--limit", "200"]
    subprocess.run(command, check=True, capture_output=True)
    return root


@pytest.fixture
def damaged(root, tmp_path):
    """A copy of it to break."""
    return shutil.copytree(root, tmp_path / "raw")


def _rows(root):
    with (root / ptbxl.DATABASE).open(newline="") as file:
        return list(csv.DictReader(file))


def _readings(root):
    source = ptbxl.ptbxl_source(root)
    return dict(reading for task in source.tasks for reading in task())


def _check_identical(root, prepared, column="filename_lr"):
    rows = _rows(root)
    assert prepared.index["record_id"].tolist() == [row["ecg_id"] for row in rows]
    for row, signal in zip(rows, prepared.load(), strict=True):
        raw = (root / f"{row[column]}.dat").read_bytes()
        assert signal.astype("<i2").tobytes() == raw


@needs_ptbxl
def test_published_signals_are_byte_identical_to_the_files(published, tmp_path):
    prepared = prepare_dataset(ptbxl.ptbxl_source(published), tmp_path / "ptbxl")
    assert len(prepared) == 200
    assert prepared.scale == 0.001 and prepared.rate == 100
    _check_identical(published, prepared)


@pytest.mark.parametrize(
    ("rate", "column"), [(100, "filename_lr"), (500, "filename_hr")]
)
def test_both_rates_are_byte_identical_to_the_files(root, tmp_path, rate, column):
    source = ptbxl.ptbxl_source(root, rate=rate)
    prepared = prepare_dataset(source, tmp_path / "ptbxl")
    assert (prepared.rate, prepared.length) == (rate, 10 * rate)
    _check_identical(root, prepared, column)


def test_reports_folds_patients_and_likelihoods_are_kept(root, tmp_path):
    prepared = prepare_dataset(ptbxl.ptbxl_source(root), tmp_path / "ptbxl")
    rows, index = _rows(root), prepared.index
    assert index["text"].tolist() == [row["report"] for row in rows]
    assert index["fold"].tolist() == [int(row["strat_fold"]) for row in rows]
    assert index["patient"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    attributes = json.loads(index["attributes"][0])
    assert attributes == {"age": 51, "scp_codes": {"IMI": 35.0, "AFIB": 0.0}}


def test_a_statement_of_any_likelihood_is_a_label(root, tmp_path):
    prepared = prepare_dataset(ptbxl.ptbxl_source(root), tmp_path / "ptbxl")
    assert prepared.labels == ("AFIB", "IMI", "NORM", "PVC")
    expected = [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]] * 2
    assert prepared.index["labels"].tolist() == expected
    assert prepared.index["labels_valid"].all()


def test_the_label_table_is_that_of_the_statements(root):
    table = ptbxl.ptbxl_source(root).label_table
    assert table["IMI"] == {
        "description": "inferior myocardial infarction",
        "diagnostic": True,
        "form": False,
        "rhythm": False,
        "diagnostic_class": "MI",
        "diagnostic_subclass": "IMI",
    }
    assert table["AFIB"]["rhythm"] is True and table["PVC"]["form"] is True
    assert table["AFIB"]["diagnostic_class"] == ""


def _stand_in(path, *, id, **fields):
    """A tenth of a second of noise, the same for the same record."""
    noise = np.random.default_rng(int(id)).normal(size=(10, 3)).astype(np.float32)
    return Record(id=id, ecg=noise, rate=100.0, leads=LEADS[6:9], **fields)


@needs_ptbxl
def test_prepared_labels_give_the_published_counts(tmp_path, monkeypatch):
    """All rows of the table go through, with small signals in place of the files."""
    golden = json.loads((SHARED / "golden" / "ptbxl_tasks.json").read_text())["all"]
    monkeypatch.setattr(ptbxl, "read_wfdb", _stand_in)
    source = ptbxl.ptbxl_source(SHARED / "data" / "ptbxl")
    settings = Settings(seconds=0.1)
    prepare_dataset(source, tmp_path / "ptbxl", settings=settings)
    prepared = open_prepared(tmp_path / "ptbxl")
    assert list(prepared.labels) == golden["classes"]
    assert len(prepared) == golden["records"]
    assert prepared.metadata["folds"] == golden["records_per_fold"]
    positives = prepared.index["labels"].sum(axis=0, dtype=int).tolist()
    assert dict(zip(prepared.labels, positives, strict=True)) == golden["positives"]
    assert prepared.index["labels_valid"].all()


def test_damaged_files_become_errors_of_their_record(damaged):
    paths = [damaged / row["filename_lr"] for row in _rows(damaged)]
    names = [row["ecg_id"] for row in _rows(damaged)]
    files = [path.with_name(f"{path.name}.dat") for path in paths]
    files[0].write_bytes(files[0].read_bytes()[:-100])
    files[1].unlink()
    content = bytearray(files[2].read_bytes())
    content[5000] ^= 4
    files[2].write_bytes(content)
    paths[3].with_name(f"{paths[3].name}.hea").write_text("nonsense")
    readings = _readings(damaged)
    assert list(readings) == names
    expected = ("truncated", "cannot be read", "does not match its checksum", "malform")
    for name, message in zip(names, expected, strict=False):
        assert isinstance(readings[name], RecordError)
        assert message in str(readings[name]), name
    assert all(isinstance(readings[name], Record) for name in names[4:])


def _edit(root, row, **cells):
    rows = _rows(root)
    rows[row].update(cells)
    _write_rows(root, rows)
    return rows[row]["ecg_id"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"scp_codes": "{'NORM': 100"}, "unreadable row"),
        ({"scp_codes": "['NORM']"}, "unreadable row"),
        ({"scp_codes": "{'NRM': 100}"}, "'NRM'.* not in scp_statements.csv"),
        ({"strat_fold": ""}, "unreadable row"),
        ({"strat_fold": "inf"}, "unreadable row"),
        ({"scp_codes": "{1: 2, 'A': 3}"}, "not in scp_statements.csv"),
        ({"patient_id": "?"}, "unreadable row"),
        ({"filename_lr": ""}, "unreadable row"),
    ],
)
def test_damaged_rows_become_errors_of_their_record(damaged, cells, message):
    name = _edit(damaged, 5, **cells)
    readings = _readings(damaged)
    assert len(readings) == 8
    with pytest.raises(RecordError, match=message):
        raise readings.pop(name)
    assert all(isinstance(reading, Record) for reading in readings.values())


def test_missing_tables_are_named(tmp_path, root):
    with pytest.raises(SourceError, match="scp_statements.csv is missing.*--download"):
        ptbxl.ptbxl_source(tmp_path)
    shutil.copy(root / ptbxl.STATEMENTS, tmp_path)
    (tmp_path / ptbxl.DATABASE).write_text("ecg_id,age\n1,60\n")
    with pytest.raises(SourceError, match="no column patient_id, scp_codes"):
        ptbxl.ptbxl_source(tmp_path)
    with pytest.raises(SourceError, match="100 and 500 Hz, not 250"):
        ptbxl.ptbxl_source(root, rate=250)


def test_a_table_of_statements_without_its_columns_is_an_error(damaged):
    (damaged / ptbxl.STATEMENTS).write_text(",description\nNORM,normal ECG\n")
    with pytest.raises(SourceError, match="statements.csv has no column diagnostic"):
        ptbxl.ptbxl_source(damaged)
    (damaged / ptbxl.STATEMENTS).write_text(STATEMENTS.splitlines()[0] + "\n")
    with pytest.raises(SourceError, match="statements.csv has no rows"):
        ptbxl.ptbxl_source(damaged)
    (damaged / ptbxl.STATEMENTS).write_bytes(STATEMENTS.encode("utf-16"))
    with pytest.raises(SourceError, match="statements.csv cannot be read as a table"):
        ptbxl.ptbxl_source(damaged)


def test_a_row_with_too_many_cells_is_an_error_of_its_record(damaged):
    path = damaged / ptbxl.DATABASE
    lines = path.read_text().splitlines()
    lines[3] += ",beyond"
    path.write_text("\n".join(lines))
    readings = _readings(damaged)
    assert "more cells than columns" in str(readings.pop("3"))
    assert all(isinstance(reading, Record) for reading in readings.values())
