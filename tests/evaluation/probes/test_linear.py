"""Linear probes against scikit-learn and closed forms."""

import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from ecgssl_jax.evaluation import metrics, probes


def features_and_labels(records: int = 800, width: int = 20, labels: int = 6):
    """Correlated features with an offset; prevalence from a half to a few percent."""
    random = np.random.default_rng(0)
    sizes = np.arange(1, width + 1) ** -0.7
    features = (random.normal(size=(records, width)) * sizes) @ random.normal(
        size=(width, width)
    )
    logits = features @ random.normal(size=(width, labels))
    noise = random.logistic(size=logits.shape)
    chosen = logits / logits.std(axis=0) * 2 + noise > np.linspace(0, 4, labels)
    return (features + 5).astype(np.float32), chosen.astype(np.float32)


def standardised(features) -> np.ndarray:
    features = features.astype(np.float64)
    return (features - features.mean(axis=0)) / features.std(axis=0)


def judge(labels, rows, features, l2: float) -> np.ndarray:
    """scikit-learn's logits of all records, fitted to one label of some rows."""
    model = LogisticRegression(
        C=1 / (l2 * rows.sum()), solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    return model.fit(features[rows], labels[rows]).decision_function(features)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_linear_probe_agrees_with_scikit_learn(l2):
    features, labels = features_and_labels()
    probe = probes.linear_probe(features, labels, l2=[l2], tolerance=1e-9)
    every = np.ones(len(labels), bool)
    expected = [judge(y, every, standardised(features), l2) for y in labels.T]
    logits = probe.logits(features)
    np.testing.assert_allclose(logits, np.stack(expected, axis=1), atol=1e-3)


def test_linear_probe_ignores_unknown_labels():
    features, labels = features_and_labels()
    known = np.random.default_rng(1).random(labels.shape) < 0.7
    unknown = np.where(known, labels, np.nan)
    probe = probes.linear_probe(features, unknown, known=known, l2=[1e-2])
    # The statistics are those of all records: features need no label.
    expected = [
        judge(y, rows, standardised(features), 1e-2)
        for y, rows in zip(labels.T, known.T, strict=True)
    ]
    logits = probe.logits(features)
    np.testing.assert_allclose(logits, np.stack(expected, axis=1), atol=5e-3)


def test_linear_probe_selects_the_strength_on_held_out_rows_then_uses_all():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(300, 100)), np.zeros((300, 1))
    labels[:, 0] = features[:, 0] + random.normal(size=300) > 0
    train = np.arange(300) < 200
    strengths = (1e-5, 1e-2, 1.0)
    probe = probes.linear_probe(
        features, labels, held_out=~train, l2=strengths, stop_below=1.0
    )
    expected = {}
    for l2 in strengths:
        scores = judge(labels[:, 0], train, standardised(features), l2)
        expected[l2] = roc_auc_score(labels[~train, 0], scores[~train])
    assert probe.selection == pytest.approx(expected, abs=2e-3)
    assert probe.l2 == max(expected, key=expected.__getitem__) == 1.0
    everything = judge(labels[:, 0], train | ~train, standardised(features), probe.l2)
    np.testing.assert_allclose(probe.logits(features)[:, 0], everything, atol=5e-3)


def test_strengths_that_overfit_further_are_not_tried():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(300, 100)), np.zeros((300, 1))
    labels[:, 0] = features[:, 0] + random.normal(size=300) > 0
    held_out = np.arange(200, 300)
    probe = probes.linear_probe(features, labels, held_out=held_out)
    *before, last = probe.selection.values()
    assert tuple(probe.selection) == probes.STRENGTHS[: len(before) + 1]
    assert len(before) + 1 < len(probes.STRENGTHS)
    assert last < max(before) - 0.01
    assert probe.l2 == max(probe.selection, key=probe.selection.__getitem__)


def test_groups_have_the_probes_that_they_would_have_alone():
    features, labels = features_and_labels()
    random = np.random.default_rng(2)
    fold = random.integers(0, 4, len(features))
    groups = [
        probes.Group(labels=labels[:, :4], held_out=fold == 3),
        # A tenth of the rows, which overfits earlier.
        probes.Group(
            labels=labels[:, 3:],
            known=(fold == 3)[:, None] | (random.random((len(features), 1)) < 0.1),
            held_out=fold == 3,
            final=fold != 3,
        ),
    ]
    fit = functools.partial(
        probes.linear_probes,
        l2=(1.0, 1e-1, 1e-2, 1e-3),
        tolerance=1e-7,
        stop_below=2e-3,
    )
    together = fit(features, groups)
    for group, found in zip(groups, together, strict=True):
        (alone,) = fit(features, [group])
        assert found.l2 == alone.l2
        assert found.selection == pytest.approx(alone.selection, abs=1e-4)
        logits = alone.logits(features)
        np.testing.assert_allclose(found.logits(features), logits, atol=2e-3)
    assert together[0].l2 != together[1].l2


def test_in_the_end_the_rows_that_are_named_are_fitted():
    features, labels = features_and_labels()
    held_out = np.arange(len(features)) % 4 == 0
    group = probes.Group(labels=labels, held_out=held_out, final=~held_out)
    (probe,) = probes.linear_probes(features, [group], tolerance=1e-9)
    expected = [judge(y, ~held_out, standardised(features), probe.l2) for y in labels.T]
    logits = probe.logits(features)
    np.testing.assert_allclose(logits, np.stack(expected, axis=1), atol=5e-3)


def test_a_mask_and_indices_hold_out_the_same_rows():
    features, labels = features_and_labels()
    mask = np.arange(len(labels)) % 5 == 0
    by_mask = probes.linear_probe(features, labels, held_out=mask)
    by_index = probes.linear_probe(features, labels, held_out=np.flatnonzero(mask))
    assert by_mask.selection == by_index.selection


@pytest.mark.parametrize(
    ("probe", "settings"),
    [(probes.linear_probe, {"l2": [1e-2]}), (probes.ridge_probe, {"l2": 1e-2})],
)
def test_constant_features_and_labels_of_one_kind_do_no_harm(probe, settings):
    features, labels = features_and_labels()
    plain = probe(features, labels, **settings).logits(features)
    constant = np.full((len(features), 1), 3.3, np.float32)
    none, every = np.zeros((len(labels), 1)), np.ones((len(labels), 1))
    features = np.hstack([constant, features])
    fitted = probe(features, np.hstack([none, labels, every]), **settings)
    np.testing.assert_array_equal(fitted.weights[0], 0)
    np.testing.assert_allclose(fitted.weights[:, [0, -1]], 0, atol=1e-6)
    logits = fitted.logits(features)
    np.testing.assert_allclose(logits[:, 1:-1], plain, atol=1e-3)
    assert (logits[:, 0] < logits[:, -1]).all()


def test_linear_probe_of_separable_labels_stays_finite():
    features = np.random.default_rng(0).normal(size=(60, 200))
    labels = (np.arange(60) < 3).astype(np.float32)[:, None]
    probe = probes.linear_probe(features, labels, l2=[1e-6])
    assert np.isfinite(probe.weights).all()
    assert metrics.auroc(probe.logits(features), labels) == [1.0]


def test_ridge_probe_agrees_with_scikit_learn():
    features, labels = features_and_labels()
    probe = probes.ridge_probe(features, labels, l2=0.03)
    model = Ridge(alpha=0.03 * len(labels)).fit(standardised(features), labels)
    expected = model.predict(standardised(features))
    np.testing.assert_allclose(probe.logits(features), expected, atol=1e-4)


def test_ridge_probe_ignores_unknown_labels():
    features, labels = features_and_labels()
    known = np.random.default_rng(1).random(labels.shape) < 0.7
    known[:, 1] = known[:, 0]
    unknown = np.where(known, labels, np.nan)
    probe = probes.ridge_probe(features, unknown, known=known, l2=0.03)
    inputs, logits = standardised(features), probe.logits(features)
    for label, rows in enumerate(known.T):
        model = Ridge(alpha=0.03 * rows.sum()).fit(inputs[rows], labels[rows, label])
        np.testing.assert_allclose(logits[:, label], model.predict(inputs), atol=1e-4)


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("no row is held out", {}),
        ("must hold positive strengths", {"l2": [0.0]}),
        ("800 of 800 training rows are held out", {"held_out": np.ones(800, bool)}),
        (r"held_out is \(7,\)", {"held_out": np.ones(7, bool)}),
        (r"known is \(800, 2\)", {"known": np.ones((800, 2)), "l2": [1.0]}),
    ],
)
def test_settings_that_cannot_work_are_refused(message, settings):
    with pytest.raises(ValueError, match=message):
        probes.linear_probe(*features_and_labels(), **settings)


def test_features_that_are_not_finite_are_refused_with_their_row():
    features, labels = features_and_labels()
    features[7, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 800 records .* the first in row 7"):
        probes.ridge_probe(features, labels)


def test_labels_must_be_binary_and_of_the_same_records():
    features, labels = features_and_labels()
    with pytest.raises(ValueError, match="must be 0 or 1"):
        probes.ridge_probe(features, labels + 1)
    with pytest.raises(ValueError, match="labels .* for 5 records"):
        probes.ridge_probe(features[:5], labels)


def test_a_probe_refuses_features_of_another_width():
    features, labels = features_and_labels()
    with pytest.raises(ValueError, match=r"probe trained on \[N, 20\]"):
        probes.ridge_probe(features, labels).logits(features[:, :3])
