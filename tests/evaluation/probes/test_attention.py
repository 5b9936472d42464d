"""Attention probes against planted structure."""

import jax
import numpy as np
import pytest

from ecgssl_jax.evaluation import metrics, probes


def tokens_and_labels(records: int = 600, length: int = 8, width: int = 16):
    """The label is the sign of feature 1 in the one token that feature 0 marks."""
    random = np.random.default_rng(0)
    tokens = random.normal(size=(records, length, width)).astype(np.float32)
    marked = random.integers(length, size=records)
    tokens[..., 0] = 0
    tokens[np.arange(records), marked, 0] = 5
    labels = (tokens[np.arange(records), marked, 1] > 0).astype(np.float32)
    return tokens.astype(np.float16), labels[:, None]


ATTENTION = {"steps": 300, "batch_size": 64, "learning_rate": 1e-2}


@pytest.mark.parametrize("num_heads", [1, 4])
def test_attention_probe_finds_the_token_that_matters(num_heads):
    tokens, labels = tokens_and_labels()
    probe = probes.attention_probe(
        tokens[:400], labels[:400], num_heads=num_heads, **ATTENTION
    )
    pooled = probes.linear_probe(tokens[:400].mean(axis=1), labels[:400], l2=[1e-2])
    attended = metrics.auroc(probe.logits(tokens[400:]), labels[400:])
    averaged = metrics.auroc(pooled.logits(tokens[400:].mean(axis=1)), labels[400:])
    assert attended > 0.95
    assert averaged < 0.8


@pytest.mark.parametrize("num_heads", [1, 4])
def test_attention_lies_on_the_token_that_matters_and_adds_up(num_heads):
    tokens, labels = tokens_and_labels()
    probe = probes.attention_probe(
        tokens[:400], labels[:400], num_heads=num_heads, **ATTENTION
    )
    found = probe.attention(tokens[400:])
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    marked = tokens[400:, :, 0].argmax(axis=1)
    assert (found.argmax(axis=1) == marked).mean() > 0.95
    valid = np.ones((200, 8), bool)
    valid[:, 5:] = False
    found = probe.attention(tokens[400:], valid)
    assert (found[:, 5:] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_attention_probe_is_a_function_of_its_seed():
    tokens, labels = tokens_and_labels()
    first, again, other = (
        probes.attention_probe(tokens, labels, seed=seed, steps=20).logits(tokens)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_attention_probe_keeps_the_best_step_on_held_out_rows():
    tokens, labels = tokens_and_labels(records=120)
    held_out = np.arange(60, 120)
    probe = probes.attention_probe(
        tokens, labels, held_out=held_out, evaluate_every=20, **ATTENTION
    )
    assert list(probe.selection) == list(range(20, 301, 20))
    assert probe.step == max(probe.selection, key=probe.selection.__getitem__)
    scored = metrics.macro_auroc(probe.logits(tokens[held_out]), labels[held_out])
    assert scored.value == pytest.approx(probe.selection[probe.step], abs=1e-6)


def test_attention_probe_sees_neither_held_out_nor_unknown_labels():
    tokens, labels = tokens_and_labels(records=200)
    labels = np.hstack([labels, 1 - labels])
    known = np.random.default_rng(0).random(labels.shape) < 0.5
    known[:100] |= ~known[:100].any(axis=1, keepdims=True)
    changed = np.where(known, labels, np.nan)
    held_out = np.arange(100, 200)
    changed[100:] = labels[100:]
    plain, masked = (
        probes.attention_probe(
            tokens, y, known=v, held_out=held_out, steps=20, evaluate_every=20
        )
        for y, v in [(labels, known), (changed, known)]
    )
    jax.tree.map(np.testing.assert_array_equal, plain.params, masked.params)
    flipped = labels.copy()
    flipped[100:] = 1 - flipped[100:]
    other = probes.attention_probe(
        tokens, flipped, known=known, held_out=held_out, steps=20
    )
    jax.tree.map(np.testing.assert_array_equal, plain.params, other.params)


def test_attention_probe_takes_unknown_labels_for_no_negatives():
    tokens, labels = tokens_and_labels()
    labels = np.hstack([labels, labels])
    known = np.ones(labels.shape, bool)
    known[60:, 1] = False
    probe = probes.attention_probe(tokens, labels, known=known, **ATTENTION)
    # Half of the known labels are positive, of all rows a twentieth.
    probability = 1 / (1 + np.exp(-probe.logits(tokens)[:, 1]))
    assert probability.mean() == pytest.approx(0.5, abs=0.2)


def test_attention_probe_starts_at_the_log_odds_of_its_known_labels():
    tokens, labels = tokens_and_labels()
    labels = np.hstack([labels, 1 - labels])
    known = np.ones(labels.shape, bool)
    known[60:, 1] = False
    probe = probes.attention_probe(
        tokens, labels, known=known, steps=1, batch_size=len(tokens)
    )
    share = np.array([labels[rows, label].mean() for label, rows in enumerate(known.T)])
    # Smoothed by half a record, and one step of at most the learning rate away.
    expected = np.log(share) - np.log(1 - share)
    np.testing.assert_allclose(probe.params["bias"], expected, atol=5e-3)
    logits = probe.logits(tokens).mean(axis=0)
    np.testing.assert_allclose(logits, expected, atol=0.1)


def test_attention_probes_of_groups_do_not_depend_on_each_other():
    tokens, labels = tokens_and_labels(records=200)
    held_out = np.arange(100, 200)
    first = probes.Group(labels=labels, held_out=held_out)
    settings = {"steps": 60, "batch_size": 50, "evaluate_every": 20}
    found = []
    for other in (1 - labels, np.hstack([labels, labels]) * 0):
        second = probes.Group(labels=other, known=np.arange(200)[:, None] < 100)
        groups = [first, second]
        found.append(probes.attention_probes(tokens, groups, **settings))
    (one, two), (again, wide) = found
    assert one.selection == pytest.approx(again.selection, abs=1e-6)
    np.testing.assert_allclose(one.logits(tokens), again.logits(tokens), atol=1e-5)
    assert list(one.selection) == [20, 40, 60] and not two.selection
    assert two.step == 60 and wide.logits(tokens).shape == (200, 2)
    alone = probes.attention_probe(tokens, labels, held_out=held_out, **settings)
    np.testing.assert_allclose(one.logits(tokens), alone.logits(tokens), atol=1e-5)


def test_attention_probe_never_looks_at_padding():
    tokens, labels = tokens_and_labels()
    padding = np.full((len(tokens), 3, tokens.shape[2]), 9, np.float16)
    padded = np.concatenate([tokens, padding], axis=1)
    valid = np.arange(padded.shape[1]) < tokens.shape[1]
    valid = np.broadcast_to(valid, padded.shape[:2])
    plain = probes.attention_probe(tokens, labels, steps=50)
    found = probes.attention_probe(padded, labels, tokens_valid=valid, steps=50)
    np.testing.assert_allclose(
        found.logits(padded, valid), plain.logits(tokens), atol=2e-3
    )


def test_scores_do_not_depend_on_the_other_records():
    tokens, labels = tokens_and_labels(records=300)
    probe = probes.attention_probe(tokens, labels, steps=20)
    alone = np.concatenate([probe.logits(tokens[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(probe.logits(tokens)[:3], alone, atol=1e-6)


def test_tokens_must_fit_heads_and_validity():
    tokens, labels = tokens_and_labels(records=10)
    with pytest.raises(ValueError, match="3 heads do not divide the width 16"):
        probes.attention_probe(tokens, labels, num_heads=3)
    valid = np.ones((10, 8), bool)
    valid[4] = False
    with pytest.raises(ValueError, match="no valid token, the first in row 4"):
        probes.attention_probe(tokens, labels, tokens_valid=valid)
