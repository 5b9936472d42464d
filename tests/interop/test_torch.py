"""Reading published checkpoints: their layouts, and what is said of damaged ones."""

from pathlib import Path

import numpy as np
import pytest

from ecgssl_jax.interop import torch

GOLDEN = Path(__file__).parents[1] / "golden"


def _weimann():
    with np.load(GOLDEN / "weimann_jepa_training.npz", allow_pickle=False) as file:
        return {k[6:]: file[k] for k in file.files if k.startswith("state/")}


def _ijepa():
    with np.load(GOLDEN / "ijepa_ecg_transformer.npz", allow_pickle=False) as file:
        modules = ("encoder/", "predictor/")
        return {k: file[k] for k in file.files if k.startswith(modules)}


def _load(state, layout="weimann", **heads):
    heads = heads or dict(num_heads=4, predictor_num_heads=2)
    return torch.load(state, layout, **heads)


def test_modules_have_the_sizes_of_the_arrays():
    modules = _load(_weimann())
    assert set(modules) == {"encoder", "target_encoder", "predictor"}
    encoder = modules["encoder"].module.module
    assert (encoder.width, encoder.depth, encoder.num_heads) == (32, 2, 4)
    assert (encoder.patch_size, encoder.num_registers) == (25, 1)
    assert encoder.exact_gelu and not encoder.use_bias
    assert encoder.interleaved_positions
    predictor = modules["predictor"].module.module
    assert (predictor.width, predictor.depth, predictor.num_heads) == (16, 2, 2)
    assert predictor.out_width == 32


def test_arrays_stand_where_the_layout_says():
    """y = W x of the file is kernel applied from the right in ours."""
    state = _weimann()
    params = _load(state)["encoder"].params
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 12))
    patch = np.einsum("dcp,pc->d", state["encoder.patch_embed.proj.weight"], x)
    found = x.ravel() @ params["patch_embedding"]["kernel"]
    np.testing.assert_allclose(found, patch, rtol=1e-5)
    x = rng.normal(size=32)
    block = params["transformer"]["block_1"]
    # The file stacks q, k and v of all heads; each head has 8 of the 32.
    qkv = (state["encoder.blocks.1.attn.qkv.weight"] @ x).reshape(3, 4, 8)
    found = np.einsum("d,dhse->she", x, block["attention"]["qkv"]["kernel"])
    np.testing.assert_allclose(found, qkv, rtol=1e-4, atol=1e-6)
    out = state["encoder.blocks.1.attn.proj.weight"] @ x
    found = np.einsum("he,hed->d", x.reshape(4, 8), block["attention"]["out"]["kernel"])
    np.testing.assert_allclose(found, out, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(params["registers"], state["encoder.registers"][0])


def test_part_of_a_checkpoint_gives_those_modules():
    state = {k: v for k, v in _weimann().items() if k.startswith("encoder")}
    assert set(_load(state)) == {"encoder"}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace(".", "/", 1),
        lambda name: name.replace(".", "/"),
        lambda name: f"module.{name}",
        lambda name: name.replace("encoder.", "encoder.module."),
    ],
    ids=["module/name", "slashes", "module. in front", "module. within"],
)
def test_other_spellings_of_the_names_are_read_alike(rename):
    expected = _load(_weimann())["encoder"].params
    renamed = {rename(name): value for name, value in _weimann().items()}
    found = _load(renamed)["encoder"].params
    np.testing.assert_equal(found, expected)


def test_width_of_the_mlp_may_be_any_number():
    state = {k: v for k, v in _ijepa().items() if k.startswith("predictor")}
    for name, shape in (
        ("mlp.fc1.weight", (15, 16)),
        ("mlp.fc1.bias", (15,)),
        ("mlp.fc2.weight", (16, 15)),
    ):
        for layer in range(2):
            state[f"predictor/predictor_blocks.{layer}.{name}"] = np.zeros(shape)
    loaded = _load(state, "ijepa1d", num_heads=4)["predictor"]
    mlp = loaded.params["transformer"]["block_0"]["mlp"]
    assert mlp["in"]["kernel"].shape == (16, 15)


def _without(state, name):
    return {k: v for k, v in state.items() if k != name}


def _with(state, name, value):
    return {**state, name: value}


WEIGHT = "encoder.blocks.1.attn.qkv.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: _without(s, WEIGHT), r"encoder: .* lacks 'blocks\.1\.attn\.qkv"),
        (lambda s: _without(s, "predictor.mask_token"), "predictor: .*'mask_token'"),
        (
            lambda s: _without(s, "encoder.blocks.0.mlp.fc1.weight"),
            r"encoder: .* lacks 'blocks\.0\.mlp\.fc1\.weight'",
        ),
        (
            lambda s: _with(s, "encoder.head.weight", np.zeros((5, 32))),
            r"encoder: arrays that this layout does not know: head\.weight",
        ),
        (
            lambda s: _with(s, "optimizer.step", np.zeros(())),
            "'optimizer' is no module of layout 'weimann'",
        ),
        (
            lambda s: _with(s, WEIGHT, np.zeros((95, 32), np.float32)),
            r"encoder: .*blocks\.1\.attn\.qkv\.weight.*\(95, 32\).*\(96, 32\)",
        ),
        (
            lambda s: _with(s, "encoder.blocks.1.attn.proj.weight", np.zeros((32, 31))),
            r"encoder: .*blocks\.1\.attn\.proj\.weight.*\(32, 31\).*\(32, 32\)",
        ),
        (
            lambda s: _with(s, "encoder.norm.weight", np.zeros(31, np.float32)),
            r"encoder: .*transformer/norm/scale.*\(31,\).*\(32,\)",
        ),
        (
            lambda s: _with(s, "encoder.patch_embed.proj.weight", np.zeros((32, 300))),
            r"encoder: .*patch_embed\.proj\.weight.*\(32, 300\)",
        ),
    ],
)
def test_damaged_checkpoint_is_an_error_with_the_name(damage, message):
    with pytest.raises(ValueError, match=message):
        _load(damage(_weimann()))


def test_unknown_layout_is_an_error_with_the_known_ones():
    with pytest.raises(
        ValueError, match="'weiman'; known are ijepa1d, resnet1d, weimann"
    ):
        _load(_weimann(), "weiman")


def test_layout_of_another_publication_is_an_error():
    with pytest.raises(ValueError, match="predictor: the checkpoint lacks"):
        _load(_weimann(), "ijepa1d")


def test_empty_checkpoint_is_an_error():
    with pytest.raises(ValueError, match="no arrays"):
        _load({})


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match="encoder: a width of 32 .* into 5 heads"):
        _load(_weimann(), num_heads=5, predictor_num_heads=2)
    with pytest.raises(ValueError, match="predictor: a width of 16 .* into 3 heads"):
        _load(_weimann(), num_heads=4, predictor_num_heads=3)


def test_learned_positions_are_an_error():
    state = _ijepa()
    state["encoder/pos_embed"] = state["encoder/pos_embed"] + 0.01
    with pytest.raises(ValueError, match="encoder: its position table .* 0.01"):
        _load(state, "ijepa1d", num_heads=4)


def test_positions_of_another_order_are_an_error():
    """Interleaved sines and cosines would be added in the wrong places."""
    state = _ijepa()
    table = state["encoder/pos_embed"]
    halves = np.stack(np.split(table, 2, axis=-1), axis=-1).reshape(table.shape)
    state["encoder/pos_embed"] = halves
    with pytest.raises(ValueError, match="encoder: its position table"):
        _load(state, "ijepa1d", num_heads=4)
