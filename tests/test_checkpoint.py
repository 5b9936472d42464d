import dataclasses
import logging
import os
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ecgssl_jax import checkpoint
from ecgssl_jax import checkpoint_manifest as manifest
from ecgssl_jax.checkpoint import Checkpointer, CheckpointWriteError, silence_echoes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    key: jax.Array


def make_state(step=0, mesh_shape=(2, 4), width=512):
    """A state whose every value follows from `step`."""
    mesh = jax.make_mesh(mesh_shape, ("data", "fsdp"))

    def put(array, *spec):
        return jax.device_put(array, NamedSharding(mesh, P(*spec)))

    kernel = np.random.default_rng(step).normal(size=(16, width)).astype(np.float32)
    return State(
        step=put(jnp.int32(step)),
        params={
            "kernel": put(kernel, "fsdp"),
            "bias": put(jnp.asarray(kernel[0], jnp.bfloat16), "fsdp"),
        },
        opt_state=({}, (put(kernel * 2, None, "data"), put(jnp.zeros((0, 3))))),
        key=put(jax.random.split(jax.random.key(step), 4), "data"),
    )


def content(state):
    """Every leaf's bytes by path: NaNs and negative zeros count as they are."""
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        ).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def save_steps(folder, steps, **options):
    with Checkpointer(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"seed": step})


def data_file(folder):
    """The largest file of arrays of a step's folder: a part of the kernel's bytes."""
    files = (folder / "state").rglob("d/*")
    return max(files, key=lambda file: file.stat().st_size)


def flip_bit(file):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def errors(caplog):
    """Ours: asyncio may add tracebacks of Orbax's tasks, whenever it collects them."""
    records = [r for r in caplog.records if r.levelname == "ERROR"]
    return [r.getMessage() for r in records if r.name == "absl"]


def test_round_trip_is_bit_exact(tmp_path):
    state = make_state(3)
    special = np.array([np.nan, -0.0, 1e-40, np.inf], np.float32)
    special.view(np.uint32)[0] |= 0x123  # a NaN with a payload
    state.params["special"] = jax.device_put(special, state.step.sharding)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"name": "a", "leads": [1, 2], "nan": None})
    with Checkpointer(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(abstract(state))
    assert meta == {"name": "a", "leads": [1, 2], "nan": None, "step": 3}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert content(restored) == content(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert new.dtype == old.dtype and new.sharding == old.sharding


@pytest.mark.parametrize("mesh_shape", [(1, 1), (1, 2), (4, 2)])
def test_restores_onto_another_mesh(tmp_path, mesh_shape):
    save_steps(tmp_path, [1])
    target = abstract(make_state(0, mesh_shape))
    with Checkpointer(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(target)
    assert content(restored) == content(make_state(1))
    assert restored.params["kernel"].sharding == target.params["kernel"].sharding


def test_restores_states_that_are_not_on_a_mesh(tmp_path):
    state = {"x": jnp.arange(3.0)}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        restored, _ = checkpoints.restore(state)
    np.testing.assert_array_equal(restored["x"], [0, 1, 2])


def test_the_state_may_be_donated_straight_after_save(tmp_path):
    state = {"x": jax.device_put(jnp.zeros((1000, 1000)), jax.devices()[0])}
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(20):
            state = step(state)
        restored, _ = checkpoints.restore(abstract(state))
    assert not np.asarray(restored["x"]).any()


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpointer(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(abstract(make_state())) is None
        assert checkpoints.latest_step() is None


def test_keeps_the_newest(tmp_path):
    save_steps(tmp_path, [1, 2, 3, 4], keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_refuses_to_keep_none(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Checkpointer(tmp_path, keep=0)


def test_refuses_a_step_that_is_not_the_newest(tmp_path):
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(5, make_state(5), {})
        with pytest.raises(ValueError, match=r"step 5; cannot save.*discard_after\(4"):
            checkpoints.save(5, make_state(5), {})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": 3.0}}, "'a/b' is a float"),
        ({"a": np.zeros(3)}, "'a' is a ndarray"),
        ({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}, ".a/b. has no unique path"),
    ],
)
def test_refuses_states_that_it_cannot_name_or_hold(tmp_path, state, message):
    with (
        Checkpointer(tmp_path) as checkpoints,
        pytest.raises((TypeError, ValueError), match=message),
    ):
        checkpoints.save(1, state, {})


def test_refuses_meta_that_is_not_json_before_writing(tmp_path):
    with (
        Checkpointer(tmp_path) as checkpoints,
        pytest.raises(TypeError, match="not JSON serializable"),
    ):
        checkpoints.save(1, make_state(), {"array": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


DAMAGES = {
    # Orbax restores this one without a word.
    "flipped bit of an array": (
        lambda folder: flip_bit(data_file(folder)),
        "1 of 6 arrays are not what was saved: (params/kernel|opt_state/1/0)",
    ),
    "truncated array": (
        lambda folder: os.truncate(data_file(folder), 1000),
        'its arrays cannot be read: .*Error reading "(params/kernel|opt_state/1/0)/',
    ),
    "missing array": (
        lambda folder: data_file(folder).unlink(),
        'its arrays cannot be read: .*Error reading "(params/kernel|opt_state/1/0)/',
    ),
    "missing index": (
        lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
        "its arrays cannot be read",
    ),
    "missing manifest": (
        lambda folder: (folder / "manifest" / "metadata").unlink(),
        "cannot read .*/2/manifest/metadata: FileNotFoundError",
    ),
    "truncated manifest": (
        lambda folder: os.truncate(folder / "manifest" / "metadata", 40),
        "cannot read .*/2/manifest/metadata: JSONDecodeError",
    ),
    "flipped bit of meta": (
        lambda folder: (folder / "manifest" / "metadata").write_text(
            (folder / "manifest" / "metadata")
            .read_text()
            .replace('"seed": 2', '"seed": 3')
        ),
        "/2/manifest/metadata does not match its checksum",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_reported_and_the_one_before_used(tmp_path, damage, caplog):
    inflict, message = DAMAGES[damage]
    save_steps(tmp_path, [1, 2])
    inflict(tmp_path / "2")
    before = {path.name for path in (tmp_path / "2").rglob("*")}
    target = abstract(make_state())
    with Checkpointer(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(target)
        assert meta == {"seed": 1, "step": 1}
        assert content(restored) == content(make_state(1))
        (error,) = errors(caplog)
        assert re.search(f"{tmp_path}/2 is damaged: .*({message})", error)
        # Nothing is lost, and the run can save the step again.
        aside = tmp_path / "2.damaged"
        assert {path.name for path in aside.rglob("*")} == before
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, make_state(2), {})
        assert content(checkpoints.restore(target)[0]) == content(make_state(2))


def test_what_cannot_be_read_is_reported_once(tmp_path, monkeypatch, caplog):
    many = {f"array_{n}": jnp.full((64, 64), n, jnp.float32) for n in range(60)}
    with Checkpointer(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, many, {})
    for path in (tmp_path / "2" / "state").glob("**/d/*"):
        path.unlink()
    echoes = []
    monkeypatch.setattr(sys, "unraisablehook", echoes.append)
    silence_echoes()
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(many))[1]["step"] == 1
    assert len(errors(caplog)) == 1 and not echoes


def test_forgotten_tasks_of_orbax_are_not_reported_and_others_are(caplog):
    silence_echoes()
    for path in ("orbax/checkpoint/serialization.py:272", "own/code.py:1"):
        message = f"Task exception was never retrieved\nfuture: <defined at {path}>"
        logging.getLogger("asyncio").error(message)
    (record,) = caplog.records
    assert "own/code.py:1" in record.getMessage()


def test_a_step_damaged_twice_is_kept_twice(tmp_path):
    for _ in range(2):
        with Checkpointer(tmp_path) as checkpoints:
            if checkpoints.latest_step() is None:
                checkpoints.save(1, make_state(1), {})
            checkpoints.save(2, make_state(2), {})
        flip_bit(data_file(tmp_path / "2"))
        with Checkpointer(tmp_path) as checkpoints:
            checkpoints.restore(abstract(make_state()))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1", "2.damaged", "2.damaged-2"]


def test_damage_to_files_that_restoring_does_not_need_is_harmless(tmp_path):
    save_steps(tmp_path, [1, 2])
    for name in ("_CHECKPOINT_METADATA", "state/_sharding"):
        (tmp_path / "2" / name).write_text("garbage")
    with Checkpointer(tmp_path) as checkpoints:
        _, meta = checkpoints.restore(abstract(make_state()))
    assert meta["step"] == 2


def test_all_damaged_is_an_error_that_changes_nothing_and_stays(tmp_path):
    save_steps(tmp_path, [1, 2])
    for step in ("1", "2"):
        flip_bit(data_file(tmp_path / step))
    for _ in range(2):
        with (
            Checkpointer(tmp_path) as checkpoints,
            pytest.raises(manifest.DamagedCheckpointError) as caught,
        ):
            checkpoints.restore(abstract(make_state()))
        message = str(caught.value)
        assert "all of [1, 2] are damaged" in message
        assert "/1 is damaged" in message and "/2 is damaged" in message
        assert "start from step 0, move the folder away" in message
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_nothing_but_damaged_checkpoints_is_no_fresh_start(tmp_path):
    save_steps(tmp_path, [1])
    (tmp_path / "1").rename(tmp_path / "1.damaged")
    with (
        Checkpointer(tmp_path) as checkpoints,
        pytest.raises(manifest.DamagedCheckpointError, match=r"\['1.damaged'\]"),
    ):
        checkpoints.restore(abstract(make_state()))


def test_what_another_process_cannot_read_is_damaged_for_all(tmp_path, monkeypatch):
    save_steps(tmp_path, [1, 2])
    verdicts = iter([False, True])
    monkeypatch.setattr(checkpoint, "_all_processes", lambda own: next(verdicts))
    with Checkpointer(tmp_path) as checkpoints:
        _, meta = checkpoints.restore(abstract(make_state()))
    assert meta["step"] == 1
    assert (tmp_path / "2.damaged").is_dir()


def test_another_model_is_an_error_that_names_paths_and_shapes(tmp_path):
    save_steps(tmp_path, [1, 2])
    other = make_state(0, width=256)
    other.params["head"] = other.params.pop("bias").astype(jnp.float32)
    with (
        Checkpointer(tmp_path) as checkpoints,
        pytest.raises(manifest.MismatchedCheckpointError) as caught,
    ):
        checkpoints.restore(abstract(other))
    message = str(caught.value)
    for line in (
        f"checkpoint {tmp_path}/2 is intact, but of another model",
        "4 of its arrays differ",
        "params/head: saved nothing, the run has float32[256]",
        "params/kernel: saved float32[16, 512], the run has float32[16, 256]",
        "params/bias: saved bfloat16[512], the run has nothing",
        "Continue with the config that the checkpoint was saved with",
    ):
        assert line in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_later_format_is_an_error_not_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_FORMAT", 99)
    save_steps(tmp_path, [1])
    monkeypatch.undo()
    with (
        Checkpointer(tmp_path) as checkpoints,
        pytest.raises(manifest.CheckpointError, match="has format 99") as caught,
    ):
        checkpoints.restore(abstract(make_state()))
    assert not isinstance(caught.value, manifest.DamagedCheckpointError)


def test_discard_after_removes_the_abandoned_future(tmp_path):
    save_steps(tmp_path, [1, 2, 3], keep=3)
    with Checkpointer(tmp_path, keep=3) as checkpoints:
        assert checkpoints.discard_after(1) == [2, 3]
        assert checkpoints.latest_step() == 1
        checkpoints.save(2, make_state(7), {})
        restored, _ = checkpoints.restore(abstract(make_state()))
    assert content(restored) == content(make_state(7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_half_discarded_checkpoint_is_cleared_away(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2").rename(tmp_path / "2.discarded")
    Checkpointer(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_an_error_of_the_background_write_is_raised(tmp_path, monkeypatch):
    def refuse(self, directory):
        raise OSError("No space left on device")

    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()
        monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointHandler.finalize", refuse)
        checkpoints.save(2, make_state(2), {})
        with pytest.raises(CheckpointWriteError, match="No space left.* is whole"):
            checkpoints.wait()
        monkeypatch.undo()
        assert checkpoints.latest_step() == 1
        _, meta = checkpoints.restore(abstract(make_state()))
    assert meta["step"] == 1
