"""The transformer against closed forms, and against itself in its other forms."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.models import vit
from ecgssl_jax.models.network import Network

B, N, P, C, K = 3, 8, 5, 2, 4
TINY = vit.ViT(width=16, depth=2, num_heads=2, patch_size=P, num_registers=1)
VARIANTS = {
    "registers": TINY,
    "biases": TINY.clone(num_registers=0, interleaved_positions=True),
    "no_biases": TINY.clone(use_bias=False),
}


def _ecg(seed=0):
    return np.random.default_rng(seed).normal(size=(B, N * P, C)).astype(np.float32)


def _patch_mask(chosen):
    """[B, T, 1] bool: samples of the chosen patches, [B, N] bool."""
    return np.repeat(chosen, P, axis=1)[..., None]


def _init(module, *inputs, **settings):
    """Random parameters of the module, drawn by NumPy: no time for compiling."""
    shapes = jax.eval_shape(
        lambda key: Network(module).init(key, *inputs, **settings), jax.random.key(0)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0.0, 0.3, x.shape).astype(x.dtype), shapes)


def _apply(module, params, *inputs, **settings):
    run = jax.jit(lambda p, x: Network(module).apply(p, *x, **settings))
    return np.asarray(run(params, inputs), np.float32)


# ---- Positions ----


def test_positions_are_sines_then_cosines_of_geometric_frequencies():
    table = vit.sine_cosine_positions(50, 8)
    for position in (0, 1, 49):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            assert table[position, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 4 + i] == pytest.approx(math.cos(angle), abs=1e-6)


def test_interleaved_positions_alternate_sine_and_cosine():
    table = vit.sine_cosine_positions(50, 8, interleaved=True)
    for position in (0, 1, 49):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            cosine = table[position, 2 * i + 1]
            assert cosine == pytest.approx(math.cos(angle), abs=1e-6)


def test_longer_table_begins_with_the_shorter_one():
    np.testing.assert_array_equal(
        vit.sine_cosine_positions(100, 8)[:20], vit.sine_cosine_positions(20, 8)
    )


def test_odd_width_is_an_error():
    with pytest.raises(ValueError, match="even width, found 7"):
        vit.sine_cosine_positions(10, 7)


# ---- Patches and pooling ----


def test_patch_holds_successive_samples_of_all_leads():
    ecg = np.arange(2 * 6 * 3).reshape(2, 6, 3)
    patches = vit.patchify(ecg, 2)
    assert patches.shape == (2, 3, 6)
    np.testing.assert_array_equal(patches[1, 2], ecg[1, 4:6].ravel())


def test_patch_size_that_does_not_divide_the_crop_is_an_error():
    with pytest.raises(
        ValueError, match="patch_size: 5 does not divide the 41 samples"
    ):
        vit.patchify(np.zeros((1, 41, 2)), 5)


def test_mean_pool_counts_valid_tokens_only():
    tokens = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    valid = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    pooled = vit.mean_pool(jnp.asarray(tokens), jnp.asarray(valid))
    np.testing.assert_allclose(pooled[0], tokens[0, valid[0]].mean(0), atol=1e-6)
    np.testing.assert_array_equal(pooled[1], 0)
    np.testing.assert_allclose(vit.mean_pool(tokens), tokens.mean(1), atol=1e-6)


# ---- The block ----


@pytest.mark.parametrize("exact", [True, False], ids=["erf", "tanh"])
def test_gelu_is_the_form_asked_for(exact):
    x = np.linspace(-4, 4, 33, dtype=np.float32)[:, None]
    module = vit.Mlp(ratio=1, use_bias=False, exact_gelu=exact, dtype=jnp.float32)
    identity = {"kernel": jnp.ones((1, 1))}
    found = module.apply({"params": {"in": identity, "out": identity}}, x)
    if exact:
        factor = [math.erf(v / math.sqrt(2)) for v in x[:, 0]]
    else:
        factor = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))[:, 0]
    expected = x[:, 0] * 0.5 * (1 + np.asarray(factor))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)


def test_width_of_the_mlp_is_the_ratio_rounded():
    # 15 / 11 * 11 is 14.999... in floating point.
    module = vit.Mlp(ratio=15 / 11, use_bias=False, exact_gelu=True, dtype=jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 11)))
    assert params["params"]["in"]["kernel"].shape == (11, 15)


def _drop_block(rate, rows):
    """x, x + branch, and the block's output with that drop rate, [rows, 1, D] each."""
    module = vit.Block(2, 2.0, True, False, 1e-6, jnp.float32, drop_path=True)
    x = np.random.default_rng(0).normal(size=(1, 1, 8)).astype(np.float32)
    x = np.repeat(x, rows, axis=0)
    params = _init(module, x[:1], 0.0, None)
    # Without its attention, the block is one branch: x + mlp(norm(x)).
    params["attention"]["out"] = jax.tree.map(np.zeros_like, params["attention"]["out"])

    @jax.jit
    def both(params, x):
        apply = Network(module).apply
        rngs = {"drop_path": jax.random.key(2)}
        return apply(params, x, rate, None), apply(params, x, rate, None, rngs=rngs)

    (full, _), (dropped, _) = both(params, x)
    return x, np.asarray(full), np.asarray(dropped)


def test_drop_path_keeps_the_expected_branch():
    rate, rows = 0.25, 4000
    x, full, found = _drop_block(rate, rows)
    kept = np.any(found != x, axis=(1, 2))
    assert np.abs(full - x).max() > 0.01
    branch = (full - x) / (1 - rate)
    np.testing.assert_allclose(found[kept], (x + branch)[kept], atol=1e-5)
    # Four standard deviations of a binomial share.
    assert abs(kept.mean() - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / rows)


def test_drop_path_without_a_rate_keeps_everything():
    _, full, found = _drop_block(0.0, 10)
    np.testing.assert_allclose(found, full, atol=1e-6)


def test_drop_path_without_an_rng_does_nothing():
    params = _init(TINY, _ecg())
    expected = _apply(TINY, params, _ecg())
    np.testing.assert_array_equal(
        _apply(TINY.clone(drop_path=0.5), params, _ecg()), expected
    )


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scan"])
def test_drop_path_grows_with_depth_and_differs_by_rng(scan):
    module = TINY.clone(drop_path=0.9, scan=scan)
    params = _init(module, _ecg())

    @jax.jit
    def encode(key):
        return Network(module).apply(params, _ecg(), rngs={"drop_path": key})

    outs = [encode(jax.random.key(i)) for i in range(3)]
    np.testing.assert_array_equal(outs[0], encode(jax.random.key(0)))
    assert any(np.any(out != outs[0]) for out in outs[1:])
    assert np.all(np.isfinite(outs))


# ---- The encoder ----


def test_tokens_see_the_position_of_their_patch():
    params = _init(TINY, _ecg())
    ecg = _ecg()
    permuted = ecg.reshape(B, N, P, C)[:, ::-1].reshape(B, N * P, C)
    there, back = _apply(TINY, params, ecg), _apply(TINY, params, permuted)[:, ::-1]
    assert np.abs(there - back).max() > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_context_encoding_is_that_of_the_subsequence(variant):
    """Patches left out have no influence, wherever they lie."""
    module = VARIANTS[variant]
    params = _init(module, _ecg())
    indices = np.array([[0, 2, 3, 7], [1, 2, 4, 5], [3, 4, 5, 6]], np.int32)
    chosen = np.zeros((B, N), bool)
    np.put_along_axis(chosen, indices, True, axis=1)
    tokens = _apply(module, params, _ecg(), indices)
    assert tokens.shape == (B, K, 16)
    other = np.where(_patch_mask(chosen), _ecg(), _ecg(1))
    np.testing.assert_array_equal(_apply(module, params, other, indices), tokens)
    # The whole signal with all but those patches declared invalid says the same.
    every = _apply(module, params, other, None, chosen)
    picked = np.take_along_axis(every, indices[..., None], axis=1)
    np.testing.assert_allclose(picked, tokens, atol=1e-5)


def test_order_of_the_context_permutes_its_tokens():
    params = _init(TINY, _ecg())
    indices = np.tile(np.array([0, 2, 3, 7], np.int32), (B, 1))
    tokens = _apply(TINY, params, _ecg(), indices)
    order = [2, 0, 3, 1]
    permuted = _apply(TINY, params, _ecg(), indices[:, order])
    np.testing.assert_allclose(permuted, tokens[:, order], atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_has_no_influence_on_valid_patches(variant):
    module = VARIANTS[variant]
    params = _init(module, _ecg())
    short = np.array([[0, 2, 3], [1, 2, 4], [3, 4, 5]], np.int32)
    padded = np.concatenate([short, np.zeros((B, 2), np.int32)], axis=1)
    valid = np.arange(5) < np.full((B, 1), 3)
    expected = _apply(module, params, _ecg(), short)
    found = _apply(module, params, _ecg(), padded, valid)
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-5)


def _stacked(params, depth):
    """Parameters of layers one by one -> those of the scan, layers in front."""
    params = dict(params, transformer=dict(params["transformer"]))
    layers = [params["transformer"].pop(f"block_{i}") for i in range(depth)]
    params["transformer"]["blocks"] = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    return params


def _loss_and_gradient(module, params):
    def loss(params):
        tokens = Network(module).apply(params, _ecg(), None, np.ones((B, N), bool))
        return (tokens * _weights()).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


def _weights():
    return np.random.default_rng(5).normal(size=(B, N, 16)).astype(np.float32)


def _assert_same(found, expected, tolerance=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(float(np.abs(b).max()), 1.0)
        np.testing.assert_allclose(a, b, atol=tolerance * scale)


def test_remat_and_scan_change_neither_values_nor_gradients():
    params = _init(TINY, _ecg())
    loss, gradient = _loss_and_gradient(TINY, params)
    _assert_same(_loss_and_gradient(TINY.clone(remat="full"), params), (loss, gradient))
    stacked = _stacked(params, TINY.depth)
    expected = (loss, _stacked(gradient, TINY.depth))
    for remat in ("none", "products", "full"):
        scanned = TINY.clone(scan=True, remat=remat)
        shapes = jax.tree.map(np.shape, _init(scanned, _ecg()))
        assert jax.tree.map(np.shape, stacked) == shapes
        _assert_same(_loss_and_gradient(scanned, stacked), expected)


def test_layers_of_a_scan_start_from_different_weights():
    blocks = vit.Blocks(depth=2, num_heads=1, scan=True)
    x = np.zeros((1, 2, 4), np.float32)
    params = jax.jit(lambda key: Network(blocks).init(key, x))(jax.random.key(0))
    kernel = params["blocks"]["mlp"]["in"]["kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_bfloat16_comes_near_float32_and_keeps_float32_parameters():
    low = TINY.clone(dtype=jnp.bfloat16)
    params = _init(low, _ecg())
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert jax.eval_shape(Network(low).apply, params, _ecg()).dtype == jnp.bfloat16
    expected = _apply(TINY, params, _ecg())
    error = _apply(low, params, _ecg()) - expected
    assert np.sqrt((error**2).mean()) < 0.02 * np.sqrt((expected**2).mean())


# ---- Presets ----


def _parameter_count(preset, patch_size, leads):
    """Closed form: patch embedding, registers, depth x (attention, MLP, two norms),

    and the final norm.
    """
    width, biases = preset["width"], preset["use_bias"]
    norm = width * (1 + biases)
    attention = 4 * width**2 + 4 * width * biases
    mlp = 8 * width**2 + 5 * width * biases
    embedding = patch_size * leads * width + width * biases
    registers = preset["num_registers"] * width
    layers = preset["depth"] * (attention + mlp + 2 * norm)
    return embedding + registers + layers + norm


# Weimann & Conrad's, with 12 leads and patches of 25 samples.
PUBLISHED = {"xs": 3_600_000, "s": 14_277_888}


@pytest.mark.parametrize("name", vit.PRESETS)
def test_preset_has_the_parameters_of_the_closed_form(name):
    preset = vit.PRESETS[name]
    module = Network(vit.ViT(patch_size=25, scan=True, **preset))
    ecg = jax.ShapeDtypeStruct((1, 500, 12), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), ecg)
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count == _parameter_count(preset, 25, 12)
    if name in PUBLISHED:
        assert count == PUBLISHED[name]


# ---- The predictor ----

PREDICTOR = vit.Predictor(width=8, depth=1, num_heads=2, out_width=16)


def _predict(context, is_context, indices, *, num_targets, valid=None):
    sizes = dict(num_patches=N, num_targets=num_targets)
    inputs = (context, is_context, indices)
    params = _init(PREDICTOR, *inputs, **sizes)
    return _apply(PREDICTOR, params, *inputs, valid=valid, **sizes)


def test_prediction_depends_on_the_position_asked_for_only_through_the_index():
    context = np.random.default_rng(0).normal(size=(1, 2, 16)).astype(np.float32)
    is_context = np.ones((1, 2), bool)
    first = _predict(context, is_context, np.array([[0, 5, 2, 3]]), num_targets=2)
    swapped = _predict(context, is_context, np.array([[0, 5, 3, 2]]), num_targets=2)
    assert first.shape == (1, 2, 16)
    np.testing.assert_allclose(swapped[:, ::-1], first, atol=1e-5)
    assert np.abs(first[:, 0] - first[:, 1]).max() > 1e-3


def test_padding_of_the_context_has_no_influence_on_predictions():
    context = np.random.default_rng(0).normal(size=(1, 4, 16)).astype(np.float32)
    expected = _predict(
        context[:, :2], np.ones((1, 2), bool), np.array([[0, 5, 2, 3]]), num_targets=2
    )
    is_context = np.array([[True, True, False, False]])
    found = _predict(
        context,
        is_context,
        np.array([[0, 5, 0, 0, 2, 3]]),
        num_targets=2,
        valid=np.array([[True, True, False, False, True, True]]),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_predictor_fields_are_those_of_the_encoder_where_they_share_a_name():
    encoder = {f.name: f.default for f in dataclasses.fields(vit.ViT)}
    for field in dataclasses.fields(vit.Predictor):
        if field.name in encoder and field.name not in ("parent", "name"):
            assert field.default == encoder[field.name], field.name
