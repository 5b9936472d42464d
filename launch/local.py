"""A job of several processes on this machine.

    python -m launch.local --processes=2 -- --config=configs/jepa.py:ptbxl
    python -m launch.local --processes=4 --gpus-per-process=2 -- --config=configs/byol.py
    python -m launch.local --processes=2 --cpu-devices=4 --dry-run -- --config=configs/jepa.py

What follows the two dashes goes to `python -m ecgssl_jax.main`, to every process alike. Each
line that they print begins with the number of the process. If one of them fails, so does the
job, at once: the others are ended, and its last words are repeated. SIGTERM, Ctrl-C and the end
of the terminal are passed on, and the job ends when all have saved.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from ecgssl_jax.launched import LAUNCHER, PLATFORM
from ecgssl_jax.watchdog import TRY_AGAIN
from launch import parse, positive

_LAST_WORDS = 20  # lines
_LOOK = 0.1  # seconds between two looks at the processes
_SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2),
)
_SAVED = 128 + signal.SIGTERM
# What processes end with, by themselves and by JAX, that have lost another one.
_LEFT_ALONE = (TRY_AGAIN, -signal.SIGABRT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """What is run as one process.

    Attributes:
      words: the command line.
      environment: variables beside those of the launcher.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        variables = [f"{k}={shlex.quote(v)}" for k, v in self.environment.items()]
        return " ".join([*variables, shlex.join(self.words)])


def make_parser() -> argparse.ArgumentParser:
    """The command line before the two dashes."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.local",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--processes", type=positive, required=True, help="how many")
    add(
        "--gpus-per-process",
        type=positive,
        help="of this machine; default: all see all",
    )
    add("--cpu-devices", type=positive, help="virtual ones of each, without a GPU")
    add(
        "--grace",
        type=float,
        default=10.0,
        help="seconds that the others have to end, once one has failed; default 10",
    )
    return parser


def commands(args: argparse.Namespace, rest: Sequence[str], port: int) -> list[Command]:
    """One for each process."""
    found = []
    for number in range(args.processes):
        environment = {}
        if args.gpus_per_process:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(
                gpus(args.gpus_per_process, number)
            )
            environment[PLATFORM] = "gpu"
        if args.cpu_devices:
            environment["JAX_PLATFORMS"] = "cpu"
            own = f"--xla_force_host_platform_device_count={args.cpu_devices}"
            environment["XLA_FLAGS"] = (
                f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()
            )
        job = ()
        if args.processes > 1:
            job = (
                f"--coordinator=localhost:{port}",
                f"--num_processes={args.processes}",
                f"--process_id={number}",
            )
        words = (sys.executable, "-m", args.module, *rest, *job)
        found.append(Command(words=words, environment=environment))
    return found


def gpus(count: int, number: int) -> list[str]:
    """Those of the process `number`, out of what the launcher may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    own = slice(count * number, count * (number + 1))
    if visible is None:
        return [str(device) for device in range(own.start, own.stop)]
    names = [name for name in visible.split(",") if name]
    if len(names) < own.stop:
        raise SystemExit(
            f"launch.local: process {number} would have GPUs {own.start} to "
            f"{own.stop - 1} of CUDA_VISIBLE_DEVICES={visible}, which names {len(names)}"
        )
    return names[own]


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class _Process:
    """A running command, whose lines are passed on."""

    def __init__(self, number: int, command: Command):
        self.number = number
        self.last: collections.deque[str] = collections.deque(maxlen=_LAST_WORDS)
        self._popen = subprocess.Popen(
            command.words,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                LAUNCHER: str(os.getpid()),
                **command.environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal reaches the launcher alone, which passes it on.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.last.append(line)
            # Whoever read it may be gone; the process must not wait for that.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write(f"[{self.number}] {line}")
                sys.stdout.flush()

    @property
    def code(self) -> int | None:
        """None while it runs; below 0 the signal that ended it."""
        return self._popen.poll()

    def send(self, number: int) -> None:
        # To its children too, such as workers that read, which may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def end_of_output(self) -> None:
        self._reader.join(timeout=2)


def run(commands: Sequence[Command], *, grace: float) -> int:
    """Starts all, waits for all, and returns the exit code of the job.

    It is that of the first process that failed, 128 + N for a signal N, or 0. After a
    signal, what ends with 143 has saved.
    """
    signalled: list[int] = []
    former = {
        number: signal.signal(number, lambda number, _: signalled.append(number))
        for number in _SIGNALS
        # Such as SIGHUP under nohup.
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    processes: list[_Process] = []
    try:
        for number, command in enumerate(commands):
            processes.append(_Process(number, command))
        return _wait(processes, signalled, grace)
    finally:
        for process in processes:
            process.send(signal.SIGKILL)
        for number, handler in former.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[_Process], signalled: list[int], grace: float) -> int:
    passed_on, looked_again = 0, False
    while True:
        codes = {process.number: process.code for process in processes}
        # What had nothing to save yet ends by the signal itself.
        well = (None, 0, _SAVED, -signal.SIGTERM) if signalled else (None, 0)
        failed = [number for number, code in codes.items() if code not in well]
        # First, of those that ended at once, one that was not merely left alone.
        failed.sort(key=lambda number: codes[number] in _LEFT_ALONE)
        if failed and codes[failed[0]] in _LEFT_ALONE and not looked_again:
            looked_again = True  # the one that left them may be ending
            time.sleep(_LOOK)
            continue
        # After a second signal, which kills, nobody need be told.
        if failed and len(signalled) < 2:
            return _end(processes, failed[0], grace)
        if None not in codes.values():
            for process in processes:
                process.end_of_output()
            return max((_exit_code(code) for code in codes.values()), default=0)
        if len(signalled) > passed_on:
            passed_on = len(signalled)
            # The second time it is meant.
            number = signal.SIGTERM if passed_on == 1 else signal.SIGKILL
            for process in processes:
                process.send(number)
        time.sleep(_LOOK)


def _end(processes: Sequence[_Process], failed: int, grace: float) -> int:
    """Ends the others, says why, and returns the exit code of what failed."""
    process = processes[failed]
    code = process.code
    assert code is not None
    process.end_of_output()
    others = [each for each in processes if each.number != failed]
    for each in others:
        each.send(signal.SIGTERM)
    until = time.monotonic() + grace
    while time.monotonic() < until and any(each.code is None for each in others):
        time.sleep(_LOOK)
    for each in others:
        each.send(signal.SIGKILL)
    end = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    said = "".join(f"    {line}" for line in process.last) or "    (nothing)\n"
    print(
        f"launch.local: process {failed} of {len(processes)} ended with {end}; the others "
        f"were ended. The last that it said:\n{said}",
        end="",
        file=sys.stderr,
    )
    return _exit_code(code)


def _exit_code(code: int | None) -> int:
    assert code is not None
    return code if code >= 0 else 128 - code


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the job, and exits as it does."""
    args, rest = parse(make_parser(), argv)
    found = commands(args, rest, free_port())
    if args.dry_run:
        print("\n".join(map(str, found)))
        return
    raise SystemExit(run(found, grace=args.grace))


if __name__ == "__main__":
    main()
