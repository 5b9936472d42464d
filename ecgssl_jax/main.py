"""Pre-training: python -m ecgssl_jax.main --config=configs/jepa.py --workdir=DIR."""

import json
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from ecgssl_jax import reporting
from ecgssl_jax.assembly import make_task
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.train import TrainingDiverged, train

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: a file of configs/, with its argument."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and logs go; runs/<config> if not given."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Checks the config, then trains or continues."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    # Orbax reports every step of every save as information.
    logging.set_verbosity(logging.WARNING)
    config = _CONFIG.value.to_dict()
    workdir = Path(_WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename))
    try:
        experiment = parse(config)
        task = make_task(experiment)
        workdir.mkdir(parents=True, exist_ok=True)
        described = {"config": config, **reporting.describe_run()}
        (workdir / "run.json").write_text(json.dumps(described, indent=2, default=str))
        train(experiment, task, workdir, meta={"config": config})
    except (ConfigError, FileNotFoundError, TrainingDiverged) as error:
        sys.exit(f"error: {error}")


def default_workdir(config: str) -> str:
    """'configs/jepa.py:ptbxl' -> 'runs/jepa-ptbxl'."""
    path, _, argument = config.partition(":")
    stem = Path(path).stem
    return f"runs/{stem}-{argument}" if argument else f"runs/{stem}"


if __name__ == "__main__":
    app.run(main)
