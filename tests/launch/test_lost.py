"""Two processes of which one is lost, waits for ever, or was started otherwise."""

import os
import subprocess
import sys

import pytest

from ecgssl_jax.workdir_lock import only_run
from launch.local import free_port
from tests.launch import jobs

_KILLED = -9
_TRY_AGAIN = 75
SETTINGS = {
    "steps": 6,
    "batch_size": 8,
    "checkpoint.every": 3,
    "stall_seconds": 15,
    "data.synthetic_records": 120,
    "model": {"width": 8, "depth": 1, "num_heads": 1, "patch_size": 50},
    "method.predictor_depth": 1,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def ended(root, program, *different):
    """-> of both processes, exit code and what it said.

    Args:
      different: flags of each of them.
    """
    port = free_port()
    flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    flags += [f"--config.data.root={root}", "--config=configs/jepa.py"]
    if not any("config.evaluators" in flag for own in different for flag in own):
        flags.append("--config.evaluators.probe=None")
    flags += [f"--coordinator=localhost:{port}", "--num_processes=2"]
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", *program, *flags, f"--process_id={number}", *own],
            cwd=jobs.ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, own in enumerate(different)
    ]
    try:
        said = [each.communicate(timeout=jobs.LONGEST)[0] for each in pair]
    finally:
        for each in pair:
            each.kill()
    return [(each.returncode, text) for each, text in zip(pair, said, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["save", "discard_after"])
def test_where_one_is_lost_the_other_says_so_and_may_try_again(root, tmp_path, where):
    program = ["tests.launch.fault", "1", where, "kill"]
    own = [f"--workdir={tmp_path}/run"]
    (code, said), (killed, _) = ended(root, program, own, own)
    assert killed == _KILLED
    assert code == _TRY_AGAIN, said
    assert "another process was lost" in said and "Traceback" not in said, said


@pytest.mark.slow
@pytest.mark.parametrize("where", ["restore", "wait", "run"])
def test_nobody_waits_for_ever(root, tmp_path, where):
    """For a checkpoint, or for an evaluator."""
    program = ["tests.launch.fault", "1", where, "hang"]
    own = [f"--workdir={tmp_path}/run"]
    if where == "run":
        own.append("--config.evaluators.probe.every=2")
    (code, said), _ = ended(root, program, own, own)
    assert code == _TRY_AGAIN, said
    # Whichever of them was tired of waiting first.
    assert "in 15 s" in said or "another process was lost" in said, said


def test_a_process_with_other_settings_is_refused(root, tmp_path):
    own = [f"--workdir={tmp_path}/run"]
    pair = ended(root, ["ecgssl_jax.main"], own, [*own, "--config.seed=1"])
    for code, said in pair:
        assert code == 1, said
        assert "the processes [1] were started with another config" in said, said


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused(root, tmp_path):
    folders = [[f"--workdir={tmp_path}/{name}"] for name in ("one", "other")]
    for code, said in ended(root, ["ecgssl_jax.main"], *folders):
        assert code == 1, said
        assert "the processes [1] do not see what the first one writes" in said, said


@pytest.mark.slow
def test_a_workdir_that_another_run_is_in_is_refused_by_all(root, tmp_path):
    own = [f"--workdir={tmp_path}/run"]
    with only_run(tmp_path / "run"):
        (code, said), (other, _) = ended(root, ["ecgssl_jax.main"], own, own)
    assert code == other == 1, said
    assert "another run is in it" in said, said
