"""The online probe, on features that are known to hold the labels, or not to."""

import dataclasses
import types

import numpy as np
import pytest

from ecgssl_jax import sharding
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation import online
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.methods.base import LabelShape
from ecgssl_jax.settings import ConfigError

STATE = types.SimpleNamespace(params=None, extra=None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """200 synthetic records with labels and folds."""
    folder = tmp_path_factory.mktemp("online") / "synthetic"
    return prepare_dataset(synthetic_source(200), folder, report=lambda text: None)


UNLABELLED = types.SimpleNamespace(labels=None)


def make_probe(prepared, method=UNLABELLED, classes=None, **values):
    settings = online.evaluator_settings({"probe": values})["probe"]
    return online.make_probe(
        settings,
        "config.evaluators.probe",
        prepared=prepared,
        method=method,
        classes=prepared.labels if classes is None else classes,
        crop=1000,
        clip=None,
        mesh=sharding.make_mesh(Mesh()),
    )


def run_on(probe, prepared, features, monkeypatch):
    """The probe's values where record r has `features[r]`."""

    def extract(function, params, extra, found, rows, **settings):
        assert found is prepared
        return {"pooled": features[rows].astype(np.float32)}

    monkeypatch.setattr(online, "extract", extract)
    return dict(probe.run(STATE))


def test_features_that_hold_the_labels_are_probed_as_perfect(prepared, monkeypatch):
    noise = 1e-3 * np.random.default_rng(0).normal(size=(200, 40))
    labels = prepared.index["labels"].astype(float)
    features = np.concatenate([labels, noise], axis=1)
    values = run_on(make_probe(prepared), prepared, features, monkeypatch)
    assert values["macro_auroc"] > 0.99


def test_features_without_the_labels_are_probed_as_chance(prepared, monkeypatch):
    features = np.random.default_rng(0).normal(size=(200, 4))
    probe = make_probe(prepared, valid_folds=(8, 9, 10), train_folds=(1, 2, 3, 4))
    values = run_on(probe, prepared, features, monkeypatch)
    assert 0.3 < values["macro_auroc"] < 0.7


def test_collapsed_features_show_in_both_monitors(prepared, monkeypatch):
    rng = np.random.default_rng(0)
    line = rng.normal(size=(200, 1)) * np.ones((1, 8))
    spread = rng.normal(size=(200, 8))
    probe = make_probe(prepared, valid_folds=(8, 9, 10), train_folds=(1, 2, 3, 4))
    low, high, none = (
        run_on(probe, prepared, features, monkeypatch)
        for features in (line, spread, 0 * spread + 1)
    )
    assert low["rankme"] < 1.01 and high["rankme"] > 6
    rows = probe.valid.rows
    assert high["feature_std"] == pytest.approx(spread[rows].std(axis=0).mean())
    assert none["feature_std"] == 0


def test_every_name_that_a_probe_yields_is_known(prepared, monkeypatch):
    features = np.random.default_rng(0).normal(size=(200, 4))
    values = run_on(make_probe(prepared), prepared, features, monkeypatch)
    assert tuple(values) == online.PROBE_METRICS


def test_the_parts_are_of_their_folds_and_drawn_once(prepared):
    settings = dict(train_folds=(1, 2), valid_folds=(5,), max_records=9)
    probe, again = make_probe(prepared, **settings), make_probe(prepared, **settings)
    fold = prepared.index["fold"]
    assert set(fold[probe.train.rows]) <= {1, 2}
    assert set(fold[probe.valid.rows]) == {5}
    assert len(probe.train.rows) == 9
    assert len(set(probe.train.rows.tolist())) == 9
    np.testing.assert_array_equal(probe.train.rows, again.train.rows)
    np.testing.assert_array_equal(
        probe.train.labels, prepared.index["labels"][probe.train.rows]
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evry": 3}, "unknown key 'evry'; did you mean 'every'"),
        ({"every": 0}, "probe.every: expected at least 1, found 0"),
        ({"kind": "knn"}, "probe.kind: unknown evaluator 'knn'"),
        ({"task": "superdiagnostc"}, "did you mean 'superdiagnostic'"),
    ],
)
def test_wrong_settings_are_named_without_a_set(values, message):
    with pytest.raises(ConfigError, match=message):
        online.evaluator_settings({"probe": values})


def test_a_set_that_does_not_fit_is_named(prepared):
    with pytest.raises(ConfigError, match="config.evaluators.probe: .*tells of"):
        make_probe(prepared, task="superdiagnostic")
    with pytest.raises(ConfigError, match=r"has no fold \[12\]"):
        make_probe(prepared, valid_folds=(12,))
    index = {**prepared.index, "labels": np.zeros((200, 0), np.uint8)}
    unlabelled = dataclasses.replace(prepared, index=index)
    with pytest.raises(ConfigError, match="has no labels; name a labelled"):
        make_probe(unlabelled)


def labelled_in_part(prepared, known):
    """The set with the labels of the records `known` [N] alone."""
    valid = prepared.index["labels_valid"] * np.asarray(known)[:, None]
    labels = prepared.index["labels"] * valid
    index = {**prepared.index, "labels": labels, "labels_valid": valid}
    return dataclasses.replace(prepared, index=index)


def test_unknown_labels_are_no_negatives(prepared, monkeypatch):
    known = np.arange(200) % 2 == 0
    part = labelled_in_part(prepared, known)
    probe = make_probe(part, valid_folds=(8, 9, 10), train_folds=(1, 2, 3, 4))
    assert known[probe.train.rows].all() and known[probe.valid.rows].all()
    # Were the others negatives, features that hold all labels would be wrong there.
    labels = prepared.index["labels"].astype(float)
    noise = 1e-3 * np.random.default_rng(0).normal(size=(200, 40))
    features = np.concatenate([labels, noise], axis=1)
    assert run_on(probe, part, features, monkeypatch)["macro_auroc"] > 0.99


def test_folds_in_which_nothing_can_be_scored_are_named(prepared):
    fold = prepared.index["fold"]
    part = labelled_in_part(prepared, fold != 9)
    message = "probe.valid_folds: no label of synthetic has known positives and neg"
    with pytest.raises(ConfigError, match=message):
        make_probe(part, valid_folds=(9,))


def test_features_that_are_not_finite_have_no_score(prepared, monkeypatch):
    features = np.random.default_rng(0).normal(size=(200, 4))
    features[prepared.index["fold"] == 9] = np.nan
    values = run_on(make_probe(prepared), prepared, features, monkeypatch)
    assert (
        tuple(values) == online.PROBE_METRICS and np.isnan(list(values.values())).all()
    )


def test_a_probe_that_is_validated_on_its_training_folds_is_refused(prepared):
    with pytest.raises(ConfigError, match=r"probe: folds \[8\] are in train_folds and"):
        make_probe(prepared, train_folds=(1, 2, 8), valid_folds=(8, 9))


def test_predictions_of_a_method_that_learns_the_labels_are_scored(
    prepared, monkeypatch
):
    method = types.SimpleNamespace(labels=LabelShape("labels", 20))
    probe = make_probe(prepared, method, valid_folds=(8, 9, 10), train_folds=(1, 2))
    labels = prepared.index["labels"]
    features = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)

    def extract(function, params, extra, found, rows, **settings):
        return {"pooled": features[rows], "logits": labels[rows].astype(np.float32)}

    monkeypatch.setattr(online, "extract", extract)
    values = dict(probe.run(STATE))
    assert values["predictions_auroc"] == 1 and values["macro_auroc"] < 0.9


def test_without_training_folds_predictions_alone_are_scored(prepared, monkeypatch):
    method = types.SimpleNamespace(labels=LabelShape("labels", 20))
    probe = make_probe(prepared, method, train_folds=(), valid_folds=(8, 9, 10))
    labels = prepared.index["labels"].astype(np.float32)
    encoded = []

    def extract(function, params, extra, found, rows, **settings):
        encoded.extend(rows)
        return {"pooled": labels[rows], "logits": labels[rows]}

    monkeypatch.setattr(online, "extract", extract)
    values = dict(probe.run(STATE))
    assert (
        tuple(values) == probe.metrics == ("rankme", "feature_std", "predictions_auroc")
    )
    assert values["predictions_auroc"] == 1
    assert set(prepared.index["fold"][encoded]) == {8, 9, 10}
    with pytest.raises(
        ConfigError, match="train_folds: there are none, and the method"
    ):
        make_probe(prepared, train_folds=())


@pytest.mark.parametrize("shape", [LabelShape("all", 71)])
def test_predictions_of_other_labels_are_not_scored(prepared, shape):
    method = types.SimpleNamespace(labels=shape)
    assert make_probe(prepared, method).own is None


def test_predictions_of_as_many_labels_in_another_order_are_not_scored(prepared):
    method = types.SimpleNamespace(labels=LabelShape("labels", 20))
    assert make_probe(prepared, method).own is not None
    assert make_probe(prepared, method, prepared.labels[::-1]).own is None
