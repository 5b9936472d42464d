"""A job on a SLURM cluster, which comes back after time-outs and preemption.

    python -m launch.slurm --nodes=2 --gpus-per-node=8 --cpus-per-task=16 --partition=gpu \\
        --time=24:00:00 -- --config=configs/jepa.py:ptbxl --workdir=runs/jepa
    python -m launch.slurm --nodes=2 --dry-run -- --config=configs/jepa.py

What follows the two dashes goes to `python -m ecgssl_jax.main`, to every task alike; JAX finds
the tasks of the job by SLURM's variables. Workdir and data must lie where all nodes see them.

Before its time is over, and where it is preempted, SLURM signals the tasks: they save, end with
code 143, and the job is put back into the queue, where it continues from its checkpoint. So it
is, at most `--requeues` times, where a task was killed; what is wrong with config or data ends
the job for good, whatever becomes of the other tasks. One task that fails ends all.
"""

import argparse
import dataclasses
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.launched import PLATFORM
from launch import not_negative, pairs, parse, positive

_PROGRAM = "launch.slurm"
# Of a job that saved, and of tasks that were killed or lost: 128 + the signal's number. SIGUSR1
# and 2 end those that have not begun yet.
_SAVED = 128 + signal.SIGTERM
_LOST = (
    75,  # of a task that lost another
    *(
        128 + number
        for number in (
            signal.SIGKILL,
            signal.SIGABRT,
            signal.SIGBUS,
            signal.SIGUSR1,
            signal.SIGUSR2,
        )
    ),
)
# An error with a message, and a wrong command line, are for good. srun, which ends the other
# tasks, may tell how those ended: so the task that failed leaves its code in a file. The shell
# waits for it however it is signalled.
_TASK = (
    'trap : TERM INT HUP USR1 USR2; "$@"; code=$?; '
    'case $code in 1|2) echo $code > "$ENDED" ;; esac; exit $code'
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a task of the job becomes; called on the node.

    Attributes:
      words: the command line.
      folder: that it is run in.
      environment: variables beside the job's.
      logs: folder in which it leaves its code if that is for good.
    """

    words: tuple[str, ...]
    folder: str
    environment: Mapping[str, str]
    logs: str

    def __call__(self) -> None:
        os.chdir(self.folder)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}
        environment["ENDED"] = f"{self.logs}/{os.environ['SLURM_JOB_ID']}.ended"
        # In the place of the process that SLURM started.
        os.execvpe("sh", ["sh", "-c", _TASK, "task", *self.words], environment)


def make_parser() -> argparse.ArgumentParser:
    """The command line before the two dashes."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.slurm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", default="ecgssl_jax", help="of the job")
    add("--nodes", type=positive, default=1)
    add("--tasks-per-node", type=positive, default=1, help="processes; default 1")
    add("--gpus-per-node", type=positive, help="default: none")
    add("--cpus-per-task", type=positive)
    add("--mem", help="of a node, such as 64GB")
    add(
        "--time",
        default="24:00:00",
        help="HH:MM:SS until it is put back; default a day",
    )
    add("--partition")
    add("--account")
    add("--qos")
    add(
        "--logs",
        type=Path,
        default=Path("runs/slurm"),
        help="folder; default runs/slurm",
    )
    add("--env", action="append", default=[], metavar="KEY=VALUE", help="for the tasks")
    add("--setup", action="append", default=[], help="a line of the script before them")
    add(
        "--sbatch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other option of sbatch, such as constraint=h100",
    )
    add(
        "--notice",
        type=positive,
        default=120,
        help="seconds before the end of the time in which to save; default 120",
    )
    add(
        "--requeues",
        type=not_negative,
        default=100,
        help="how often the job may come back; default 100",
    )
    return parser


def _ended(logs: Path) -> str:
    """The file in which a task leaves its code, as the script's shell takes it."""
    return f'{shlex.quote(str(logs.resolve()))}/"$SLURM_JOB_ID".ended'


def teardown(requeues: int, logs: Path) -> list[str]:
    """Lines of the script after the tasks: whether the job comes back."""
    codes = "|".join(map(str, (_SAVED, *_LOST)))
    return [
        "code=$?",
        f"ended={_ended(logs)}",
        'if [ -e "$ended" ]; then code=$(cat "$ended"); rm -f "$ended"; fi',
        "case $code in",
        f"  {codes})",
        f'    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then',
        '      echo "launch.slurm: code $code, back into the queue" >&2',
        '      scontrol requeue "$SLURM_JOB_ID"',
        "    fi ;;",
        "esac",
        "exit $code",
    ]


def executor_of(args: argparse.Namespace) -> Any:
    """submitit's, with the job's parameters."""
    try:
        from submitit import SlurmExecutor
    except ModuleNotFoundError as error:
        raise SystemExit(
            "launch.slurm needs submitit: pip install -c constraints.txt -e '.[slurm]'"
        ) from error

    class Executor(SlurmExecutor):
        """That also prints where there is no cluster."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Executor(args.logs, python=shlex.quote(sys.executable))
    known = {
        "job_name": args.name,
        "nodes": args.nodes,
        "ntasks_per_node": args.tasks_per_node,
        "gpus_per_node": args.gpus_per_node,
        "cpus_per_task": args.cpus_per_task,
        "mem": args.mem,
        "time": args.time,
        "partition": args.partition,
        "account": args.account,
        "qos": args.qos,
    }
    executor.update_parameters(
        **{name: value for name, value in known.items() if value is not None},
        signal_delay_s=args.notice,
        stderr_to_stdout=True,
        # What follows the tasks must be reached whatever these lines set.
        setup=[*args.setup, "set +e", f"rm -f {_ended(args.logs)}"],
        teardown=teardown(args.requeues, args.logs),
        srun_args=["--kill-on-bad-exit=1"],
        additional_parameters={
            "requeue": True,
            **pairs(args.sbatch, "--sbatch", _PROGRAM),
        },
    )
    return executor


def main(argv: Sequence[str] | None = None) -> None:
    """Submits the job, or prints what would be submitted."""
    args, rest = parse(make_parser(), argv)
    args.logs = args.logs.expanduser()
    if not args.name.isprintable():
        raise SystemExit(f"launch.slurm: --name={args.name!r}: expected one line")
    environment = {PLATFORM: "gpu"} if args.gpus_per_node else {}
    program = Program(
        words=(sys.executable, "-m", args.module, *rest),
        folder=os.getcwd(),
        environment={**environment, **pairs(args.env, "--env", _PROGRAM)},
        logs=str(args.logs.resolve()),
    )
    executor = executor_of(args)
    if args.dry_run:
        print(executor._make_submission_file_text("SUBMITTED", "dry"))
        print(f"# SUBMITTED becomes: {shlex.join(program.words)}")
        return
    if shutil.which("sbatch") is None:
        raise SystemExit(
            "launch.slurm: sbatch is not here; start it where jobs are submitted, or "
            "print the script with --dry-run"
        )
    try:
        job = executor.submit(program)
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"launch.slurm: nothing was submitted: {error}") from error
    print(
        f"job {job.job_id}; what it says: {args.logs.resolve()}/{job.job_id}_*_log.out"
    )


if __name__ == "__main__":
    main()
