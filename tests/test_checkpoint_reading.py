"""Checkpoints read as NumPy arrays, without the state that they were saved from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.checkpoint_manifest import DamagedCheckpointError
from ecgssl_jax.checkpoint_reading import load_params, saved_meta


def make_state(step):
    """A state whose every value follows from `step`."""
    kernel = np.random.default_rng(step).normal(size=(16, 512)).astype(np.float32)
    return {
        "step": jnp.int32(step),
        "params": {
            "kernel": jnp.asarray(kernel),
            "bias": jnp.asarray(kernel[0], jnp.bfloat16),
        },
        "opt_state": ({}, (jnp.asarray(kernel * 2), jnp.zeros((0, 3)))),
        "key": jax.random.split(jax.random.key(step), 4),
    }


def save_steps(folder, steps, **options):
    with Checkpointer(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"seed": step})


def flip_bit(folder):
    """Flips one bit of the largest file of a step's arrays."""
    files = (folder / "state").rglob("d/*")
    file = max(files, key=lambda file: file.stat().st_size)
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def test_checkpoints_are_found_in_every_folder(tmp_path):
    save_steps(tmp_path / "checkpoints", [1, 2])
    save_steps(tmp_path / "best", [1], keep=1)
    for path, step in {
        ".": 2,
        "checkpoints": 2,
        "checkpoints/1": 1,
        "best": 1,
        "best/1": 1,
    }.items():
        tree, meta = load_params(tmp_path / path)
        assert meta["step"] == step
        state = make_state(step)
        assert set(tree) == {"step", "params", "opt_state", "key"}
        for name, array in state["params"].items():
            assert tree["params"][name].dtype == array.dtype
            np.testing.assert_array_equal(tree["params"][name], np.asarray(array))
        np.testing.assert_array_equal(tree["key"], jax.random.key_data(state["key"]))
        assert tree["opt_state"]["1"]["1"].shape == (0, 3)


def test_a_subtree_is_read_alone(tmp_path):
    save_steps(tmp_path, [1])
    bias = np.asarray(make_state(1)["params"]["bias"])
    params, _ = load_params(tmp_path, subtree="params")
    assert set(params) == {"kernel", "bias"}
    np.testing.assert_array_equal(params["bias"], bias)
    alone, _ = load_params(tmp_path, subtree="params/bias")
    np.testing.assert_array_equal(alone, bias)
    with pytest.raises(KeyError, match=r"nothing under 'extra'.*'params'"):
        load_params(tmp_path, subtree="extra")


def test_a_damaged_newest_is_reported_and_meta_says_which_was_read(tmp_path, caplog):
    save_steps(tmp_path, [1, 2])
    flip_bit(tmp_path / "2")
    _, meta = load_params(tmp_path)
    assert meta["step"] == 1
    (error,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert "/2 is damaged" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    with pytest.raises(DamagedCheckpointError, match="no intact checkpoint"):
        load_params(tmp_path / "2")


def test_a_folder_without_a_checkpoint_is_an_error_that_says_what_is_there(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"holds \['metrics.jsonl'\].*workdir"):
        load_params(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_params(tmp_path / "nowhere")


def test_what_a_checkpoint_says_is_read_without_its_arrays(tmp_path):
    assert saved_meta(tmp_path) == {}
    save_steps(tmp_path, [1, 2])
    for file in (tmp_path / "2" / "state").rglob("d/*"):
        file.unlink()
    assert saved_meta(tmp_path) == {"seed": 2, "step": 2}
    for file in (tmp_path / "2" / "manifest").iterdir():
        file.write_text("{")
    assert saved_meta(tmp_path)["step"] == 1
