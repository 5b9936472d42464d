"""Losses over blocks of columns are those over all columns, however many there are."""

import jax
import numpy as np
import pytest

from ecgssl_jax.methods import all_pairs
from ecgssl_jax.methods.clocs import clocs_loss
from ecgssl_jax.methods.meclip import clip_loss
from ecgssl_jax.methods.simclr import nt_xent_loss

ROWS = 11
GROUPS = np.array([0, 1, 0, 2, 3, 1, 0, 4, -1, 5, 4])  # below 0: without text
LOSSES = {
    "nt_xent": lambda x, y: nt_xent_loss(x, y, temperature=0.1),
    "clocs": lambda x, y: clocs_loss(
        x, y, np.abs(GROUPS), temperature=0.1, valid=GROUPS >= 0
    ),
    **{
        mode: lambda x, y, mode=mode: clip_loss(
            x, y, GROUPS, temperature=0.1, mode=mode
        )
        for mode in ("clip", "exclude", "positive", "multi_positive")
    },
}


@pytest.mark.parametrize("block", [1, 4, 5, 10])
@pytest.mark.parametrize("name", LOSSES)
def test_blocks_change_neither_loss_nor_gradient(monkeypatch, name, block):
    vectors = np.random.default_rng(0).normal(size=(2, ROWS, 6))
    with jax.enable_x64(True):
        whole = jax.value_and_grad(LOSSES[name], (0, 1))(*vectors)
        monkeypatch.setattr(all_pairs, "BLOCK", block)
        parts = jax.value_and_grad(LOSSES[name], (0, 1))(*vectors)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12),
        whole,
        parts,
    )


def test_an_empty_sum_is_finite_and_adds_nothing():
    rows = np.zeros((2, 3), np.float32)
    values = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    counted = np.array([[True, False], [False, False]])

    def total(values):
        return all_pairs.add_exponentials(all_pairs.nothing(rows), values, counted)

    np.testing.assert_allclose(total(values)[0], 1.0, rtol=1e-6)
    assert np.isfinite(total(values)[1]) and total(values)[1] < -1e37
    gradient = jax.grad(lambda x: total(x).sum())(values)
    np.testing.assert_allclose(gradient, [[1.0, 0.0], [0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("block", [4, 100])
def test_a_block_knows_its_columns(monkeypatch, block):
    monkeypatch.setattr(all_pairs, "BLOCK", block)

    def step(seen, column):
        chosen = column["number"] >= 0
        return seen + (column["x"] * chosen).sum(), column["number"].max()

    def one(known, column):
        return (*step(known[0], column), known[2] + (column["number"] >= 0).sum())

    x = np.arange(1.0, 8.0)
    total, last, count = all_pairs.fold(one, (0.0, np.int32(0), 0), {"x": x})
    assert (float(total), int(last), int(count)) == (28.0, 6, 7)
