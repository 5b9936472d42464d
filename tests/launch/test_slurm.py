"""Jobs under SLURM: what is submitted, and which ends bring it back."""

import os
import signal
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


def test_without_a_cluster_there_is_a_line(monkeypatch):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="sbatch is not here; .* --dry-run"):
        slurm.main(["--", "--config=a.py"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--nodes=0", "expected 1 or more, found 0"),
        ("--requeues=-1", "expected 0 or more, found -1"),
        ("--name=a\n#SBATCH --x", "expected one line"),
    ],
)
def test_settings_that_cannot_be_are_named(flag, message, capsys):
    with pytest.raises(SystemExit) as caught:
        slurm.main([flag, "--dry-run", "--", "--config=a.py"])
    assert message in f"{caught.value}{capsys.readouterr().err}"


def test_what_is_refused_when_it_is_submitted_is_a_line(tmp_path, monkeypatch):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho invalid partition >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SystemExit, match="nothing was submitted: .*partition"):
        slurm.main([f"--logs={tmp_path}", "--partition=gpuu", "--", "--config=a.py"])


def test_lines_of_the_user_do_not_keep_the_job_from_coming_back(capsys):
    lines = script(capsys, "--setup=set -e").splitlines()
    assert lines.index("set -e") < lines.index("set +e") < lines.index("code=$?")


def test_what_a_former_start_left_does_not_count(capsys, tmp_path):
    lines = script(capsys, f"--logs={tmp_path}").splitlines()
    (tasks,) = (n for n, line in enumerate(lines) if line.startswith("srun "))
    left = f'{tmp_path}/"$SLURM_JOB_ID".ended'
    assert lines.index(f"rm -f {left}") < tasks < lines.index(f"ended={left}")


@pytest.mark.parametrize(
    ("code", "ended", "restarts", "back"),
    [
        (0, None, 0, False),
        (1, None, 0, False),  # such as a config that cannot be run
        (143, 1, 0, False),  # the same, and the others were ended for it
        (137, 2, 0, False),
        (143, None, 0, True),
        (137, None, 0, True),
        (140, None, 0, True),  # USR2, before it was ready
        (143, None, 2, True),
        (143, None, 3, False),
    ],
)
def test_a_job_comes_back_where_it_saved_or_was_lost(
    tmp_path, code, ended, restarts, back
):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/called\n")
    scontrol.chmod(0o755)
    if ended is not None:
        (tmp_path / "77.ended").write_text(f"{ended}\n")
    lines = [f"(exit {code})", *slurm.teardown(3, tmp_path)]
    found = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "77",
            "SLURM_RESTART_COUNT": str(restarts),
        },
        check=False,
    )
    assert found.returncode == (ended or code)
    assert not (tmp_path / "77.ended").exists()
    called = tmp_path / "called"
    assert called.exists() == back
    assert not back or called.read_text() == "requeue 77\n"


def test_pairs_are_refused_where_they_are_none():
    assert pairs(["A=1", "B=x=y"], "--env", "launch.slurm") == {"A": "1", "B": "x=y"}
    with pytest.raises(SystemExit, match="--env=A: expected KEY=VALUE"):
        pairs(["A"], "--env", "launch.slurm")


def task(folder, script):
    program = slurm.Program(
        words=("/bin/sh", "-c", script),
        folder=str(folder),
        environment={"GREETING": "hello"},
        logs=str(folder),
    )
    return subprocess.Popen(
        ["python3", "-c", f"from launch.slurm import Program; {program!r}()"],
        env={**os.environ, "SLURM_JOB_ID": "77"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_task_becomes_the_program_in_its_folder(tmp_path):
    found = task(tmp_path, "pwd; echo $GREETING")
    assert found.communicate()[0].split() == [str(tmp_path), "hello"]
    assert found.returncode == 0


@pytest.mark.parametrize(
    ("script", "code", "ended"),
    [
        ("exit 1", 1, "1"),
        ("exit 2", 2, "2"),
        ("exit 75", 75, None),
        ("kill -9 $$", 137, None),
    ],
)
def test_a_task_that_fails_for_good_leaves_its_code(tmp_path, script, code, ended):
    assert task(tmp_path, script).wait() == code
    file = tmp_path / "77.ended"
    assert file.read_text().strip() == ended if ended else not file.exists()


def test_a_task_that_is_signalled_may_save(tmp_path):
    found = task(
        tmp_path, "trap 'sleep 0.3; exit 143' USR2; echo ready; sleep 9 & wait $!"
    )
    assert found.stdout is not None and found.stdout.readline() == "ready\n"
    os.killpg(found.pid, signal.SIGUSR2)  # as SLURM does
    assert found.wait() == 143
