"""The encoder that a config describes, and what it says about wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.models import vit
from ecgssl_jax.models.encoders import Encoder, compute_dtype, make_encoder
from ecgssl_jax.settings import ConfigError


def test_preset_gives_its_sizes():
    found = make_encoder(dict(preset="xs", patch_size=25), dtype=jnp.float32)
    expected = vit.ViT(
        width=192,
        depth=8,
        num_heads=4,
        patch_size=25,
        use_bias=False,
        num_registers=1,
    )
    assert found == expected


def test_settings_override_the_preset():
    settings = dict(name="vit", preset="s", patch_size=20, depth=3, drop_path=0.1)
    found = make_encoder(settings, dtype=jnp.bfloat16)
    assert (found.width, found.depth, found.drop_path) == (384, 3, 0.1)
    assert found.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(name="vitt"), r"config\.model\.name: unknown encoder 'vitt'"),
        (
            dict(preset="smal", patch_size=25),
            r"config\.model\.preset: unknown preset 'smal' of vit; did you mean 'small'",
        ),
        (
            dict(preset=3, patch_size=25),
            r"config\.model\.preset: unknown preset '3' of vit",
        ),
        (
            dict(preset="s", patchsize=25),
            r"config\.model: unknown key 'patchsize' of vit; did you mean 'patch_size'",
        ),
        (
            dict(name="resnet", depth=3),
            r"unknown key 'depth' of resnet, which vit has; .* whole of config\.model",
        ),
        (dict(preset="s"), r"config\.model\.patch_size is missing"),
        (dict(patch_size=25), r"config\.model\.width is missing; .* preset of xs, s"),
        (
            dict(preset="s", patch_size="25"),
            r"config\.model\.patch_size: expected int, found '25' \(str\)",
        ),
        (
            dict(preset="s", patch_size=25, num_heads=5),
            r"config\.model: a width of 384 cannot be split into 5 heads",
        ),
        (dict(preset="s", patch_size=0), r"config\.model\.patch_size: .* found 0"),
        (
            dict(preset="s", patch_size=25, num_heads=0),
            r"config\.model\.num_heads: .* found 0",
        ),
        (
            dict(preset="s", patch_size=25, drop_path=1.0),
            r"config\.model\.drop_path: .* found 1\.0",
        ),
        (
            dict(width=15, depth=1, num_heads=3, patch_size=25),
            r"config\.model\.width: .* even.* found 15",
        ),
    ],
)
def test_wrong_settings_are_errors_with_their_key(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_encoder(settings, dtype=jnp.float32)


@pytest.mark.parametrize(
    "settings",
    [
        dict(width=16, depth=1, num_heads=2, patch_size=8, num_registers=1),
        dict(name="resnet", blocks=(1, 1), bottleneck=False, features=8),
    ],
    ids=["vit", "resnet"],
)
@pytest.mark.parametrize("length", [64, 48, 8])
def test_features_of_a_short_record_do_not_depend_on_its_padding(settings, length):
    encoder = Encoder(make_encoder(settings, dtype=jnp.float32))
    ecg = np.random.default_rng(0).normal(size=(2, length, 3)).astype(np.float32)
    params, statistics = encoder.init(jax.random.key(0), jnp.zeros((1, 80, 3)))
    padded = np.pad(ecg, ((0, 0), (0, 80 - length), (0, 0)))
    lengths = np.full(2, length, np.int32)
    found = encoder.features(params, statistics, padded, lengths)
    expected = encoder.features(params, statistics, ecg)
    assert found["tokens_valid"].sum(axis=1).tolist() == [length // 8] * 2
    if settings.get("name") == "resnet":
        np.testing.assert_allclose(found["pooled"], expected["pooled"], atol=1e-5)
        return
    # The positions of a ViT are those of the crop, whatever its length.
    longer = np.pad(ecg, ((0, 0), (0, 16), (0, 0)), constant_values=7)[:, :80]
    again = encoder.features(params, statistics, longer, lengths)
    np.testing.assert_allclose(found["pooled"], again["pooled"], atol=1e-5)


def test_compute_dtype_is_float32_on_cpus_unless_named():
    assert compute_dtype("auto") == jnp.float32
    assert compute_dtype("bfloat16") == jnp.bfloat16
