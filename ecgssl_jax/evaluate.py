"""What a pre-training is worth: probes on its frozen features, beside baselines'.

    python -m ecgssl_jax.evaluate --workdir=runs/jepa
    python -m ecgssl_jax.evaluate --workdir=runs/jepa-ptbxl --config=configs/evaluate.py
    python -m ecgssl_jax.evaluate --workdir=runs/mine --config.data=ptbxl --config.tasks=all

Without --config, a linear probe on all labels of the set and the folds of the run's
online probe. Settings are replaced by --config.KEY=VALUE; they are listed below. Prints
tables, and writes them into the workdir's folder `evaluation` (`evaluation-SET` of another
set) as results.md, .csv and .json, and report.html to look at. Results of other settings
that were there are kept, in its folder `earlier`. With --test the figures are those of the
test folds.
"""

import argparse
import dataclasses
import datetime
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ecgssl_jax import assembly, config_files, reporting, runs
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.digest import digest_files
from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.evaluation import (
    labels,
    overlap,
    predictions,
    questions,
    report,
    retrieval,
)
from ecgssl_jax.evaluation.contenders import make_contenders, trained_name
from ecgssl_jax.evaluation.earlier import count_test_read, keep_earlier
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import delete_page
from ecgssl_jax.evaluation.html_report.write import write as write_report
from ecgssl_jax.evaluation.online import ProbeSettings, selecting_probe
from ecgssl_jax.evaluation.provenance import provenance_of
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.rows import probed_rows
from ecgssl_jax.evaluation.settings import SUPERVISED, TUNING, Evaluation, parse
from ecgssl_jax.evaluation.split import Split, final_split, validation_split
from ecgssl_jax.evaluation.standing import Standing, standing_of
from ecgssl_jax.evaluation.summary import Cell, Key, Row, summarise
from ecgssl_jax.evaluation.zero_shot import ZeroShot, wanted_zero_shot
from ecgssl_jax.experiment import Experiment
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.methods.base import Method
from ecgssl_jax.output_folder import check_writable
from ecgssl_jax.settings import ConfigError


def make_parser() -> argparse.ArgumentParser:
    """The command line, without --config.KEY."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.evaluate",
        description=__doc__,
        epilog=f"Settings, --config.KEY=VALUE:\n\n{inspect.getdoc(Evaluation)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", type=Path, help="folder of the run")
    add(
        "--checkpoint",
        default="best",
        help="best (by the run's online probe; the default) or newest; or, instead of "
        "--workdir, one step's folder such as runs/jepa/best/4000",
    )
    add("--config", help="configs/evaluate.py, or FILE:ARGUMENT")
    add(
        "--test",
        action="store_true",
        help="read the test folds, once everything has been selected",
    )
    add("--output", type=Path, help="folder of the results; default: in the workdir")
    return parser


def main(argv: list[str] | None = None) -> None:
    keep_freed_memory()
    silence_echoes()
    # Orbax reports every file that it reads.
    logging.set_verbosity(logging.ERROR)
    with exit_with_message("evaluate"):
        rest, overrides = config_files.split_overrides(
            sys.argv[1:] if argv is None else argv
        )
        args = make_parser().parse_args(rest)
        _choose_checkpoint(args)
        evaluate(args, parse(config_files.load(args.config, overrides)))


def _choose_checkpoint(args: argparse.Namespace) -> None:
    """Gives `args` the run's workdir, and `path`: where its checkpoint is read from.

    Raises:
      UserError: it says neither or both.
    """
    if args.checkpoint in ("best", "newest"):
        if args.workdir is None:
            raise UserError(
                "name a run, with --workdir=runs/jepa or --checkpoint=runs/jepa/best/4000"
            )
        args.path, args.which = args.workdir, args.checkpoint
        args.workdir = runs.workdir_of(args.path)
        return
    if args.workdir is not None:
        raise UserError(
            f"--checkpoint={args.checkpoint}: with --workdir it is best or newest; a "
            "folder stands alone"
        )
    args.path, args.which = Path(args.checkpoint), "best"
    args.workdir = runs.workdir_of(args.path)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Outcome:
    """What there is to publish.

    Attributes:
      run: whose encoder was evaluated.
      encoder: its name in the tables.
      method: the run's.
      prepared, split: the set, and what its folds were for.
      standing: how far the figures can be believed.
      asked: the questions, of all folds.
      reported: the questions, of the reported records alone.
      cells: the answers; empty where nothing was asked.
      notes: what a reader must know.
      test_reads: how often the test folds were read for results in the same place.
      retrieval: by the name of the direction.
      pooled: [N, D] features of the `labelled` records; None where nothing was asked.
    """

    run: runs.Run
    encoder: str
    method: Method
    prepared: PreparedSet
    split: Split
    standing: Standing
    asked: Sequence[Question]
    reported: Sequence[Question]
    cells: Mapping[Key, Cell]
    notes: Sequence[str]
    test_reads: int
    retrieval: Mapping[str, retrieval.Retrieval]
    pooled: np.ndarray | None


def evaluate(args: argparse.Namespace, settings: Evaluation) -> dict[str, Any]:
    """Runs the comparison that the command line asks for -> what results.json holds.

    Raises:
      OSError: no such run, checkpoint or prepared set, or results that cannot be
        written.
      PrepareError: the embedded set cannot be made.
      CheckpointError, DamagedSetError: files that do not match their checksums.
      ConfigError: settings, labels or folds that do not fit.
    """
    check_writable(args.output or args.workdir)
    tokens = np.float16 if "attention" in settings.protocols else None
    encoder = runs.load_encoder(args.path, args.which, tokens=tokens)
    experiment = encoder.run.experiment
    prepared, split = _open(settings, experiment, args.test)
    encoder.check(prepared)
    tasks = _tasks(settings, prepared, encoder.method)
    if not tasks and (prepared.index["fold"] == -1).all():
        # Retrieval alone, which needs no probe: on the set as a whole.
        split = dataclasses.replace(split, report=(-1,))
    asked = [questions.question(prepared, task, split) for task in tasks]
    folder = _folder(args, encoder.run, prepared)
    reads = count_test_read(folder) if args.test else 0
    zero_shot = wanted_zero_shot(encoder, prepared, tasks, settings)
    if encoder.method.labels is not None:
        settings = settings.also("predictions")
    if zero_shot is not None:
        settings = settings.also("zero_shot")
    reported = [each.only(split.report) for each in asked]
    rows, failures = [], []
    if asked:
        rows, failures = _answered(
            args, settings, encoder, zero_shot, prepared, asked, split
        )
    cells = summarise(
        rows,
        reported,
        pairs=[(rows[-1].encoder, other.encoder) for other in rows[:-1]],
        draws=settings.draws,
        level=settings.level,
    )
    found = retrieval.retrieve_reports(encoder, prepared, split.report)
    if not cells and not found:
        raise ConfigError(
            f"there is nothing to show of {prepared.name}: predictions are those of a "
            "model that was trained on its labels, zero_shot and retrieval are of one "
            "that was trained on reports; choose other --config.protocols, or folds with "
            "reports"
        )
    root = Path(settings.root or experiment.data.root)
    provenance = provenance_of(encoder.run, encoder.method, prepared)
    known = overlap.overlaps(encoder.run, encoder.method, prepared, split.report, root)
    notes = report.notes(
        cells,
        split,
        sizes={each.name: len(each.rows) for each in reported},
        level=settings.level,
        provenance=provenance,
    )
    if args.test:
        notes.insert(0, report.test_note(split, reads))
    standing = standing_of(
        split,
        provenance,
        test=args.test,
        texts=bool(found) or any(key.protocol == "zero_shot" for key in cells),
        copies=any(each.is_known for each in known),
    )
    outcome = _Outcome(
        run=encoder.run,
        encoder=trained_name(encoder),
        method=encoder.method,
        prepared=prepared,
        split=split,
        standing=standing,
        asked=asked,
        reported=reported,
        cells=cells,
        notes=[*notes, *failures, *overlap.notes(known)],
        test_reads=reads,
        retrieval=found,
        pooled=rows[-1].pooled if rows else None,
    )
    return _publish(args, settings, outcome)


def _open(
    settings: Evaluation, experiment: Experiment, test: bool
) -> tuple[PreparedSet, Split]:
    """The labelled set, and what its folds are for."""
    name, defaults = _default_set(experiment)
    if settings.data not in (None, name):
        name, defaults = settings.data, ProbeSettings()
    train = settings.train_folds or defaults.train_folds
    valid = settings.valid_folds or defaults.valid_folds
    if test:
        split = final_split(train, valid, settings.test_folds)
    else:
        both = sorted({*train, *valid} & set(settings.test_folds))
        if both:
            raise ConfigError(
                f"folds {both} are test folds, which only --test reads; if they are none "
                "here, name those that are: --config.test_folds, () for none"
            )
        split = validation_split(train, valid)
    data = experiment.data
    data = dataclasses.replace(data, root=settings.root or data.root)
    return assembly.open_set(data, name), split


def _default_set(experiment: Experiment) -> tuple[str, ProbeSettings]:
    """-> the set's name, and the probe whose folds it is evaluated on by default."""
    probe = selecting_probe(experiment)
    if probe is None:
        return experiment.data.components[0].name, ProbeSettings()
    _, settings = probe
    return settings.data, settings


def _tasks(
    settings: Evaluation, prepared: PreparedSet, method: Method
) -> tuple[str, ...]:
    """Those to answer; none on a set without labels, of a method that knows reports."""
    found: list[str] = []
    for task in settings.tasks or labels.main_tasks(prepared):
        found += labels.every_task(prepared) if task == "every" else (task,)
    if not found and method.text is None:
        raise ConfigError(
            f"{prepared.name} has no labels to probe; name a labelled prepared set "
            "with --config.data"
        )
    return tuple(dict.fromkeys(found))


def _answered(
    args: argparse.Namespace,
    settings: Evaluation,
    encoder: runs.FrozenEncoder,
    zero_shot: ZeroShot | None,
    prepared: PreparedSet,
    asked: Sequence[Question],
    split: Split,
) -> tuple[list[Row], list[str]]:
    """Answers of all contenders, the trained encoder's last; notes on what failed."""
    seeds = settings.seeds or (encoder.run.experiment.seed,)
    rows = _labelled(prepared)
    contenders = make_contenders(
        encoder,
        prepared,
        rows,
        baselines=settings.baselines,
        seeds=seeds,
        cache=args.workdir / "features" if settings.cache else None,
        zero_shot=zero_shot,
    )
    placed = [each.within(rows) for each in asked]
    names = prepared.index["record_id"][rows]
    found = probed_rows(contenders, placed, split, settings, seeds, names=names)
    if not set(TUNING) & set(settings.protocols) and (
        SUPERVISED not in settings.baselines
    ):
        return found, []
    # TensorFlow, which feeds the training, is not for those who only probe.
    from ecgssl_jax.finetuning import FineTuner, with_tuned_rows

    folder = settings.finetuning.folder or args.workdir / "finetuned"
    tuner = FineTuner(
        encoder=encoder,
        prepared=prepared,
        split=split,
        settings=settings.finetuning,
        folder=Path(folder),
    )
    return with_tuned_rows(found, tuner, asked, settings, seeds)


def _labelled(prepared: PreparedSet) -> np.ndarray:
    """Records whatever the folds and tasks: all of them have the same features."""
    return np.flatnonzero(prepared.index["labels_valid"].any(axis=1))


def _publish(
    args: argparse.Namespace, settings: Evaluation, outcome: _Outcome
) -> dict[str, Any]:
    """Prints and writes the tables and the document, and returns the document."""
    run, prepared, cells = outcome.run, outcome.prepared, outcome.cells
    training = runs.training_summary(args.workdir)
    document = {
        "workdir": str(args.workdir),
        "checkpoint": str(run.checkpoint),
        "step": run.step,
        "seed": run.experiment.seed,
        "encoder": outcome.encoder,
        "data": prepared.name,
        "folds": dataclasses.asdict(outcome.split),
        "test_folds_were_read": args.test,
        "test_reads": outcome.test_reads,
        "standing": dataclasses.asdict(outcome.standing),
        "settings": dataclasses.asdict(settings),
        "training": training,
        "notes": list(outcome.notes),
        "summary": report.summary_as_json(cells),
        "results": report.as_json(cells),
        "retrieval": {
            direction: dataclasses.asdict(found)
            for direction, found in outcome.retrieval.items()
        },
        **reporting.describe_run(),
    }
    tables = report.tables(cells, prepared.name)
    if outcome.retrieval:
        tables.append(retrieval.table(outcome.retrieval, prepared.name))
    text = report.page(tables, outcome.notes)
    folder = _folder(args, run, prepared)
    moved = keep_earlier(folder, document)
    if moved is not None:
        print(f"what was in {folder}, of another evaluation, is in {moved} now")
    kept = [predictions.write(folder, outcome.reported, cells)] if cells else []
    document["predictions_sha256"] = digest_files(kept) if kept else None
    written = [*report.write(folder, text, document, cells), *kept]
    print(f"\n{text}\n", flush=True)
    if settings.report:
        material = _material(args, outcome, document)
        written.append(write_report(folder, material))
    else:
        # One of other results would lie beside these.
        delete_page(folder)
    for line in _places(args.workdir, run, training, written):
        print(line)
    return document


def _material(
    args: argparse.Namespace, outcome: _Outcome, document: Mapping[str, Any]
) -> Material:
    """What the report shows."""
    prepared, experiment = outcome.prepared, outcome.run.experiment
    return Material(
        name=args.workdir.resolve().name,
        encoder=outcome.encoder,
        document=document,
        date=datetime.date.today().isoformat(),
        prepared=prepared,
        split=outcome.split,
        asked=outcome.asked,
        cells=outcome.cells,
        retrieval=outcome.retrieval,
        rows=None if outcome.pooled is None else _labelled(prepared),
        pooled=outcome.pooled,
        # Those of single leads do not.
        ordered_tokens=not outcome.method.leads,
        method=experiment.method,
        model=experiment.model,
        crop=experiment.data.crop,
        metrics=reporting.read_metrics(args.workdir),
        seed=experiment.seed,
    )


def _folder(args: argparse.Namespace, run: runs.Run, prepared: PreparedSet) -> Path:
    """'evaluation', and of another set than by default, or of test folds, also which."""
    if args.output:
        return args.output
    parts = ["evaluation"]
    default, _ = _default_set(run.experiment)
    if prepared.name != default:
        parts.append(re.sub(r"[^A-Za-z0-9_.=-]+", "-", prepared.name))
    if args.test:
        parts.append("test")
    return args.workdir / "-".join(parts)


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
    pictures = sorted(workdir.glob("*.png"))
    if pictures:
        lines.append(f"pictures    {_listed(pictures)}")
    lines.append(f"results     {_listed(written)}")
    return lines


def _listed(paths: Sequence[Path]) -> str:
    return "\n            ".join(map(str, paths))


if __name__ == "__main__":
    main()
