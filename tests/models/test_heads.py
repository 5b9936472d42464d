import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.models.heads import Head
from ecgssl_jax.models.network import Network


def features(rows=16, width=5):
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def test_training_is_a_dense_layer_a_batch_norm_a_relu_and_a_dense_layer():
    network, x = Network(Head(hidden=(6,), out=3)), features()
    params, statistics = network.init_all(jax.random.key(1), x)
    found, changed = network.train(params, statistics, x)
    hidden = x @ params["dense1"]["kernel"]
    mean, var = hidden.mean(axis=0), hidden.var(axis=0)
    hidden = np.maximum((hidden - mean) / np.sqrt(var + 1e-5), 0)
    expected = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(changed["norm1"]["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(changed["norm1"]["var"], 0.9 + 0.1 * var, atol=1e-6)


def test_evaluation_takes_the_running_statistics():
    network, x = Network(Head(hidden=(6,), out=3)), features()
    params, _ = network.init_all(jax.random.key(1), x)
    running = {"norm1": {"mean": np.full(6, 0.5), "var": np.full(6, 4.0)}}
    found = network.apply(params, x, statistics=running)
    hidden = (x @ params["dense1"]["kernel"] - 0.5) / np.sqrt(4.0 + 1e-5)
    expected = np.maximum(hidden, 0) @ params["out"]["kernel"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_hidden_layers_it_is_linear_and_has_no_statistics():
    network, x = Network(Head(hidden=(), out=3, out_bias=False)), features()
    params, statistics = network.init_all(jax.random.key(1), x)
    assert statistics == {} and set(params["out"]) == {"kernel"}
    np.testing.assert_allclose(
        network.apply(params, x), x @ params["out"]["kernel"], atol=1e-6
    )


def test_without_batch_norm_a_row_depends_on_itself_alone():
    network, x = Network(Head(hidden=(6, 7), out=3, batch_norm=False)), features()
    params, statistics = network.init_all(jax.random.key(1), x)
    found, _ = network.train(params, statistics, x)
    np.testing.assert_allclose(found[2:3], network.apply(params, x[2:3]), atol=1e-6)
    assert set(params["dense1"]) == {"kernel", "bias"}


def test_low_precision_is_in_the_products_only():
    network, x = Network(Head(hidden=(6,), out=3, dtype=jnp.bfloat16)), features()
    params, statistics = network.init_all(jax.random.key(1), x)
    found, changed = network.train(params, statistics, x)
    leaves = [found, *jax.tree.leaves((params, changed))]
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}


def test_rows_that_are_not_valid_are_not_in_the_statistics():
    network, x = Network(Head(hidden=(6,), out=3)), features()
    params, statistics = network.init_all(jax.random.key(1), x)
    expected, alone = network.train(params, statistics, x[:3])
    valid = np.arange(len(x)) < 3
    assert np.isfinite(
        network.train(params, statistics, x, valid=valid & False)[0]
    ).all()
    found, changed = network.train(params, statistics, x, valid=valid)
    np.testing.assert_allclose(found[:3], expected, atol=1e-5)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6),
        changed,
        alone,
    )
