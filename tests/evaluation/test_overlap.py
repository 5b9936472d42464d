"""What other sets, which were trained on, have of the evaluated records."""

import types
from pathlib import Path

import numpy as np
import pytest

from ecgssl_jax.evaluation import overlap
from ecgssl_jax.evaluation.overlap import Overlap, note, overlaps_of

ROOT = Path("data")


def prepared(content, signals, patients, folds=None, name="one", salt=False, **stored):
    columns = {
        "signal_hash": np.array(list(signals), object),
        "patient_hash": np.array(list(patients), object),
        "fold": np.array(folds or [1] * len(signals)),
    }

    class Prepared(types.SimpleNamespace):
        def __len__(self):
            return len(signals)

    metadata = {
        "content_hash": content,
        "settings": {"salt": salt},
        "rate": 100.0,
        "length": 1000,
        "scale": 0.001,
        **stored,
    }
    return Prepared(metadata=metadata, index=columns, name=name)


EVALUATED = prepared("e", "abcd", "PPQR")
OTHER = prepared("o", "xcbd", "SQTR", folds=[1, 1, 2, 3])


@pytest.fixture(autouse=True)
def sets(monkeypatch):
    there = {ROOT / "other": OTHER}

    def open_prepared(path):
        if path not in there:
            raise FileNotFoundError(path)
        return there[path]

    monkeypatch.setattr(overlap, "open_prepared", open_prepared)
    return there


def found(rows=(0, 1, 2, 3), **trained):
    rows = np.array(rows)
    return list(overlaps_of(trained, EVALUATED, rows, ROOT))


def test_shared_records_and_patients_are_counted():
    trained = {"content_hash": "o", "folds": None}
    assert found(other=trained) == [Overlap(name="other", records=3, patients=2)]
    # Of the rows that are asked for, and of the folds that were trained on.
    assert found((0, 1), other=trained) == [
        Overlap(name="other", records=1, patients=0)
    ]
    trained = {"content_hash": "o", "folds": [1, 2]}
    assert found(other=trained) == [Overlap(name="other", records=2, patients=1)]


def test_other_folds_of_the_set_itself_may_hold_a_patient_or_a_copy(monkeypatch):
    own = prepared("e", "abca", "PPQR", folds=[1, -1, 9, 9])
    monkeypatch.setitem(globals(), "EVALUATED", own)
    trained = {"content_hash": "e", "folds": [-1, 1, 9]}
    assert found((0,), mine=trained) == [
        Overlap(name="other folds of mine", records=1, patients=1)
    ]
    assert found((0,), mine={"content_hash": "e", "folds": [1]}) == []
    assert found((0,), mine={"content_hash": "e", "folds": None})[0].records == 1


def test_the_set_itself_is_for_its_folds_to_tell():
    assert found(other={"content_hash": "e", "folds": None}) == []


def test_a_set_that_is_gone_or_another_one_now_is_unknown():
    (gone,) = found(gone={"content_hash": "g", "folds": None})
    expected = "could not be checked for records and patients: it is not in data"
    assert expected in note(gone)
    (changed,) = found(other={"content_hash": "former", "folds": None})
    assert "other contents now" in note(changed)


def test_a_set_without_hashes_is_unknown(sets):
    del (other := prepared("o", "ab", "PQ")).index["signal_hash"]
    sets[ROOT / "other"] = other
    (old,) = found(other={"content_hash": "o", "folds": None})
    assert "prepare them again" in note(old)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"length": 500}, "records: they were prepared with other --rate, --seconds"),
        ({"scale": 0.002}, "records: they were prepared with other --rate, --seconds"),
        ({"name": "other"}, "patients: sets of other names or salts"),
        ({"salt": True}, "patients: sets of other names or salts"),
    ],
)
def test_what_hashes_cannot_tell_is_not_called_none(sets, changes, text):
    sets[ROOT / "other"] = prepared("o", "xyz", "STU", **changes)
    (each,) = found(other={"content_hash": "o", "folds": None})
    assert each.unknown.startswith(text) and not each.is_known
    assert f"could not be checked for {text}" in note(each)
    sets[ROOT / "other"] = prepared("o", "abz", "STU", **changes)
    (each,) = found(other={"content_hash": "o", "folds": None})
    assert "saw 2 of these records" in note(each) and "has more of these" in note(each)


def test_notes_are_of_what_is_shared():
    assert note(Overlap(name="other")) == ""
    text = note(Overlap(name="other", records=3, patients=2))
    assert "saw 3 of these records and 2 of these patients in other" in text
