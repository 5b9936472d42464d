"""Checkpoints of runs that are killed, and of runs of two processes."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.checkpoint_reading import load_params

ROOT = Path(__file__).resolve().parents[1]


def environment(devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(ROOT),
    }


# Saves step after step; values follow from the step. argv: folder.
ENDLESS_RUN = """
import sys
import jax, jax.numpy as jnp
from ecgssl_jax.checkpoint import Checkpointer

def state(step):
    return {f"p{i}": jnp.arange(300_000) * step + i for i in range(4)}

checkpoints = Checkpointer(sys.argv[1])
restored = checkpoints.restore(state(0))
step = restored[1]["step"] if restored else 0
while True:
    step += 1
    checkpoints.save(step, state(step), {})
    print(step, flush=True)
"""


def test_a_killed_save_leaves_the_former_checkpoint(tmp_path):
    abstract_state = {f"p{i}": jnp.zeros(300_000, jnp.int32) for i in range(4)}
    for _ in range(3):
        run = subprocess.Popen(
            [sys.executable, "-c", ENDLESS_RUN, str(tmp_path)],
            env=environment(1),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert run.stdout is not None
        # Returning from a save, the run has the step before on disk.
        run.stdout.readline()
        returned = int(run.stdout.readline())
        time.sleep(random.uniform(0, 0.3))
        run.send_signal(signal.SIGKILL)
        returned = int((run.stdout.read().split() or [returned])[-1])
        run.wait()
        tree, meta = load_params(tmp_path)
        with Checkpointer(tmp_path) as checkpoints:
            restored, meta_again = checkpoints.restore(abstract_state)
        assert meta["step"] == meta_again["step"] >= returned - 1
        for i in range(4):
            expected = np.arange(300_000, dtype=np.int32) * meta["step"] + i
            np.testing.assert_array_equal(restored[f"p{i}"], expected)
            np.testing.assert_array_equal(tree[f"p{i}"], expected)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(meta["step"] + 5, restored, {})
    # Unfinished saves were cleared away, and none of them was taken for damage.
    assert all(path.name.isdigit() for path in tmp_path.iterdir())


# Two processes save to two folders at once; one damages the newest, both restore.
# argv: address of the first process, number of this one, folder.
TWO_PROCESSES = """
import pathlib, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.checkpoint_reading import load_params

folder = pathlib.Path(sys.argv[3])
mesh = jax.make_mesh((2, 2), ("data", "fsdp"))

def state(step):
    x = np.random.default_rng(step).normal(size=(16, 512)).astype(np.float32)
    def put(array, spec):
        return jax.make_array_from_callback(
            array.shape, NamedSharding(mesh, spec), lambda index: array[index]
        )
    return {"x": put(x, P("data", "fsdp")), "y": put(x, P()), "z": put(x, P("fsdp"))}

with (
    Checkpointer(folder / "checkpoints") as checkpoints,
    Checkpointer(folder / "best", keep=1) as best,
):
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"seed": step})
        best.save(step, state(step), {"seed": step})
multihost_utils.sync_global_devices("saved")
if jax.process_index() == 0:
    files = (folder / "checkpoints" / "3" / "state").rglob("d/*")
    file = max(files, key=lambda file: file.stat().st_size)
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
multihost_utils.sync_global_devices("damaged")
with (
    Checkpointer(folder / "checkpoints") as checkpoints,
    Checkpointer(folder / "best", keep=1) as best,
):
    restored, meta = checkpoints.restore(state(0))
    assert meta["step"] == 2, meta
    for name, array in state(2).items():
        for new, old in zip(restored[name].addressable_shards, array.addressable_shards):
            np.testing.assert_array_equal(new.data, old.data)
    assert best.discard_after(2) == [3]
    assert best.latest_step() is None
    checkpoints.save(4, restored, {"seed": 2})
np.testing.assert_array_equal(load_params(folder)[0]["x"], load_params(folder)[0]["y"])
print("done", flush=True)
"""


def test_two_processes_agree_and_one_restores_what_they_saved(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, address, str(number), str(tmp_path)],
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for run in runs:
            out, err = run.communicate(timeout=120)
            assert run.returncode == 0 and "done" in out, err[-4000:]
            assert "checkpoints/3 is damaged" in err
    finally:
        for run in runs:
            run.kill()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["2", "3.damaged", "4"]
    mesh = jax.make_mesh((8,), ("fsdp",))
    shape = jax.ShapeDtypeStruct(
        (16, 512), jnp.float32, sharding=NamedSharding(mesh, P("fsdp"))
    )
    with Checkpointer(tmp_path / "checkpoints") as checkpoints:
        restored, meta = checkpoints.restore(dict.fromkeys("xyz", shape))
    assert meta == {"seed": 2, "step": 4}
    saved = np.random.default_rng(2).normal(size=(16, 512)).astype(np.float32)
    for name in "xyz":
        np.testing.assert_array_equal(restored[name], saved)
