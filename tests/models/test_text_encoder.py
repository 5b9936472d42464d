"""The text encoder: an embedding depends on its own valid tokens and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.models import text
from ecgssl_jax.models.network import Network
from ecgssl_jax.settings import ConfigError, build

VOCABULARY, B, S = 11, 4, 7
LENGTHS = np.array([7, 3, 1, 5])
POOLINGS = ("cls", "mean", "max")
TINY = text.TextEncoder(vocabulary_size=VOCABULARY, width=16, depth=2, num_heads=2)


def _texts(seed=0):
    """Tokens [B, S], padded with 0, and which are valid; texts of `LENGTHS`."""
    rng = np.random.default_rng(seed)
    valid = np.arange(S) < LENGTHS[:, None]
    tokens = np.where(valid, rng.integers(3, VOCABULARY, (B, S)), 0).astype(np.int32)
    tokens[:, 0] = 2
    return tokens, valid


def _params(module):
    """Random parameters, drawn by NumPy: no time for compiling."""
    tokens = jnp.zeros((1, S), jnp.int32)
    shapes = jax.eval_shape(
        lambda key: Network(module).init(key, tokens, tokens == 0), jax.random.key(0)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0.0, 0.3, x.shape).astype(x.dtype), shapes)


@functools.cache
def _compiled(**fields):
    return jax.jit(Network(TINY.clone(**fields)).apply)


def _apply(params, tokens, valid, **fields):
    """The embeddings by `TINY` with other fields."""
    return np.asarray(_compiled(**fields)(params, tokens, valid))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_embedding_does_not_depend_on_the_other_texts(pooling):
    params, (tokens, valid) = _params(TINY), _texts()
    together = _apply(params, tokens, valid, pooling=pooling)
    alone = _apply(params, tokens[1:2], valid[1:2], pooling=pooling)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    others, others_valid = _texts(seed=5)
    for row in range(B):
        mixed, mixed_valid = others.copy(), others_valid.copy()
        mixed[row], mixed_valid[row] = tokens[row], valid[row]
        mixed_valid[row - 1] = False
        again = _apply(params, mixed, mixed_valid, pooling=pooling)
        np.testing.assert_array_equal(together[row], again[row])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_embedding_does_not_depend_on_the_padding(pooling):
    params, (tokens, valid) = _params(TINY), _texts()
    short = _apply(params, tokens, valid, pooling=pooling)
    padding = ((0, 0), (0, 9))
    longer = _apply(
        params, np.pad(tokens, padding), np.pad(valid, padding), pooling=pooling
    )
    np.testing.assert_allclose(short, longer, atol=1e-6)
    # What stands in the padding does not count either.
    rubbish = np.where(valid, tokens, 7).astype(np.int32)
    np.testing.assert_array_equal(
        short, _apply(params, rubbish, valid, pooling=pooling)
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_valid_token_and_its_place_count(pooling):
    params, (tokens, valid) = _params(TINY), _texts()
    before = _apply(params, tokens, valid, pooling=pooling)
    for place in range(1, LENGTHS[0]):
        changed = tokens.copy()
        changed[0, place] = 3 if tokens[0, place] != 3 else 4
        after = _apply(params, changed, valid, pooling=pooling)
        assert np.abs(after[0] - before[0]).max() > 1e-3
    turned = tokens.copy()
    turned[0, 1:] = tokens[0, :0:-1]
    assert (
        np.abs(_apply(params, turned, valid, pooling=pooling)[0] - before[0]).max()
        > 1e-3
    )


def test_poolings_are_the_first_the_mean_and_the_largest_of_the_valid_tokens():
    # Without blocks: the norm of scaled embeddings and positions, by NumPy.
    module = TINY.clone(depth=0)
    params, (tokens, valid) = _params(module), _texts()
    x = params["token_embedding"][tokens] * 4.0
    angles = np.arange(S)[:, None] / 10000.0 ** (np.arange(8) / 8)
    x = x + np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    norm = params["transformer"]["norm"]
    x = x * norm["scale"] + norm["bias"]
    rows = [x[row, :length] for row, length in enumerate(LENGTHS)]
    expected = {
        "cls": [row[0] for row in rows],
        "mean": [row.mean(axis=0) for row in rows],
        "max": [row.max(axis=0) for row in rows],
    }
    for pooling in POOLINGS:
        found = _apply(params, tokens, valid, depth=0, pooling=pooling)
        np.testing.assert_allclose(found, expected[pooling], atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_without_valid_tokens_is_finite_and_so_are_all_gradients(pooling):
    params, (tokens, valid) = _params(TINY), _texts()
    tokens[1], valid[1] = 0, False

    @jax.jit
    def run(params):
        found = _compiled(pooling=pooling)(params, tokens, valid)
        unit = found / jnp.linalg.norm(found, axis=-1, keepdims=True)
        return (unit[:1] * unit).sum(), found

    gradients, found = jax.grad(run, has_aux=True)(params)
    assert np.isfinite(found).all()
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all()
    # Whatever pads it.
    padding = ((0, 0), (0, 3))
    longer = _apply(
        params, np.pad(tokens, padding), np.pad(valid, padding), pooling=pooling
    )
    np.testing.assert_allclose(found, longer, atol=1e-6)


def test_gradients_reach_every_parameter_and_no_embedding_of_padding():
    params, (tokens, valid) = _params(TINY), _texts()
    weights = np.random.default_rng(3).normal(size=(B, 16))

    @jax.jit
    def loss(params):
        return (Network(TINY).apply(params, tokens, valid) * weights).sum()

    gradients = jax.grad(loss)(params)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.abs(gradient).max() > 0, path
    embedding = np.abs(gradients["token_embedding"]).max(axis=1)
    used = np.unique(tokens[valid])
    assert (embedding[used] > 0).all()
    assert not np.delete(embedding, used).any()


def test_bfloat16_is_near_float32():
    params, (tokens, valid) = _params(TINY), _texts()
    expected = _apply(params, tokens, valid)
    found = _apply(params, tokens, valid, dtype=jnp.bfloat16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_a_token_beyond_the_vocabulary_shows():
    params, (tokens, valid) = _params(TINY), _texts()
    tokens[0, 1] = VOCABULARY
    found = _apply(params, tokens, valid)
    assert np.isnan(found[0]).all() and np.isfinite(found[1:]).all()


def test_initial_tokens_have_unit_variance():
    module = TINY.clone(vocabulary_size=2000, width=64, depth=0)
    tokens, valid = _texts()
    params = jax.jit(Network(module).init)(jax.random.key(0), tokens, valid)
    assert params["token_embedding"].std() * 8 == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("preset", "count"),
    # 12 D^2 + 13 D a block, the final norm, and the embedding of 100 tokens.
    [
        (name, depth * (12 * d**2 + 13 * d) + 2 * d + 100 * d)
        for name, d, depth in (("xtiny", 192, 4), ("tiny", 192, 12), ("small", 384, 12))
    ],
)
def test_presets_have_the_published_sizes(preset, count):
    settings = text.Settings(preset=preset)
    module = text.make_text_encoder(settings, vocabulary_size=100, dtype=jnp.float32)
    shapes = jax.eval_shape(lambda: _init(module))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def _init(module):
    tokens = jnp.zeros((1, S), jnp.int32)
    return Network(module).init(jax.random.key(0), tokens, tokens == 0)


def test_settings_change_a_preset():
    settings = build(text.Settings, {"depth": 2, "pooling": "max"}, "config.text")
    module = text.make_text_encoder(settings, vocabulary_size=9, dtype=jnp.float32)
    assert (module.width, module.depth, module.num_heads) == (192, 2, 3)
    assert module.pooling == "max"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 5}, "192 cannot be split into 5 heads"),
        ({"width": 9, "num_heads": 1}, "even width, found 9"),
        ({"depth": 0}, "depth: expected at least 1, found 0"),
        ({"drop_path": 1.0}, "drop_path: expected at least 0 and below 1"),
        ({"pooling": "sum"}, "config.text.pooling: expected 'cls' or 'mean' or 'max'"),
        ({"preset": "big"}, "config.text.preset: expected 'xtiny' or"),
    ],
)
def test_wrong_settings_say_what_to_change(values, message):
    with pytest.raises(ConfigError, match=message):
        build(text.Settings, values, "config.text")
