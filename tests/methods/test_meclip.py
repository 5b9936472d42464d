"""The loss against loops over pairs; what is never NaN; the temperature's bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.methods import meclip
from ecgssl_jax.methods.meclip import clip_loss
from ecgssl_jax.models import vit

MODES = ("clip", "exclude", "positive", "multi_positive")
ENCODER = vit.ViT(width=8, depth=1, num_heads=2, patch_size=4)


def embeddings(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 5)), rng.normal(size=(rows, 5))


def reference(ecg, text, ids, mode, temperature):
    """Pair by pair, in float64, of the rows that have a text."""
    ecg, text, ids = (x[ids >= 0] for x in (ecg, text, ids))
    ecg, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ecg, text))
    rows = range(len(ids))

    def direction(similarity):
        def pair(i, j):
            others = [
                similarity[i, k]
                for k in rows
                if k != i and (mode == "clip" or ids[k] != ids[i])
            ]
            return np.log(np.exp([similarity[i, j], *others]).sum()) - similarity[i, j]

        own = np.mean([pair(i, i) for i in rows])
        repeated = [[j for j in rows if j != i and ids[j] == ids[i]] for i in rows]
        if mode == "positive" and any(repeated):
            return own + np.mean([pair(i, j) for i in rows for j in repeated[i]])
        if mode == "multi_positive":
            means = [np.mean([pair(i, j) for j in [i, *repeated[i]]]) for i in rows]
            return np.mean(means)
        return own

    similarity = ecg @ text.T / temperature
    return (direction(similarity) + direction(similarity.T)) / 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "ids",
    [[0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 0, 1], [0, -1, 0, 2, -1, 2], [3, 3, 1, 1, 1, 0]],
    ids=["all unlike", "repeats", "some without text", "two groups"],
)
def test_loss_is_that_of_a_loop_over_pairs(mode, ids):
    ids = np.array(ids)
    ecg, text = embeddings(len(ids))
    with jax.enable_x64(True):
        found = clip_loss(ecg, text, ids, temperature=0.2, mode=mode)
    assert float(found) == pytest.approx(reference(ecg, text, ids, mode, 0.2), rel=1e-9)


@pytest.mark.parametrize("mode", MODES[1:])
def test_without_repeats_every_mode_is_clip(mode):
    ecg, text = embeddings(6)
    plain, other = (
        float(clip_loss(ecg, text, np.arange(6), temperature=0.1, mode=m))
        for m in ("clip", mode)
    )
    assert other == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "ids",
    [[0, 0, 0, 0], [-1, -1, -1, -1], [-1, 2, -1, -1], [0]],
    ids=["all alike", "no text", "one text", "one row"],
)
def test_loss_and_gradient_are_finite_in_every_batch(mode, ids):
    ids = np.array(ids)
    ecg, text = embeddings(len(ids))

    def loss(ecg, text):
        return clip_loss(ecg, text, ids, temperature=0.01, mode=mode)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(ecg, text)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in gradients)
    if mode != "clip" or (ids < 0).sum() >= 3 or len(ids) == 1:
        # Nothing to tell apart.
        assert value == 0


def test_rows_without_text_get_no_gradient_and_do_not_count():
    ecg, text = embeddings(6)
    ids = np.array([0, 1, -1, 0, -1, 2])
    has_text = ids >= 0

    def loss(ecg, text, ids):
        return clip_loss(ecg, text, ids, temperature=0.1, mode="positive")

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(ecg, text, ids)
    assert all(not np.asarray(x)[~has_text].any() for x in gradients)
    without = loss(ecg[has_text], text[has_text], ids[has_text])
    assert float(value) == pytest.approx(float(without), rel=1e-6)


def test_the_weight_of_repeated_pairs_scales_what_they_add():
    ecg, text = embeddings(6)
    ids = np.array([0, 1, 0, 2, 0, 1])

    def loss(weight):
        return float(
            clip_loss(
                *(ecg, text, ids),
                temperature=0.1,
                mode="positive",
                positive_weight=weight,
            )
        )

    excluded = float(clip_loss(ecg, text, ids, temperature=0.1, mode="exclude"))
    assert loss(0.0) == pytest.approx(excluded, rel=1e-6)
    assert loss(2.0) - loss(0.0) == pytest.approx(2 * (loss(1.0) - loss(0.0)), rel=1e-5)


def test_pairs_count_what_is_told_apart():
    ecg, text = embeddings(4)
    ids = np.array([0, 1, 0, -1])
    _, row = meclip.compare(ecg, text, ids, 0.1, "exclude", 1.0)
    np.testing.assert_array_equal(row.repeated, [1, 0, 1, 0])
    np.testing.assert_array_equal(row.negatives, [1, 2, 1, 0])
    np.testing.assert_array_equal(row.own[3], 0)
    _, row = meclip.compare(ecg, text, ids, 0.1, "clip", 1.0)
    np.testing.assert_array_equal(row.negatives, [2, 2, 2, 0])
    nearest = ecg @ (text[:3] / np.linalg.norm(text[:3], axis=1, keepdims=True)).T
    np.testing.assert_array_equal(row.best_id[:3], ids[nearest.argmax(axis=1)[:3]])


def test_unknown_mode_is_an_error_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'multi'.*use one of clip, exclude"):
        clip_loss(
            *embeddings(2),
            np.arange(2),
            temperature=0.1,
            mode="multi",  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("logit", [-50.0, 0.0, 50.0])
def test_a_learned_temperature_stays_within_its_range(logit):
    settings = meclip.Settings(
        learn_temperature=True, temperature=0.07, temperature_range=(0.02, 0.5)
    )
    method = meclip.build(settings, ENCODER, steps=1, masks=None)
    found = float(method.temperature({"temperature": jnp.float32(logit)}))
    assert 0.02 * (1 - 1e-6) <= found <= 0.5 * (1 + 1e-6)
    first = method.temperature({"temperature": jnp.float32(method._logit())})
    assert float(first) == pytest.approx(0.07, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperature=0.0), "temperature must be positive"),
        (dict(temperature=2.0, learn_temperature=True), "begins within"),
        (dict(temperature_range=(0.5, 0.1)), "the lower one first"),
        (dict(vocabulary_size=0), "must be at least 1"),
        (dict(text_length=1), "text_length must be at least 2"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        meclip.Settings(**settings)
