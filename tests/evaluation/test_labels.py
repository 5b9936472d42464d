"""Labels as tasks ask for them."""

import dataclasses

import numpy as np
import pytest

from ecgssl_jax.evaluation.labels import columns_of, every_task, labels_of
from ecgssl_jax.settings import ConfigError
from tests.evaluation.labelled import labelled_set


def statements():
    """A set with two diagnostic statements and one of rhythm, which one record lacks."""
    prepared, _ = labelled_set(6)
    diagnostic = dict(form=None, rhythm=None, diagnostic=1.0)
    table = {
        "NORM": diagnostic | dict(diagnostic_class="NORM", diagnostic_subclass="NORM"),
        "IMI": diagnostic | dict(diagnostic_class="MI", diagnostic_subclass="IMI"),
        "SR": dict(form=None, rhythm=1.0, diagnostic=None, diagnostic_class=None),
    }
    labels = np.array(
        [[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    )
    index = dict(prepared.index) | {
        "labels": labels.astype(np.uint8),
        "labels_valid": np.ones_like(labels, np.uint8),
    }
    return dataclasses.replace(
        prepared, labels=("NORM", "IMI", "SR"), label_table=table, index=index
    )


def test_every_task_stands_side_by_side(monkeypatch):
    prepared = statements()
    tasks = ("all", "superdiagnostic", "rhythm")
    monkeypatch.setattr("ecgssl_jax.evaluation.ptbxl.TASKS", tasks)
    monkeypatch.setattr("ecgssl_jax.evaluation.labels.KNOWN_TASKS", (*tasks, "every"))
    assert every_task(prepared) == tasks
    found = labels_of(prepared, "every")
    assert found.classes == (
        "all: IMI",
        "all: NORM",
        "all: SR",
        "superdiagnostic: MI",
        "superdiagnostic: NORM",
        "rhythm: SR",
    )
    columns = columns_of(prepared, "every")
    for task in tasks:
        own = labels_of(prepared, task)
        part = columns[task]
        np.testing.assert_array_equal(found.labels[own.rows, part], own.labels)
        # A record that is not of a task says nothing of it.
        outside = np.setdiff1d(np.arange(6), own.rows)
        assert (
            found.known[own.rows, part].all() and not found.known[outside, part].any()
        )
        assert own.classes == tuple(
            name.removeprefix(f"{task}: ") for name in found.classes[part]
        )


def test_of_a_set_with_labels_of_its_own_these_are_every_task():
    prepared, _ = labelled_set()
    found = labels_of(prepared, "every")
    own = labels_of(prepared, "labels")
    assert found.classes == ("labels: a", "labels: b")
    np.testing.assert_array_equal(found.rows, own.rows)
    np.testing.assert_array_equal(found.known, own.known)
    assert columns_of(prepared, "labels") == {"labels": slice(None)}


def test_a_set_without_labels_has_no_task_at_all():
    prepared, _ = labelled_set()
    index = dict(prepared.index) | {"labels": np.zeros((200, 0), np.uint8)}
    prepared = dataclasses.replace(prepared, labels=(), index=index)
    with pytest.raises(ConfigError, match="mine has no labels; name a labelled"):
        labels_of(prepared, "every")
