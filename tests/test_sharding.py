"""Meshes and rules, and that a JEPA step is the same on every mesh."""

import functools

import jax
import numpy as np
import pytest

from ecgssl_jax import sharding
from ecgssl_jax.data import masks
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.methods import jepa
from ecgssl_jax.models import vit
from ecgssl_jax.settings import ConfigError

pytestmark = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight host devices of conftest.py"
)


def _mesh(data, fsdp, tensor, count=8):
    settings = Mesh(data=data, fsdp=fsdp, tensor=tensor)
    return sharding.make_mesh(settings, jax.devices()[:count])


# ---- The mesh ----


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, 2), (1, 4, 2))],
)
def test_mesh_has_the_axes_asked_for(sizes, expected):
    mesh = _mesh(*sizes)
    assert tuple(mesh.shape.items()) == tuple(zip(sharding.AXES, expected, strict=True))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 1, 1), r"config\.mesh: .*asks for 3 devices, found 8"),
        ((-1, 3, 1), r"config\.mesh: .*asks for 6 devices, found 8"),
        ((-1, 16, 1), r"config\.mesh: .*found 8"),
        ((-1, -1, 1), r"config\.mesh: .*one of them may be -1; found \[-1, -1, 1\]"),
        ((8, 0, 1), r"config\.mesh: sizes must be positive.*found \[8, 0, 1\]"),
    ],
)
def test_mesh_that_does_not_fit_the_devices_is_an_error(sizes, message):
    with pytest.raises(ConfigError, match=message):
        _mesh(*sizes)


def test_batch_must_split_over_the_data_and_fsdp_axes():
    mesh = _mesh(2, 2, 2)
    sharding.check_batch(12, mesh.shape)
    with pytest.raises(ConfigError, match=r"config\.batch_size: 10 rows .* 4 devices"):
        sharding.check_batch(10, mesh.shape)


def test_every_micro_batch_must_split():
    mesh = _mesh(2, 2, 2)
    sharding.check_batch(24, mesh.shape, accumulate=3)
    with pytest.raises(ConfigError, match="20 rows .* 3 micro-b.* a multiple of 12"):
        sharding.check_batch(20, mesh.shape, accumulate=3)


def test_a_process_provides_what_its_own_devices_hold():
    class OfTheSecondProcess:
        def addressable_devices_indices_map(self, shape):
            assert shape == (16,)
            return {3: (slice(12, 16),), 2: (slice(4, 8),), 1: (slice(4, 8),)}

    found = sharding.process_rows(OfTheSecondProcess(), 16)  # type: ignore[arg-type]
    assert found.tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_one_process_provides_all_rows(sizes):
    spec = sharding.batch_sharding(_mesh(*sizes))
    assert sharding.process_rows(spec, 16).tolist() == list(range(16))


def test_rows_on_the_devices_are_those_of_the_batch():
    spec = sharding.batch_sharding(_mesh(2, 2, 2))
    rows = np.arange(24).reshape(8, 3)
    found = sharding.to_devices({"x": rows}, spec, 8, np.arange(8))["x"]
    np.testing.assert_array_equal(found, rows)
    assert {shard.data.shape for shard in found.addressable_shards} == {(2, 3)}


# ---- Rules ----


@pytest.mark.parametrize(("width", "whole"), [(64, 0.0), (60, 1.0)])
def test_what_an_axis_does_not_divide_is_whole(width, whole):
    mesh = _mesh(1, 8, 1)
    tree = {"kernel": jax.ShapeDtypeStruct((width, width), np.float32)}
    shardings = sharding.tree_shardings(tree, mesh, sharding.DEFAULT_RULES)
    laid = jax.tree.map(lambda x, s: x.update(sharding=s), tree, shardings)
    assert sharding.whole_share(laid, mesh) == pytest.approx(whole)
    assert sharding.whole_share(laid, _mesh(8, 1, 1)) == 0


def _spec_of(path, shape, mesh, rules=sharding.DEFAULT_RULES):
    tree = jax.ShapeDtypeStruct(shape, np.float32)
    for name in reversed(path.split("/")):
        tree = {name: tree}
    (found,) = jax.tree.leaves(sharding.tree_shardings(tree, mesh, rules))
    return tuple(found.spec) + (None,) * (len(shape) - len(found.spec))


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("attention/qkv/kernel", (16, 4, 3, 4), ("fsdp", "tensor", None, None)),
        ("attention/out/kernel", (4, 4, 16), ("tensor", None, "fsdp")),
        ("mlp/in/kernel", (16, 64), ("fsdp", "tensor")),
        ("mlp/out/kernel", (64, 16), ("tensor", "fsdp")),
        ("patch_embedding/kernel", (300, 16), (None, "fsdp")),
        ("mlp/in/bias", (64,), (None,)),
        # A layer's dimension in front, as with scan.
        ("blocks/mlp/in/kernel", (2, 16, 64), (None, "fsdp", "tensor")),
        # Three heads do not split over two devices; the width does.
        ("attention/qkv/kernel", (16, 3, 3, 4), ("fsdp", None, None, None)),
        ("mlp/in/kernel", (15, 64), (None, "tensor")),
        # Moments and averages lie where their parameters do.
        ("optimiser/0/mu/encoder/mlp/in/kernel", (16, 64), ("fsdp", "tensor")),
        ("extra/target_encoder/mlp/in/kernel", (16, 64), ("fsdp", "tensor")),
    ],
)
def test_parameters_are_split_where_their_sizes_divide(path, shape, expected):
    assert _spec_of(path, shape, _mesh(2, 2, 2)) == expected


def test_parameter_that_no_rule_matches_is_an_error():
    with pytest.raises(
        ConfigError, match=r"config\.rules: no pattern matches 'a/bias'"
    ):
        _spec_of("a/bias", (3,), _mesh(8, 1, 1), (("kernel$", ()),))


def test_rule_with_too_many_axes_is_an_error():
    with pytest.raises(ConfigError, match=r"config\.rules: a/bias has 1 dimensions"):
        _spec_of("a/bias", (4,), _mesh(8, 1, 1), ((".*", (None, "fsdp")),))


# ---- The same step on every mesh ----

B, N, P, C = 8, 8, 4, 2


def _method():
    encoder = vit.ViT(width=16, depth=1, num_heads=2, patch_size=P, num_registers=1)
    settings = jepa.Settings(
        predictor_width=8, predictor_depth=1, predictor_num_heads=2, variance_weight=0.1
    )
    return jepa.build(settings, encoder, steps=10, masks={"kind": "random"})


def _batch():
    rng = np.random.default_rng(0)
    mask = masks.build("random", N, keep=(0.2, 0.6))
    uniforms = rng.random((B, mask.num_uniforms(N)), dtype=np.float32)
    ecg = rng.normal(size=(B, N * P, C)).astype(np.float32)
    return dict(ecg=ecg, **mask.sample(uniforms, N, np))


def _step(mesh):
    """Loss and gradients of the global batch on a mesh, as NumPy arrays."""
    method, batch = _method(), _batch()
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    rng = np.random.default_rng(7)
    state = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)
    shardings = sharding.tree_shardings(shapes, mesh, sharding.DEFAULT_RULES)
    params, extra = jax.device_put(state, shardings)
    batch = sharding.to_devices(batch, sharding.batch_sharding(mesh), B, 0)

    def loss(params):
        return method.loss(params, extra, batch, jax.random.key(0))[0]

    out = (sharding.replicated(mesh), shardings[0])
    found, gradient = jax.jit(jax.value_and_grad(loss), out_shardings=out)(params)
    split = any(
        shard.data.shape != x.shape
        for x in jax.tree.leaves(params)
        for shard in x.addressable_shards
    )
    assert split == (mesh.shape["fsdp"] * mesh.shape["tensor"] > 1)
    return float(found), jax.tree.map(np.asarray, gradient)


@functools.cache
def _one_device():
    return _step(_mesh(1, 1, 1, count=1))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_loss_and_gradients_are_those_of_one_device(sizes):
    loss, gradient = _step(_mesh(*sizes))
    expected_loss, expected = _one_device()
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest)
