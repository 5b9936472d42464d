"""The main job on several processes of this machine, as a user starts it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 240  # seconds of one start; processes may wait for each other for ever


def stop(job: subprocess.Popen[str]) -> None:
    """Ends it and its processes; killed at once, it would leave them behind."""
    for number in (signal.SIGTERM, signal.SIGTERM):  # the second kills
        job.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(timeout=5)
    job.kill()


def start(
    settings: Mapping[str, Any], workdir: Path, *, processes: int = 1, devices: int = 1
) -> subprocess.Popen[str]:
    """A run of configs/jepa.py; what it says is in `stdout`.

    Args:
      settings: of the config, by their paths.
      devices: of each process.
    """
    return subprocess.Popen(
        [
            *[sys.executable, "-m", "launch.local", f"--processes={processes}"],
            *[f"--cpu-devices={devices}", "--", "--config=configs/jepa.py"],
            *[f"--config.{key}={value}" for key, value in settings.items()],
            f"--workdir={workdir}",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
