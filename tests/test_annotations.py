"""Texts and labels as methods ask for them, and batches that would teach nothing."""

import types

import numpy as np
import pytest

from ecgssl_jax.annotations import (
    check_batches,
    labelled_part,
    make_labels,
    make_texts,
)
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.text import Texts, open_vocabulary
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation.budget import draw, parse_budget
from ecgssl_jax.experiment import parse
from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods.base import LabelShape, TextShape
from ecgssl_jax.settings import ConfigError

# Every other record, so that its place among them is not its number.
ROWS = np.arange(0, 30, 2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """30 synthetic records with labels and reports."""
    folder = tmp_path_factory.mktemp("annotations") / "synthetic"
    return prepare_dataset(synthetic_source(30), folder, report=lambda text: None)


def check(
    prepared, *, couples_rows=True, leads=(), batch_size=8, mixture=None, **annotations
):
    method = types.SimpleNamespace(couples_rows=couples_rows, leads=leads)
    config = dict(steps=1, batch_size=batch_size, model={}, method=dict(name="clocs"))
    pipeline = Pipeline(
        mixture=mixture or Mixture(sets=(prepared,), rows=(ROWS,)),
        crop=200,
        cache="none",
        masks=None,
        num_patches=0,
        seed=0,
        batch_size=batch_size,
        **annotations,
    )
    check_batches(parse(config), method, pipeline)


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (1, "batch_size: 1, but clocs tells .* take 2 or more"),
        (16, "batch_size: 16 of the 15 records of synthetic: .*; take 15 at most"),
    ],
)
def test_a_batch_that_holds_nothing_to_tell_apart_is_refused(
    prepared, batch_size, message
):
    with pytest.raises(ConfigError, match=message):
        check(prepared, batch_size=batch_size)
    check(prepared, batch_size=batch_size, couples_rows=False)
    check(prepared, batch_size=15)


def test_a_small_set_of_a_mixture_is_not_twice_in_a_batch(prepared):
    def check_with(weight):
        """Of 8 rows, so many of 8 are of the set with two records."""
        weights = (8 - weight, weight)
        mixture = Mixture(sets=(prepared,) * 2, rows=(ROWS, ROWS[:2]), weights=weights)
        check(prepared, mixture=mixture)

    check_with(2)
    with pytest.raises(ConfigError, match=r"37\.5% are of the 2 records of synthetic"):
        check_with(3)


def texts_of(ids):
    """Texts with these ids in the records to train on, and others elsewhere."""
    everywhere = np.arange(30, dtype=np.int32)
    everywhere[ROWS] = ids
    table = np.zeros((31, 4), np.int32)
    return Texts(tokens=table, ids=everywhere, num_tokens=everywhere)


@pytest.mark.parametrize(("id", "found"), [(-1, 0), (7, 1)])
def test_reports_that_are_all_alike_or_in_other_folds_are_refused(prepared, id, found):
    ids = np.full(len(ROWS), id)
    with pytest.raises(ConfigError, match=f"have {found} different reports, and two"):
        check(prepared, texts=texts_of(ids))
    ids[:2] = 8, 9
    check(prepared, texts=texts_of(ids))


def test_labels_that_are_known_in_other_folds_only_are_refused(prepared):
    mixture = Mixture(sets=(prepared,), rows=(ROWS,))
    holds, known = np.zeros((2, 30, 20), bool)
    known[1::2] = True
    shape = LabelShape("labels", 20)
    with pytest.raises(ConfigError, match="no label of the 15 .* to train on is known"):
        labelled_part(mixture, (holds, known), shape)
    # Records whose labels say nothing are not trained on.
    known[ROWS[3], 3] = True
    found = labelled_part(mixture, (holds, known), shape)
    np.testing.assert_array_equal(found.records, [ROWS[3]])


def test_a_budget_of_labels_is_that_of_probes(prepared):
    mixture = Mixture(sets=(prepared,), rows=(ROWS,))
    labels = make_labels((prepared,), LabelShape("labels", 20))
    patients = prepared.index["patient"]
    for text, seed in (("30 %", 0), ("30 %", 1), ("2 per class", 0)):
        found = labelled_part(mixture, labels, LabelShape("labels", 20, text, seed))
        drawn = draw(
            parse_budget(text),
            patients[ROWS],
            labels[0][ROWS],
            labels[1][ROWS],
            population=int(patients.max()) + 1,
            seed=seed,
        )
        np.testing.assert_array_equal(found.records, ROWS[drawn])
        assert 0 < len(found.records) < len(ROWS)
    with pytest.raises(ConfigError, match="config.method.budget: unknown budget 'few'"):
        labelled_part(mixture, labels, LabelShape("labels", 20, "few"))


def test_labels_of_several_sets_follow_each_other(prepared):
    holds, known = make_labels((prepared, prepared), LabelShape("labels", 20))
    index = prepared.index
    np.testing.assert_array_equal(holds, np.tile(index["labels"], (2, 1)))
    np.testing.assert_array_equal(known, np.tile(index["labels_valid"], (2, 1)))
    with pytest.raises(ConfigError, match="num_labels: 3, but .* has 20 labels"):
        make_labels((prepared,), LabelShape("labels", 3))


def test_sets_count_by_their_labelled_records_unless_weights_say_otherwise(prepared):
    mixture = Mixture(sets=(prepared,) * 2, rows=(ROWS, ROWS), weights=(3.0, 1.0))
    holds, known = np.zeros((2, 60, 20), bool)
    known[:30] = True
    known[30 + ROWS[:5]] = True
    shape = LabelShape("labels", 20)
    for by_size, weights in ((True, (15, 5)), (False, (3, 1))):
        found = labelled_part(mixture, (holds, known), shape, by_size=by_size)
        assert found.weights == weights


def test_texts_are_told_of_those_that_are_trained_on(prepared, capsys):
    vocabulary = open_vocabulary(prepared)
    shape = TextShape(length=3, vocabulary_size=vocabulary.size)
    reports = ["sinus rhythm", "atrial fibrillation", "", "sinus rhythm", "pacing"]
    make_texts(reports, vocabulary, shape, np.array([0, 2, 3]))
    assert "texts: 2 of 3 records have one, 1 are distinct" in capsys.readouterr().out
    long = ["sinus rhythm and left bundle branch block", "sinus rhythm and pacing"]
    make_texts(long, vocabulary, shape, np.arange(2))
    assert "to 3 tokens, by which 1 became like others" in capsys.readouterr().out


def test_leads_that_no_record_has_are_named(prepared):
    index = dict(prepared.index) | {"lead_valid": prepared.index["lead_valid"].copy()}
    index["lead_valid"][ROWS, LEADS.index("aVL")] = False
    without = Mixture(sets=(Indexed(prepared, index),), rows=(ROWS,))
    check(prepared, leads=("II", "V2"), mixture=without)
    with pytest.raises(ConfigError, match="has aVL; choose among I, II, III, aVR, aVF"):
        check(prepared, leads=("II", "aVL"), mixture=without)


class Indexed:
    """A prepared set with another index."""

    def __init__(self, prepared, index):
        self.prepared, self.index = prepared, index

    def __len__(self):
        return len(self.prepared)

    def __getattr__(self, name):
        return getattr(self.prepared, name)
