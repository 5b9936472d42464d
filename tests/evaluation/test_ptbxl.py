"""The tasks of PTB-XL against the reference benchmark's counts."""

import ast
import csv
import json
import pathlib

import numpy as np
import pytest

from ecgssl_jax.evaluation import ptbxl

SHARED = pathlib.Path(__file__).resolve().parents[2].parent / "shared"

TABLE = {
    "NORM": {"diagnostic": 1.0, "diagnostic_class": "NORM", "diagnostic_subclass": "N"},
    "IMI": {"diagnostic": "1.0", "diagnostic_class": "MI", "diagnostic_subclass": "I"},
    "ILMI": {"diagnostic": 1, "diagnostic_class": "MI", "diagnostic_subclass": "I"},
    "NDT": {
        "diagnostic": 1.0,
        "form": 1.0,
        "diagnostic_class": "STTC",
        "diagnostic_subclass": "STTC",
    },
    "SR": {"diagnostic": float("nan"), "form": "", "rhythm": 1.0},
    "PVC": {"diagnostic": None, "form": 1.0, "rhythm": None},
}
STATEMENTS = tuple(TABLE)


def rows_with(*records: str) -> np.ndarray:
    """[N, S] labels from space-separated statements of each record."""
    return np.array([[s in record.split() for s in STATEMENTS] for record in records])


@pytest.fixture(scope="module")
def golden():
    path = SHARED / "golden" / "ptbxl_tasks.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def database():
    """Identifiers, folds, labels, statements and table of PTB-XL, folds 1-9."""
    folder = SHARED / "data" / "ptbxl"
    if not folder.exists():
        pytest.skip(f"{folder} is absent")
    with open(folder / "scp_statements.csv", newline="") as file:
        table = {row.pop(""): row for row in csv.DictReader(file)}
    with open(folder / "ptbxl_database.csv", newline="") as file:
        records = [r for r in csv.DictReader(file) if int(float(r["strat_fold"])) < 10]
    statements = sorted(table)
    codes = [ast.literal_eval(record["scp_codes"]) for record in records]
    return {
        "ids": [record["ecg_id"] for record in records],
        "folds": np.array([int(float(record["strat_fold"])) for record in records]),
        "codes": codes,
        "labels": np.array([[s in code for s in statements] for code in codes]),
        "statements": statements,
        "table": table,
    }


@pytest.mark.parametrize("name", ptbxl.TASKS)
def test_task_equals_the_reference(name, golden, database):
    task = ptbxl.task(
        name, database["labels"], database["statements"], database["table"]
    )
    folds, counts = np.unique(database["folds"][task.rows], return_counts=True)
    positives = task.labels.sum(axis=0).astype(int).tolist()
    assert {
        "classes": list(task.classes),
        "records": len(task.rows),
        "records_per_fold": dict(zip(map(str, folds), counts.tolist(), strict=True)),
        "positives": dict(zip(task.classes, positives, strict=True)),
    } == golden[name]


def test_first_records_have_the_reference_statements(golden, database):
    task = ptbxl.task(
        "all", database["labels"], database["statements"], database["table"]
    )
    first = {
        database["ids"][row]: [c for c, y in zip(task.classes, label, strict=True) if y]
        for row, label in zip(task.rows[:20], task.labels[:20], strict=True)
    }
    assert first == golden["first_rows"]


def test_every_reference_task_is_built(golden):
    assert set(ptbxl.TASKS) | {"first_rows"} == set(golden)


def test_statements_of_one_superclass_merge_into_it():
    labels = rows_with("IMI ILMI SR", "NORM NDT", "SR")
    task = ptbxl.task("superdiagnostic", labels, STATEMENTS, TABLE)
    assert task.classes == ("MI", "NORM", "STTC")
    np.testing.assert_array_equal(task.rows, [0, 1])
    np.testing.assert_array_equal(task.labels, [[1, 0, 0], [0, 1, 1]])


def test_single_superclass_task_drops_records_with_two():
    labels = rows_with("IMI ILMI SR", "NORM NDT", "SR", "NORM SR")
    task = ptbxl.task("single_superdiagnostic", labels, STATEMENTS, TABLE)
    np.testing.assert_array_equal(task.rows, [0, 3])
    np.testing.assert_array_equal(task.labels.sum(axis=1), 1)


def test_classes_are_made_of_the_statements_of_the_table():
    found = {name: ptbxl.parts(name, STATEMENTS, TABLE) for name in ptbxl.TASKS}
    assert found["superdiagnostic"] == {"MI": [1, 2], "NORM": [0], "STTC": [3]}
    assert found["subdiagnostic"] == {"I": [1, 2], "N": [0], "STTC": [3]}
    assert found["form"] == {"NDT": [3], "PVC": [5]} and found["rhythm"] == {"SR": [4]}
    labels = rows_with("IMI SR", "NORM NDT PVC")
    for name, parts in found.items():
        assert tuple(parts) == ptbxl.task(name, labels, STATEMENTS, TABLE).classes


def test_classes_do_not_depend_on_which_records_are_given():
    form, rhythm = (
        ptbxl.task(name, rows_with("PVC"), STATEMENTS, TABLE)
        for name in ("form", "rhythm")
    )
    assert form.classes == ("NDT", "PVC")
    assert rhythm.classes == ("SR",)
    assert rhythm.labels.shape == (0, 1)


@pytest.mark.parametrize(
    ("name", "labels", "statements", "message"),
    [
        ("superclass", np.zeros((1, 1)), ("SR",), "no PTB-XL task is called"),
        ("all", np.zeros((1, 2)), ("SR",), r"\(1, 2\) for 1 statements"),
        ("all", np.full((1, 1), np.nan), ("SR",), "must be 0 or 1"),
        ("all", np.zeros((1, 1)), ("IMIX",), "'IMIX' is not among.*near: 'IMI'"),
        ("form", np.zeros((1, 1)), ("SR",), "belongs to the task 'form'"),
    ],
)
def test_bad_input_is_refused(name, labels, statements, message):
    with pytest.raises(ValueError, match=message):
        ptbxl.task(name, labels, statements, TABLE)
