"""Pre-training: python -m ecgssl_jax.main --config=configs/jepa.py --workdir=DIR.

Settings of the config are replaced by --config.KEY=VALUE, such as
--config.optim.clip_norm=1. The same command with the same workdir continues a run
where it was. A job of several processes starts this once for each of them, with
--coordinator=HOST:PORT --num_processes=N --process_id=I, or by srun without flags.
"""

import argparse
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import jax
from absl import logging

from ecgssl_jax import config_files, pictures, processes, reporting
from ecgssl_jax.assembly import make_task
from ecgssl_jax.checkpoint import CheckpointWriteError, silence_echoes
from ecgssl_jax.checkpoint_manifest import CheckpointError
from ecgssl_jax.checkpoint_reading import saved_meta
from ecgssl_jax.config_completion import complete
from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.experiment import parse
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.train import TrainingDiverged, train
from ecgssl_jax.watchdog import TRY_AGAIN
from ecgssl_jax.workdir_lock import WorkdirError, only_run

_AFTER_OTHERS = 3.0  # seconds


def make_parser() -> argparse.ArgumentParser:
    """The command line, without --config.KEY."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="a file of configs/, or FILE:ARGUMENT")
    add("--workdir", help="checkpoints, logs, pictures; default runs/<config>")
    processes.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Checks the config, then trains or continues."""
    keep_freed_memory()
    silence_echoes()
    # Orbax reports every step of every save as information.
    logging.set_verbosity(logging.WARNING)
    with exit_with_message("error"):
        try:
            _run(sys.argv[1:] if argv is None else argv)
        except (ConfigError, CheckpointError, TrainingDiverged, WorkdirError):
            raise  # in all processes alike
        except (CheckpointWriteError, reporting.LogWriteError) as error:
            # Orbax's unfinished writes would each fail again on a regular exit.
            _exit_at_once(error)
        except Exception as error:
            # The others wait for this process in a collective; a regular exit would
            # wait for them.
            if jax.distributed.is_initialized():
                _exit_at_once(error)
            raise


def _run(argv: list[str]) -> None:
    rest, overrides = config_files.split_overrides(argv)
    args, unknown = make_parser().parse_known_args(rest)
    if unknown:
        raise ConfigError(
            f"unknown argument {unknown[0]}; a setting of the config is changed by "
            "--config.KEY=VALUE, such as --config.batch_size=32"
        )
    given = default_workdir(args.config) if args.workdir is None else args.workdir
    workdir = _local(given)
    config = config_files.load(args.config, overrides)
    processes.initialise(args.coordinator, args.num_processes, args.process_id)
    before = saved_meta(str(workdir / "checkpoints"))
    config = complete(config, before)
    experiment = parse(config)
    # First what can be refused, so that nothing is left of a run that is.
    task = make_task(experiment, before)
    processes.check_same({"config": config, "meta": task.meta})
    with only_run(workdir):
        train(experiment, task, workdir, meta={"config": config})
        if processes.is_first():
            for path in pictures.draw_run(experiment, workdir):
                reporting.say(f"drew {path}")


def _local(workdir: str) -> Path:
    """Raises ConfigError for an address, of which Path would make a local folder."""
    if not workdir:
        raise ConfigError("--workdir= is empty; name a folder")
    if "://" in workdir:
        raise ConfigError(
            f"--workdir={workdir}: expected a folder; mount the bucket, such as by "
            "gcsfuse, and give the place where it is mounted"
        )
    return Path(workdir).expanduser()


def _exit_at_once(error: Exception) -> NoReturn:
    """Ends this process without what a regular exit would finish or wait for.

    With the code 75 (EX_TEMPFAIL) where it may be that another process was lost, after
    which launchers start the job anew, and with 1 otherwise.
    """
    lost = not isinstance(error, UserError) and processes.lost_another(error)
    if lost:
        print(f"error: another process was lost: {error}", file=sys.stderr)
        # Launchers go by who ends first: let that be the other one, if it is ending. That
        # they then end this one must not make it look as if it had saved.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(_AFTER_OTHERS)
    elif isinstance(error, UserError | OSError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(TRY_AGAIN if lost else 1)


def default_workdir(config: str) -> str:
    """'configs/jepa.py:ptbxl,root=/data' -> 'runs/jepa-ptbxl-root=-data'."""
    path, _, argument = config.partition(":")
    stem = Path(path).stem
    # The Makefile names it alike.
    argument = re.sub(r"[^A-Za-z0-9_.=-]+", "-", argument)
    return f"runs/{stem}-{argument}" if argument else f"runs/{stem}"


if __name__ == "__main__":
    main()
