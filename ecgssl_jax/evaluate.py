"""What a pre-training is worth: a probe on a random and on the trained encoder.

    python -m ecgssl_jax.evaluate --workdir=runs/jepa
    python -m ecgssl_jax.evaluate --workdir=runs/jepa-ptbxl --seeds=0,1,2
    python -m ecgssl_jax.evaluate --workdir=runs/mine --data=ptbxl --task=all

Without further flags, the labelled set and the folds are those of the run's online
probe. Prints a table, and writes results.md and results.json into the workdir; of
another set or protocol, results-SET.md or results-attention.md.
"""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ecgssl_jax import assembly, reporting, runs
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.errors import exit_with_message
from ecgssl_jax.evaluation import comparison, report, retrieval
from ecgssl_jax.evaluation.contenders import make_contenders, score
from ecgssl_jax.evaluation.online import ProbeSettings, selecting_probe
from ecgssl_jax.evaluation.provenance import provenance_of
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.number_list import numbers
from ecgssl_jax.output_folder import check_writable
from ecgssl_jax.settings import ConfigError


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workdir", required=True, help="folder of the run")
    add(
        "--checkpoint",
        choices=("best", "newest"),
        default="best",
        help="of the run's checkpoints; default best, by its online probe",
    )
    add("--data", help="name of a labelled prepared set; default: the run's probe's")
    add("--root", help="folder of the prepared sets; default: the run's data.root")
    add(
        "--task",
        type=_names,
        help="tasks, separated by commas: labels, or PTB-XL's all, diagnostic, "
        "subdiagnostic, superdiagnostic, form, rhythm, single_superdiagnostic; "
        "default: superdiagnostic,all for PTB-XL, else labels",
    )
    add(
        "--train-folds",
        type=numbers,
        help="such as 1-8; the last one selects the probe's settings",
    )
    add("--valid-folds", type=numbers, help="such as 9")
    add(
        "--protocol",
        choices=("linear", "attention"),
        default="linear",
        help="a linear probe on the mean of the tokens, or one query that attends "
        "over them (minutes a task)",
    )
    add(
        "--seeds",
        type=numbers,
        help="of the random encoders; default: the run's. With --protocol=attention, "
        "the first is the probe's too",
    )
    add("--no-spectrum", action="store_true", help="leave out the row without encoder")
    add("--output", help="folder of results.md and results.json; default: --workdir")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def main(argv: list[str] | None = None) -> None:
    keep_freed_memory()
    silence_echoes()
    # Orbax reports every file that it reads.
    logging.set_verbosity(logging.ERROR)
    args = make_parser().parse_args(argv)
    with exit_with_message("evaluate"):
        evaluate(args)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the comparison that the command line asks for -> what results.json holds.

    Raises:
      OSError: no such run, checkpoint or prepared set, or results that cannot be
        written.
      PrepareError: the embedded set cannot be made.
      CheckpointError, DamagedSetError: files that do not match their checksums.
      ConfigError: settings, labels or folds that do not fit.
    """
    check_writable(args.output or args.workdir)
    attends = args.protocol == "attention"
    encoder = runs.load_encoder(
        args.workdir, args.checkpoint, tokens=np.float16 if attends else None
    )
    experiment = encoder.run.experiment
    name, defaults = _choose_set(args, experiment)
    root = args.root or experiment.data.root
    prepared = assembly.open_set(dataclasses.replace(experiment.data, root=root), name)
    encoder.check(prepared)
    tasks = args.task or default_tasks(prepared)
    if not tasks and encoder.method.text is None:
        raise ConfigError(
            f"{prepared.name} has no labels to probe; name a labelled prepared set with "
            "--data"
        )
    folds = comparison.Folds(
        train=args.train_folds or defaults.train_folds,
        valid=args.valid_folds or defaults.valid_folds,
    )
    if not tasks and (prepared.index["fold"] == -1).all():
        # Retrieval alone, which needs no probe: on the set as a whole.
        folds = dataclasses.replace(folds, valid=(-1,))
    questions = [comparison.question(prepared, task, folds) for task in tasks]
    seeds = args.seeds or (experiment.seed,)
    spectrum = not (args.no_spectrum or attends)
    rows = []
    if questions:
        rows = [
            score(each, questions, folds, protocol=args.protocol, seed=seeds[0])
            for each in make_contenders(
                encoder, prepared, seeds=seeds, spectrum=spectrum
            )
        ]
    notes = report.notes(
        folds,
        protocol=args.protocol,
        sizes={each.name: each.sizes(folds) for each in questions},
        provenance=provenance_of(encoder.run, encoder.method, prepared),
        left_out={
            task: scores[0].macro.left_out
            for row in rows[:1]
            for task, scores in row.scores.items()
        },
    )
    found = retrieval.retrieve_reports(encoder, prepared, folds.valid)
    return _publish(args, encoder.run, name, folds, rows, notes, found)


def _choose_set(
    args: argparse.Namespace, experiment: Experiment
) -> tuple[str, ProbeSettings]:
    """-> the set's name, and the probe whose folds it is evaluated on by default."""
    probe = selecting_probe(experiment)
    if probe is None:
        return args.data or experiment.data.components[0].name, ProbeSettings()
    _, settings = probe
    if args.data in (None, settings.data):
        return settings.data, settings
    return args.data, ProbeSettings()


def _publish(
    args: argparse.Namespace,
    run: runs.Run,
    data: str,
    folds: comparison.Folds,
    rows: Sequence[report.Row],
    notes: Sequence[str],
    found: dict[str, retrieval.Retrieval],
) -> dict[str, Any]:
    """Prints and writes the table and the document, and returns the document."""
    training = runs.training_summary(args.workdir)
    document = {
        "workdir": str(args.workdir),
        "checkpoint": str(run.checkpoint),
        "step": run.step,
        "data": data,
        "folds": dataclasses.asdict(folds),
        "protocol": args.protocol,
        "training": training,
        "notes": list(notes),
        "results": report.as_json(rows),
        "retrieval": {key: dataclasses.asdict(value) for key, value in found.items()},
        **reporting.describe_run(),
    }
    lines = [f"- {note}" for note in notes]
    tables = []
    if rows:
        tables += [report.table(rows, list(rows[0].scores), data), ""]
    if found:
        tables += [retrieval.table(found, data), ""]
    text = "\n".join([*tables, *lines])
    folder = Path(args.output or args.workdir)
    written = report.write(folder, _file_name(args, run), text, document)
    print(f"\n{text}\n")
    for line in _places(Path(args.workdir), run, training, written):
        print(line)
    return document


def _file_name(args: argparse.Namespace, run: runs.Run) -> str:
    """'results', and of another set or protocol than by default also which."""
    parts = ["results"]
    default, _ = _choose_set(argparse.Namespace(data=None), run.experiment)
    if args.data not in (None, default):
        parts.append(re.sub(r"[^A-Za-z0-9_.=-]+", "-", args.data))
    if args.protocol != "linear":
        parts.append(args.protocol)
    return "-".join(parts)


def default_tasks(prepared: PreparedSet) -> tuple[str, ...]:
    """Superclasses and all statements where the set is PTB-XL, else its labels.

    Empty where there are none.
    """
    if not prepared.labels:
        return ()
    rows = prepared.label_table.values()
    if any("diagnostic_class" in row for row in rows):
        return ("superdiagnostic", "all")
    return ("labels",)


def _places(
    workdir: Path, run: runs.Run, training: dict[str, float], written: list[Path]
) -> list[str]:
    """The speed of the training, and where everything is."""
    lines = []
    if training:
        lines.append(
            f"training    {training['samples_per_second']:,.0f} samples/s, "
            f"{training['steps']:.0f} steps in {training['minutes']:.1f} minutes, "
            f"{100 * training['data_wait_share']:.1f} % waiting for data"
        )
    lines.append(f"checkpoint  {run.checkpoint}")
    pictures = sorted(workdir.rglob("*.png"))
    if pictures:
        lines.append(f"pictures    {_listed(pictures)}")
    lines.append(f"results     {_listed(written)}")
    return lines


def _listed(paths: Sequence[Path]) -> str:
    return "\n            ".join(map(str, paths))


if __name__ == "__main__":
    main()
