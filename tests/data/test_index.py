import numpy as np
import pytest

from ecgssl_jax.data import index
from ecgssl_jax.data.readers.source import SourceError


def _columns(patients, folds):
    return {
        "patient": np.array(patients, np.int32),
        "fold": np.array(folds, np.int32),
        "record_id": np.array([f"r{k}" for k in range(len(folds))], object),
    }


def test_a_patient_in_two_folds_is_an_error():
    columns = _columns([0, 1, 0, 1, 2, 1], [1, 2, 1, 3, 3, 4])
    with pytest.raises(SourceError, match="1 of 3 patients.*r1 .fold 2. and record r3"):
        index.check_folds(columns)


def test_an_unknown_fold_is_no_fold():
    index.check_folds(_columns([0, 0, 1, 1, 1], [-1, 3, 2, -1, 2]))
    columns = _columns([0, 0, 0], [3, -1, 4])
    with pytest.raises(SourceError, match="r0 .fold 3. and record r2 .fold 4."):
        index.check_folds(columns)


def test_rows_become_columns_whatever_the_number_of_labels():
    for labels in ((), ("a", "b")):
        row = {
            "text": "Größe",
            "fold": 3,
            "lead_valid": np.ones(12, bool),
            "labels": np.ones(len(labels)),
        }
        columns = index.stack_rows([row, row])
        assert {name: x.shape for name, x in columns.items()} == {
            "text": (2,),
            "fold": (2,),
            "lead_valid": (2, 12),
            "labels": (2, len(labels)),
        }
        assert columns["text"].tolist() == ["Größe"] * 2
        assert columns["labels"].dtype == np.uint8
    assert index.stack_rows([]) == {}
