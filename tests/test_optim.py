"""Schedules and AdamW against closed forms and a NumPy reference."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ecgssl_jax import optim
from ecgssl_jax.settings import ConfigError

STEPS = 8


def _params():
    rng = np.random.default_rng(0)
    return {
        "encoder": {
            "kernel": rng.normal(size=(3, 4)).astype(np.float32),
            "bias": rng.normal(size=4).astype(np.float32),
        },
        "mask_token": rng.normal(size=4).astype(np.float32),
    }


def _gradients(count=STEPS):
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), _params())
        for _ in range(count)
    ]


def _run(settings, gradients, params=None):
    optimiser = optim.make_optimiser(settings, STEPS)
    params = _params() if params is None else params
    state = jax.jit(optimiser.init)(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def _adamw(param, gradients, rates, decays, *, b1, b2, epsilon):
    """Loshchilov & Hutter, arXiv 1711.05101, algorithm 2, in float64."""
    param = np.asarray(param, np.float64)
    first = second = np.zeros_like(param)
    pairs = zip(gradients, rates, decays, strict=True)
    for t, (gradient, rate, decay) in enumerate(pairs, start=1):
        gradient = np.asarray(gradient, np.float64)
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        adam = first / (1 - b1**t) / (np.sqrt(second / (1 - b2**t)) + epsilon)
        param = param - rate * (adam + decay * param)
    return param


# ---- Schedules ----


def test_rate_rises_linearly_then_falls_by_half_a_cosine():
    settings = optim.Settings(learning_rate=(0.1, 1.0, 0.2), warmup=0.25)
    rate, _ = optim.schedules(settings, 41)
    found = jax.vmap(rate)(jnp.arange(41))
    warmup, last = 10, 40
    expected = [0.1 + 0.9 * s / warmup for s in range(warmup)]
    expected += [
        0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (s - warmup) / (last - warmup)))
        for s in range(warmup, 41)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[0] == pytest.approx(0.1) and found[-1] == pytest.approx(0.2)


def test_weight_decay_is_half_a_cosine_between_its_ends():
    _, decay = optim.schedules(optim.Settings(weight_decay=(0.04, 0.4)), 11)
    found = jax.vmap(decay)(jnp.arange(11))
    expected = [
        0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * s / 10)) for s in range(11)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_schedules_stay_at_their_last_value():
    rate, decay = optim.schedules(optim.Settings(), 10)
    assert float(rate(jnp.int32(1000))) == pytest.approx(1e-6)
    assert float(decay(jnp.int32(1000))) == pytest.approx(0.1)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_finite_rates(steps, warmup):
    settings = optim.Settings(warmup=warmup)
    for schedule in optim.schedules(settings, steps):
        values = jax.vmap(schedule)(jnp.arange(steps))
        assert np.all(np.isfinite(values)) and np.all(values >= 0)
        assert np.all(values <= 1)


# ---- AdamW ----


def test_updates_are_those_of_adamw_with_schedules_and_decay_mask():
    settings = optim.Settings(
        learning_rate=(1e-3, 1e-1, 1e-4),
        warmup=0.25,
        weight_decay=(0.1, 1.0),
        b1=0.8,
        b2=0.95,
        epsilon=1e-4,
    )
    gradients = _gradients()
    found = _run(settings, gradients)
    rates, decays = (
        [float(schedule(jnp.int32(s))) for s in range(STEPS)]
        for schedule in optim.schedules(settings, STEPS)
    )
    for path, decayed in (
        (("encoder", "kernel"), True),
        (("encoder", "bias"), False),
        (("mask_token",), True),
    ):

        def at(tree, path=path):
            for name in path:
                tree = tree[name]
            return tree

        expected = _adamw(
            at(_params()),
            [at(gradient) for gradient in gradients],
            rates,
            [d * decayed for d in decays],
            b1=0.8,
            b2=0.95,
            epsilon=1e-4,
        )
        np.testing.assert_allclose(at(found), expected, rtol=1e-5, atol=1e-6)


def test_decay_shrinks_without_any_gradient():
    settings = optim.Settings(
        learning_rate=(0.1, 0.1, 0.1), weight_decay=(0.5, 0.5), warmup=0.0
    )
    zero = jax.tree.map(np.zeros_like, _params())
    found = _run(settings, [zero] * 3)
    shrunk = (1 - 0.1 * 0.5) ** 3
    kernel = _params()["encoder"]["kernel"]
    np.testing.assert_allclose(found["encoder"]["kernel"], shrunk * kernel, rtol=1e-5)
    np.testing.assert_array_equal(
        found["encoder"]["bias"], _params()["encoder"]["bias"]
    )


def test_rates_scale_the_whole_update_and_zero_freezes():
    def settings(rates):
        return optim.Settings(
            learning_rate=(0.1, 0.1, 0.1), weight_decay=(0.5, 0.5), rates=rates
        )

    gradients = _gradients(1)
    full = _run(settings(((".*", 1.0),)), gradients)
    rules = (("^encoder/kernel$", 0.5), ("^encoder", 0.0), (".*", 1.0))
    found = _run(settings(rules), gradients)
    start = _params()
    np.testing.assert_array_equal(found["encoder"]["bias"], start["encoder"]["bias"])
    np.testing.assert_allclose(found["mask_token"], full["mask_token"])
    kernel = start["encoder"]["kernel"]
    np.testing.assert_allclose(
        found["encoder"]["kernel"] - kernel,
        0.5 * (full["encoder"]["kernel"] - kernel),
        atol=1e-6,
    )


def test_clipping_scales_the_whole_gradient_to_the_norm():
    gradients = _gradients(3)
    clipped = []
    for gradient in gradients:
        leaves = jax.tree.leaves(gradient)
        norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in leaves))
        assert norm > 1.5
        clipped.append(jax.tree.map(lambda x, norm=norm: 1.5 * x / norm, gradient))
    # A large epsilon, as Adam alone hides the scale of the gradient.
    plain = dict(epsilon=1.0, learning_rate=(0.1, 0.1, 0.1))
    expected = _run(optim.Settings(**plain), clipped)
    found = _run(optim.Settings(clip_norm=1.5, **plain), gradients)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_smaller_gradients_are_not_clipped():
    gradients = _gradients(2)
    expected = _run(optim.Settings(), gradients)
    found = _run(optim.Settings(clip_norm=1e3), gradients)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# ---- Rules ----


@pytest.mark.parametrize("table", ["decay", "rates"])
def test_path_that_no_pattern_matches_is_an_error_naming_it(table):
    settings = optim.Settings(**{table: (("kernel$", 1.0), ("token$", 1.0))})
    optimiser = optim.make_optimiser(settings, STEPS)
    message = rf"config\.optim\.{table}: no pattern matches 'encoder/bias'"
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(optimiser.init, _params())


def test_a_run_can_be_continued_with_another_clip_norm():
    params = {"kernel": jnp.ones((2, 3))}
    without, with_clipping = (
        jax.tree.structure(
            optim.make_optimiser(optim.Settings(clip_norm=norm), 10).init(params)
        )
        for norm in (None, 1.0)
    )
    assert without == with_clipping


# ---- Layers ----


def test_layers_change_the_less_the_further_they_are_from_the_head():
    names = [
        "encoder/patch_embedding/kernel",
        "encoder/transformer/block_0/mlp/in/kernel",
        "encoder/transformer/block_1/norm1/scale",
        "encoder/transformer/block_10/mlp/in/kernel",
        "encoder/transformer/norm/scale",
        "classifier/out/kernel",
    ]
    assert layer_factors_of(names) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / 2, 1]
    names = [
        "encoder/conv/kernel",
        "encoder/norm/scale",
        "encoder/stage1_block1/conv1/kernel",
        "encoder/stage1_block2/conv1/kernel",
        "encoder/stage2_block1/conv1/kernel",
        "projector/out/kernel",
    ]
    assert layer_factors_of(names) == [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


def test_stacked_blocks_have_the_factors_of_single_ones():
    stacked = {
        "encoder": {
            "patch_embedding": {"kernel": np.zeros((2, 3))},
            "transformer": {
                "blocks": {"kernel": np.zeros((3, 2, 2)), "scale": np.zeros((3, 2))},
                "norm": {"scale": np.zeros(2)},
            },
        },
        "classifier": {"kernel": np.zeros(2)},
    }
    found = optim.layer_factors(stacked, 0.5)
    encoder = found["encoder"]
    assert encoder["patch_embedding"]["kernel"] == 1 / 16
    for name, rank in (("kernel", 3), ("scale", 2)):
        factors = encoder["transformer"]["blocks"][name]
        assert factors.ndim == rank
        assert factors.ravel().tolist() == [1 / 8, 1 / 4, 1 / 2]
    assert encoder["transformer"]["norm"]["scale"] == 1 / 2
    assert found["classifier"]["kernel"] == 1


def layer_factors_of(names) -> list[float]:
    tree: dict = {}
    for name in names:
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = 0
    found = optim.layer_factors(tree, 0.5)
    return [
        functools.reduce(lambda node, key: node[key], n.split("/"), found)
        for n in names
    ]


def test_layer_decay_scales_the_steps():
    params = {
        "encoder": {"transformer": {"block_0": {"kernel": np.ones(3, np.float32)}}},
        "classifier": {"kernel": np.ones(3, np.float32)},
    }
    gradients = [jax.tree.map(np.ones_like, params)] * STEPS
    settings = optim.Settings(weight_decay=(0.0, 0.0), layer_decay=0.5)
    found = _run(settings, gradients, params)
    inner = 1 - found["encoder"]["transformer"]["block_0"]["kernel"]
    np.testing.assert_allclose(
        inner, (1 - found["classifier"]["kernel"]) / 2, rtol=1e-3
    )
    with pytest.raises(ValueError, match="layer_decay is above 0"):
        optim.Settings(layer_decay=0.0)
