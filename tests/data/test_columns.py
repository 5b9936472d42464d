"""Columns of a Parquet file: read when asked for, checked, in several threads."""

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ecgssl_jax.data.columns import ChangedFileError, Columns

TEXTS = ["sinus", "", "Vorhofflimmern", "sinus"]


@pytest.fixture
def path(tmp_path):
    """Four rows in two row groups."""
    flags = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array([i % 3 == 0 for i in range(12)]), 3
    )
    table = pyarrow.table(
        {"fold": pyarrow.array([3, 1, -1, 7], "int32"), "text": TEXTS, "flags": flags}
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    return tmp_path / "t.parquet"


def _open(path, absent=None):
    return Columns(path, hashlib.sha256(path.read_bytes()).hexdigest(), absent)


def test_columns_are_arrays_of_their_kind(path):
    columns = _open(path)
    assert list(columns) == ["fold", "text", "flags"] and len(columns) == 3
    assert columns["fold"].dtype == np.int32
    assert columns["fold"].tolist() == [3, 1, -1, 7]
    assert columns["text"].dtype == object and columns["text"].tolist() == TEXTS
    assert columns["flags"].dtype == np.bool_
    assert columns["flags"].tolist() == [[True, False, False]] * 4
    with pytest.raises(KeyError, match="folds"):
        columns["folds"]


def test_a_column_is_read_once_and_equal_strings_are_one(path):
    columns = _open(path)
    assert columns["fold"] is columns["fold"]
    text = columns["text"]
    assert text[0] is text[3] and columns["text"] is text


def test_opening_reads_no_column(path, monkeypatch):
    monkeypatch.setattr(Columns, "_read", lambda self, name: name)
    columns = _open(path)
    assert columns._columns == {"fold": None, "text": None, "flags": None}
    assert columns["fold"] == "fold" and columns._columns["text"] is None


def test_columns_that_the_file_may_lack_give_way_to_its_own(path):
    others = {"fold": np.zeros(4), "labels": np.zeros((4, 0))}
    columns = _open(path, others)
    assert columns["fold"].tolist() == [3, 1, -1, 7]
    assert columns["labels"].shape == (4, 0) and "labels" in columns


def test_another_file_under_the_same_name_is_not_read(path):
    columns = _open(path)
    other = path.with_name("other")
    other.write_bytes(b"something else")
    other.replace(path)
    assert columns["text"].tolist() == TEXTS


def test_a_file_of_another_hash_is_refused_in_other_processes_too(path):
    columns = _open(path, {"labels": np.zeros((4, 0))})
    copied = pickle.loads(pickle.dumps(columns))
    assert copied["text"].tolist() == TEXTS and copied["labels"].shape == (4, 0)
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChangedFileError, match="t.parquet does not match its hash"):
        pickle.loads(pickle.dumps(columns))


def test_threads_read_the_same(path):
    columns = _open(path)
    names = ["fold", "text", "flags"] * 20
    with ThreadPoolExecutor(4) as pool:
        for name, found in zip(
            names, pool.map(columns.__getitem__, names), strict=True
        ):
            assert found is columns[name]
