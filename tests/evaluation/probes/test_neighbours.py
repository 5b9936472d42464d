"""The nearest neighbours' probe against scikit-learn and planted structure."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from ecgssl_jax.evaluation import metrics, probes


def clusters(records: int = 400, width: int = 8):
    """A label for each of three clusters around directions, and one of none."""
    random = np.random.default_rng(0)
    centres = 2 * random.normal(size=(3, width))
    cluster = random.integers(3, size=records)
    features = centres[cluster] + random.normal(size=(records, width))
    labels = np.column_stack(
        [*(cluster == k for k in range(3)), random.random(records) < 0.5]
    )
    return features.astype(np.float32), labels.astype(np.float32)


def test_votes_are_those_of_scikit_learn():
    features, labels = clusters()
    probe = probes.neighbour_probe(features[:300], labels[:300], neighbours=[20])
    mean, std = features[:300].mean(axis=0), features[:300].std(axis=0)
    scaled = (features - mean) / std
    judge = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    for label in range(4):
        judge.fit(scaled[:300], labels[:300, label])
        expected = judge.predict_proba(scaled[300:])[:, 1]
        found = probe.logits(features[300:])[:, label]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_number_of_neighbours_is_selected_on_held_out_rows():
    features, labels = clusters()
    held_out = np.arange(300, 400)
    probe = probes.neighbour_probe(features, labels[:, :3], held_out=held_out)
    assert tuple(probe.selection) == probes.NEIGHBOURS
    assert probe.neighbours == max(probe.selection, key=probe.selection.__getitem__)
    alone = probes.neighbour_probe(
        features[:300], labels[:300, :3], neighbours=[probe.neighbours]
    )
    scored = metrics.macro_auroc(alone.logits(features[300:]), labels[300:, :3])
    # But for the standardisation, which needs no label.
    assert scored.value == pytest.approx(probe.selection[probe.neighbours], abs=5e-3)
    assert len(probe.features) == 400
    group = probes.Group(labels=labels, held_out=held_out, final=np.arange(400) < 200)
    (some,) = probes.neighbour_probes(features, [group])
    np.testing.assert_array_equal(some.features, probe.features[:200])


def test_held_out_rows_do_not_vote_for_themselves():
    """Where features tell nothing, the nearest neighbour must not seem to know all."""
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 8)).astype(np.float32)
    labels = (random.random((400, 2)) < 0.5).astype(np.float32)
    probe = probes.neighbour_probe(
        features, labels, held_out=np.arange(200, 400), neighbours=(1, 50)
    )
    assert max(probe.selection.values()) < 0.65


def test_unknown_labels_have_no_vote():
    features, labels = clusters()
    known = np.random.default_rng(1).random(labels.shape) < 0.5
    known[:40] = False
    changed = np.where(known, labels, np.nan)
    found = [
        probes.neighbour_probe(features, y, known=known, neighbours=[10])
        for y in (labels, changed)
    ]
    plain, masked = (probe.logits(features) for probe in found)
    np.testing.assert_array_equal(plain, masked)
    assert len(found[0].features) == known.any(axis=1).sum() <= 360
    nothing = np.zeros(labels.shape, bool)
    nothing[:, 0] = True
    probe = probes.neighbour_probe(features, labels, known=nothing, neighbours=[10])
    assert (probe.logits(features)[:, 1:] == 0).all()


def test_more_neighbours_than_records_are_all_of_them():
    features, labels = clusters(records=12)
    few, all_of_them = (
        probes.neighbour_probe(features, labels, neighbours=[k]).logits(features)
        for k in (100, 12)
    )
    np.testing.assert_allclose(few, all_of_them, atol=1e-6)


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("no row is held out", {}),
        ("positive numbers", {"neighbours": [0]}),
        ("400 of 400 training rows are held out", {"held_out": np.ones(400, bool)}),
    ],
)
def test_settings_that_cannot_work_are_refused(message, settings):
    with pytest.raises(ValueError, match=message):
        probes.neighbour_probe(*clusters(), **settings)
