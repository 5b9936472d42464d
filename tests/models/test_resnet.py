"""Residual networks against the published implementation's outputs."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.interop import torch
from ecgssl_jax.models import resnet
from ecgssl_jax.models.network import Network

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = ("basic", "bottleneck")


def weights(file):
    """Parameter j of flat index i: sin(0.7 i + j), scaled by what it is."""
    arrays = {}
    for j, name in enumerate(file["param_names"].tolist()):
        shape = ast.literal_eval(file["param_shapes"][j].item())
        wave = np.sin(0.7 * np.arange(np.prod(shape)) + j).reshape(shape)
        if len(shape) > 1:
            wave = wave * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("weight"):
            wave = 1 + 0.1 * wave
        else:
            wave = 0.1 * wave
        arrays[name] = wave.astype(np.float32)
    return arrays


@pytest.fixture(scope="module", params=KINDS)
def golden(request):
    """The file, the loaded encoder and its signal [B, T, C]."""
    file = np.load(GOLDEN / f"resnet1d_{request.param}.npz")
    loaded = torch.load(weights(file), "resnet1d")["encoder"]
    return file, loaded, file["x"].transpose(0, 2, 1)


def test_evaluation_mode_is_the_published_one(golden):
    file, (module, params, statistics), ecg = golden
    tokens = module.apply(params, ecg, statistics=statistics)
    found = np.asarray(tokens).mean(axis=1)
    np.testing.assert_allclose(found, file["out_eval"], rtol=0, atol=1e-5)


def test_training_mode_and_its_running_statistics_are_the_published_ones(golden):
    file, (module, params, statistics), ecg = golden
    tokens, changed = module.train(params, statistics, ecg)
    found = np.asarray(tokens).mean(axis=1)
    np.testing.assert_allclose(found, file["out_train"], rtol=0, atol=1e-3)
    first = changed["norm"]
    np.testing.assert_allclose(first["mean"], file["running_mean_bn1"], atol=1e-6)
    # PyTorch's running variance is the unbiased one.
    np.testing.assert_allclose(first["var"], file["running_var_bn1"], atol=1e-3)


def small(**settings):
    settings = dict(blocks=(1, 1), bottleneck=False, features=4) | settings
    return resnet.ResNet(**settings)


def ecgs(batch=4, samples=80, leads=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, samples, leads)).astype(np.float32)


@pytest.mark.parametrize("samples", [64, 80, 81, 100])
def test_a_token_stands_for_stride_samples(samples):
    module = small()
    ecg = ecgs(samples=samples)
    shape = jax.eval_shape(module.init_with_output, jax.random.key(0), ecg)[0].shape
    assert module.stride == 8
    assert shape == (4, -(-samples // 8), 8)


@pytest.mark.parametrize(
    ("preset", "millions", "width"),
    # torchvision's counts for images, less what 1-D kernels and no classifier save,
    # computed from He et al., table 1.
    [("18", 3.85, 512), ("34", 7.22, 512), ("50", 15.95, 2048)],
)
def test_presets_have_the_sizes_of_the_paper_in_one_dimension(preset, millions, width):
    module = resnet.ResNet(**resnet.PRESETS[preset])
    ecg = np.zeros((1, 128, 12), np.float32)
    shapes = jax.eval_shape(Network(module).init, jax.random.key(0), ecg)
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    tokens = jax.eval_shape(
        lambda key: module.init_with_output(key, ecg)[0], jax.random.key(0)
    )
    assert tokens.shape == (1, 4, width)


def test_wide_ones_have_twice_the_inner_channels():
    ecg = np.zeros((1, 64, 12), np.float32)
    shapes = {
        name: jax.eval_shape(
            Network(resnet.ResNet(**resnet.PRESETS[name])).init, jax.random.key(0), ecg
        )["stage2_block1"]
        for name in ("50", "wide50")
    }
    inner = [shapes[name]["conv2"]["kernel"].shape for name in ("50", "wide50")]
    assert inner == [(3, 128, 128), (3, 256, 256)]
    outer = [shapes[name]["conv3"]["kernel"].shape[-1] for name in ("50", "wide50")]
    assert outer == [512, 512]


def test_batch_statistics_are_those_of_the_whole_batch():
    network = Network(small())
    ecg = ecgs()
    params, statistics = network.init_all(jax.random.key(0), ecg)
    _, changed = network.train(params, statistics, ecg)
    kernel = np.asarray(params["conv"]["kernel"], np.float64)
    padded = np.pad(ecg, ((0, 0), (3, 3), (0, 0))).astype(np.float64)
    stem = sum(padded[:, k : k + 79 : 2] @ kernel[k] for k in range(7))
    mean, var = stem.mean(axis=(0, 1)), stem.var(axis=(0, 1))
    np.testing.assert_allclose(changed["norm"]["mean"], 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(changed["norm"]["var"], 0.9 + 0.1 * var, atol=1e-5)


def test_evaluation_mode_sees_each_record_alone_and_changes_nothing():
    network = Network(small())
    ecg = ecgs()
    params, statistics = network.init_all(jax.random.key(0), ecg)
    together = network.apply(params, ecg, statistics=statistics)
    alone = network.apply(params, ecg[2:3], statistics=statistics)
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)


def test_group_norm_needs_no_statistics_and_sees_each_record_alone():
    network = Network(small(features=32, norm="group"))
    ecg = ecgs()
    params, statistics = network.init_all(jax.random.key(0), ecg)
    assert statistics == {}
    trained, changed = network.train(params, {}, ecg)
    assert changed == {}
    alone = network.apply(params, ecg[1:2])
    np.testing.assert_allclose(trained[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("length", [64, 57, 20])
def test_a_short_record_has_the_tokens_that_it_has_without_its_padding(
    length, norm, bottleneck
):
    network = Network(small(norm=norm, features=32, bottleneck=bottleneck))
    short = ecgs(batch=2, samples=length)
    padded = np.pad(short, ((0, 0), (0, 100 - length), (0, 0)))
    params, statistics = network.init_all(jax.random.key(0), padded)
    _, statistics = network.train(params, statistics, ecgs(samples=100))
    lengths = np.full(2, length, np.int32)
    expected = network.apply(params, short, statistics=statistics)
    found = network.apply(params, padded, statistics=statistics, length=lengths)
    assert expected.shape[1] == -(-length // 8)
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=1e-5)


def test_batch_statistics_see_no_padding():
    network = Network(small())
    short = ecgs(samples=40)
    padded = np.pad(short, ((0, 0), (0, 40), (0, 0)), constant_values=0)
    params, statistics = network.init_all(jax.random.key(0), padded)
    lengths = np.full(4, 40, np.int32)
    _, expected = network.train(params, statistics, short)
    _, found = network.train(params, statistics, padded, length=lengths)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("lengths", [[0, 80], [0, 0]])
def test_records_without_samples_have_finite_gradients(norm, lengths):
    network = Network(small(norm=norm, features=32))
    lengths = np.array(lengths, np.int32)
    ecg = ecgs(batch=2) * (lengths > 0)[:, None, None]
    params, statistics = network.init_all(jax.random.key(0), ecg)

    def loss(params):
        return (network.train(params, statistics, ecg, length=lengths)[0] ** 2).mean()

    gradient = jax.grad(loss)(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_remat_changes_nothing():
    ecg = ecgs()
    plain, saving = Network(small()), Network(small(remat="full"))
    params, statistics = plain.init_all(jax.random.key(0), ecg)

    def gradient(network):
        def loss(params):
            return (network.train(params, statistics, ecg)[0] ** 2).mean()

        return jax.grad(loss)(params)

    same = zip(*map(jax.tree.leaves, map(gradient, (plain, saving))), strict=True)
    for one, other in same:
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    network = Network(small(dtype=jnp.bfloat16))
    ecg = ecgs()
    params, statistics = network.init_all(jax.random.key(0), ecg)
    tokens, changed = network.train(params, statistics, ecg)
    assert tokens.dtype == jnp.bfloat16
    leaves = jax.tree.leaves((params, changed))
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}
