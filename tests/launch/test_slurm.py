"""Jobs under SLURM: what is submitted, and which ends bring it back."""

import subprocess

import pytest

from launch import pairs, slurm

pytest.importorskip("submitit")


def script(capsys, *words):
    slurm.main([*words, "--dry-run", "--", "--config=a.py", "--config.x=1 2"])
    return capsys.readouterr().out


def test_the_script_has_what_was_asked_for(capsys, tmp_path):
    text = script(
        capsys,
        "--nodes=4",
        "--tasks-per-node=2",
        "--gpus-per-node=8",
        "--cpus-per-task=16",
        "--time=01:30:00",
        "--partition=gpu",
        "--notice=60",
        "--setup=module load cuda",
        "--sbatch=constraint=h100",
        f"--logs={tmp_path}",
    )
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --time=01:30:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=USR2@60",
        "#SBATCH --requeue",
        "#SBATCH --constraint=h100",
        "module load cuda",
    ):
        assert line in text.splitlines()
    assert "--kill-on-bad-exit=1" in text
    assert "-m ecgssl_jax.main --config=a.py '--config.x=1 2'" in text


@pytest.mark.parametrize(
    ("code", "restarts", "back"),
    [
        (0, 0, False),
        (1, 0, False),  # such as a config that cannot be run
        (143, 0, True),
        (137, 0, True),
        (140, 0, True),  # USR2, before it was ready
        (143, 2, True),
        (143, 3, False),
    ],
)
def test_a_job_comes_back_where_it_saved_or_was_lost(tmp_path, code, restarts, back):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/called\n")
    scontrol.chmod(0o755)
    lines = [f"(exit {code})", *slurm.teardown(3)]
    found = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "77",
            "SLURM_RESTART_COUNT": str(restarts),
        },
        check=False,
    )
    assert found.returncode == code
    called = tmp_path / "called"
    assert called.exists() == back
    assert not back or called.read_text() == "requeue 77\n"


def test_pairs_are_refused_where_they_are_none():
    assert pairs(["A=1", "B=x=y"], "--env", "launch.slurm") == {"A": "1", "B": "x=y"}
    with pytest.raises(SystemExit, match="--env=A: expected KEY=VALUE"):
        pairs(["A"], "--env", "launch.slurm")


def test_a_task_becomes_the_program_in_its_folder(tmp_path):
    program = slurm.Program(
        words=("/bin/sh", "-c", "pwd; echo $GREETING"),
        folder=str(tmp_path),
        environment={"GREETING": "hello"},
    )
    code = f"from launch.slurm import Program; {program!r}()"
    found = subprocess.run(
        ["python3", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(tmp_path), "hello"]
