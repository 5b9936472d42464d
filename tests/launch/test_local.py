"""Jobs of several processes: what they are told, and how they end."""

import argparse
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local

ROOT = Path(__file__).resolve().parents[2]


def launched(*words, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "launch.local", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module; returns the flag that runs it."""

    def write(text):
        (tmp_path / "job.py").write_text("import os, signal, sys, time\n" + text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "--module=job"

    return write


def wait_until_ready(job, processes):
    for _ in range(processes):
        assert "ready" in job.stdout.readline()


def number_of():
    return "number = int(sys.argv[-1].partition('=')[2])\n"


def test_every_process_is_told_its_number_and_the_same_address(capsys):
    local.main(["--processes=2", "--dry-run", "--", "--config=a.py", "--config.x=1 2"])
    first, second = capsys.readouterr().out.splitlines()
    assert "ecgssl_jax.main --config=a.py '--config.x=1 2' --coordinator=" in first
    assert first.endswith("--num_processes=2 --process_id=0")
    assert second == first.replace("process_id=0", "process_id=1")


def test_a_job_of_one_process_is_none_of_several(capsys):
    local.main(["--processes=1", "--cpu-devices=8", "--dry-run", "--", "--config=a.py"])
    line = capsys.readouterr().out
    assert "coordinator" not in line and line.startswith("JAX_PLATFORMS=cpu XLA_FLAGS=")
    assert "device_count=8" in line


def test_gpus_are_dealt_out_of_those_that_may_be_seen(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [local.gpus(2, number) for number in (0, 1)] == [["0", "1"], ["2", "3"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match="which names 0"):
        local.gpus(1, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert local.gpus(1, 2) == ["7"]
    with pytest.raises(SystemExit, match="GPUs 2 to 3 of CUDA_VISIBLE_DEVICES=4,5,7"):
        local.gpus(2, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes=0", "--", "x"], "--processes: expected 1 or more, found 0"),
        (
            ["--processes=2", "--cpu-devices=0", "--", "x"],
            "--cpu-devices: expected 1 or more",
        ),
        (["--processes=2"], "follows two dashes"),
    ],
)
def test_what_cannot_be_run_is_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        local.main(words)
    assert message in capsys.readouterr().err


def test_lines_say_whose_they_are_and_all_end_well(module):
    flag = module(number_of() + "print('hello from', number)")
    job = launched("--processes=3", flag, "--", "x")
    out, err = job.communicate(timeout=30)
    assert job.returncode == 0 and not err
    assert sorted(out.splitlines()) == [f"[{n}] hello from {n}" for n in range(3)]


@pytest.mark.parametrize(
    ("end", "code", "word"),
    [
        ("sys.exit(3)", 3, "exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "signal SIGKILL"),
    ],
)
def test_one_that_fails_ends_the_job_at_once_with_its_last_words(
    module, end, code, word
):
    """Also if the others wait for it forever, and do not care for SIGTERM."""
    flag = module(
        number_of()
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + f"if number == 1:\n    print('out of paper', flush=True)\n    {end}\n"
        + "time.sleep(100)"
    )
    began = time.monotonic()
    job = launched("--processes=3", "--grace=0.5", flag, "--", "x")
    _, err = job.communicate(timeout=30)
    assert job.returncode == code and time.monotonic() - began < 20
    assert f"process 1 of 3 ended with {word}" in err and "    out of paper" in err


def test_a_signal_is_passed_on_and_the_job_waits_for_what_is_being_saved(module):
    flag = module(
        "def save(*_):\n    time.sleep(0.5)\n    print('saved', flush=True)\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\n"
        "time.sleep(100)"
    )
    job = launched("--processes=2", "--grace=0.1", flag, "--", "x")
    wait_until_ready(job, 2)
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=30)
    assert job.returncode == 143 and not err
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]


def test_a_reader_that_goes_away_stops_nobody(module, tmp_path):
    flag = module(
        "for number in range(20000):\n    print('a line of some length', number)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()"
    )
    job = launched("--processes=1", flag, "--", "x")
    assert job.stdout is not None and job.stderr is not None
    job.stdout.readline()
    job.stdout.close()
    job.stderr.close()
    job.wait(timeout=30)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_every_signal_to_stop_is_passed_on(module, number):
    flag = module(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('ready', flush=True)\ntime.sleep(100)"
    )
    # Under nohup, tests too would have it ignored.
    heed = functools.partial(signal.signal, number, signal.SIG_DFL)
    job = launched("--processes=2", flag, "--", "x", preexec_fn=heed)
    wait_until_ready(job, 2)
    job.send_signal(number)
    job.communicate(timeout=30)
    assert job.returncode == 143


def test_one_that_fails_while_the_others_save_ends_the_job(module):
    flag = module(
        number_of()
        + "code = 1 if number == 1 else None\n"
        + "def save(*_):\n    code and sys.exit(code)\n    time.sleep(100)\n"
        + "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\n"
        + "time.sleep(100)"
    )
    job = launched("--processes=2", "--grace=0.5", flag, "--", "x")
    wait_until_ready(job, 2)
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=30)
    assert job.returncode == 1 and "process 1 of 2 ended with exit code 1" in err


def test_the_second_signal_kills(module):
    flag = module(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\n"
        "time.sleep(100)"
    )
    # A shell's background has it ignored.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    job = launched("--processes=1", flag, "--", "x", preexec_fn=heed)
    wait_until_ready(job, 1)
    job.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert job.poll() is None
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert job.returncode == 137


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (75, 75)])
def test_one_that_was_only_left_alone_does_not_speak_for_the_job(
    module, tmp_path, code, expected
):
    """Whichever of them ends first, as long as they end together."""
    both = tmp_path / "both"
    flag = module(
        number_of()
        + f"from pathlib import Path\nboth = Path({str(both)!r})\n"
        + "if number == 1:\n    both.touch()\n"
        + "while not both.exists():\n    time.sleep(0.001)\n"
        + f"sys.exit({code} if number == 1 else 75)"
    )
    job = launched("--processes=2", flag, "--", "x")
    job.communicate(timeout=30)
    assert job.returncode == expected


def test_a_signal_before_there_is_anything_to_save_ends_the_job(module, monkeypatch):
    """JAX's own handler, of jobs of several processes, would only take note of it."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    flag = module(
        "import argparse\nfrom ecgssl_jax import processes\n"
        "parser = argparse.ArgumentParser()\nprocesses.add_arguments(parser)\n"
        "job, _ = parser.parse_known_args()\n"
        "processes.initialise(job.coordinator, job.num_processes, job.process_id)\n"
        "print('ready', flush=True)\ntime.sleep(100)"
    )
    job = launched("--processes=2", flag, "--", "x")
    ready = 0
    while ready < 2:
        line = job.stdout.readline()
        assert line, job.communicate()
        ready += "ready" in line
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 143 and not err


def test_processes_of_a_launcher_that_was_killed_end_too(module):
    flag = module(
        "from ecgssl_jax.launched import end_with_launcher\nend_with_launcher()\n"
        "print('ready', os.getpid(), flush=True)\ntime.sleep(100)"
    )
    job = launched("--processes=2", flag, "--", "x")
    pids = [int(job.stdout.readline().split()[-1]) for _ in range(2)]
    job.kill()
    job.communicate(timeout=30)
    assert not still_there(pids)


def still_there(pids):
    """Those that have not ended after some seconds; they are killed."""
    for _ in range(100):
        pids = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
        if not pids:
            break
        time.sleep(0.1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def test_nothing_is_left_of_a_job_whose_child_has_children(module, tmp_path):
    flag = module(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\nsys.exit(1)"
    )
    job = launched("--processes=1", flag, "--", "x")
    job.communicate(timeout=30)
    assert job.returncode == 1
    assert not still_there([int((tmp_path / "pid").read_text())])


def test_commands_are_those_of_the_arguments():
    args = argparse.Namespace(
        processes=2, gpus_per_process=1, cpu_devices=None, module="m"
    )
    found = local.commands(args, ["--config=a.py"], 1234)
    assert found[1].words[1:3] == ("-m", "m")
    assert found[1].environment["ECGSSL_JAX_PLATFORM"] == "gpu"
    assert "--coordinator=localhost:1234" in found[0].words
