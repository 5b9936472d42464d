"""What a pre-training is worth: a probe on a random and on the trained encoder.

    python -m ecgssl_jax.evaluate --workdir=runs/jepa
    python -m ecgssl_jax.evaluate --workdir=runs/jepa-ptbxl --seeds=0,1,2
    python -m ecgssl_jax.evaluate --workdir=runs/mine --data=ptbxl --task=all

Without further flags, the labelled set and the folds are those of the run's online
probe. Prints a table, and writes results.md and results.json into the workdir.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from absl import logging

from ecgssl_jax import assembly, reporting, runs, sharding
from ecgssl_jax.checkpoint import silence_echoes
from ecgssl_jax.data.prepared import DamagedSetError, PreparedSet
from ecgssl_jax.evaluation import comparison, features, report, retrieval
from ecgssl_jax.evaluation.online import ProbeSettings
from ecgssl_jax.evaluation.spectrum import log_spectrum
from ecgssl_jax.experiment import Experiment, Mesh
from ecgssl_jax.manifest import CheckpointError
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.methods.base import TextMethod
from ecgssl_jax.settings import ConfigError, build

# Rows of the set -> their features: [n, D] and None; for attention [n, L, D], and
# [n, L] where not all of those tokens are valid.
Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


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
        type=_numbers,
        help="such as 1-8; the last one selects the probe's settings",
    )
    add("--valid-folds", type=_numbers, help="such as 9")
    add(
        "--protocol",
        choices=("linear", "attention"),
        default="linear",
        help="a linear probe on the mean of the tokens, or one query that attends "
        "over them (minutes a task)",
    )
    add(
        "--seeds",
        type=_numbers,
        help="of the random encoders; default: the run's. With --protocol=attention, "
        "the first is the probe's too",
    )
    add("--no-spectrum", action="store_true", help="leave out the row without encoder")
    add("--output", help="folder of results.md and results.json; default: --workdir")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _numbers(text: str) -> tuple[int, ...]:
    """'1-3,7' -> (1, 2, 3, 7)."""
    numbers: list[int] = []
    try:
        for part in _names(text):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers such as 9 or 1-8 or 1,3"
        ) from None
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} holds no number")
    return tuple(numbers)


def main(argv: list[str] | None = None) -> None:
    keep_freed_memory()
    silence_echoes()
    # Orbax reports every file that it reads.
    logging.set_verbosity(logging.ERROR)
    args = make_parser().parse_args(argv)
    try:
        evaluate(args)
    except (ConfigError, CheckpointError, DamagedSetError, FileNotFoundError) as error:
        sys.exit(f"evaluate: {error}")


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the comparison that the command line asks for -> what results.json holds.

    Raises:
      FileNotFoundError: no such run, checkpoint or prepared set.
      CheckpointError, DamagedSetError: files that do not match their checksums.
      ConfigError: settings, labels or folds that do not fit.
    """
    run, params = runs.open_run(args.workdir, args.checkpoint)
    experiment = run.experiment
    if args.root:
        data = dataclasses.replace(experiment.data, root=args.root)
        experiment = dataclasses.replace(experiment, data=data)
    online = _online_probe(experiment)
    name = args.data or (online.data if online else experiment.data.name)
    prepared = assembly.open_set(experiment.data, name)
    _check_rate(run, prepared)
    known = online if online and online.data == name else None
    defaults = known or ProbeSettings()
    folds = comparison.Folds(
        train=args.train_folds or defaults.train_folds,
        valid=args.valid_folds or defaults.valid_folds,
    )
    questions = [
        comparison.question(prepared, task, folds)
        for task in args.task or default_tasks(prepared)
    ]
    seeds = args.seeds or (experiment.seed,)

    rows = []
    encoders = _encoders(args, run, experiment, params, prepared, seeds)
    for encoder, its_seeds, encodes in encoders:
        scores = {each.name: [] for each in questions}
        for encode in encodes:
            for score in _scores(encoder, encode, questions, folds, args, seeds[0]):
                scores[score.task].append(score)
        rows.append(report.Row(encoder=encoder, seeds=its_seeds, scores=scores))
    notes = report.notes(
        folds,
        protocol=args.protocol,
        sizes={each.name: _sizes(each, folds) for each in questions},
        best_on=known.valid_folds if known and run.is_best else (),
        seen=_seen_folds(experiment, prepared),
        left_out={s[0].task: s[0].macro.left_out for s in rows[0].scores.values()},
    )
    found = _retrieval(run, experiment, params, prepared, folds)
    return _publish(args, run, name, folds, rows, notes, found)


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
    tables = [report.table(rows, list(rows[0].scores), data), ""]
    if found:
        tables += [retrieval.table(found), ""]
    text = "\n".join([*tables, *lines])
    written = report.write(Path(args.output or args.workdir), text, document)
    print(f"\n{text}\n")
    for line in _places(Path(args.workdir), run, training, written):
        print(line)
    return document


def default_tasks(prepared: PreparedSet) -> tuple[str, ...]:
    """Superclasses and all statements where the set is PTB-XL, else its labels."""
    rows = prepared.label_table.values()
    if any("diagnostic_class" in row for row in rows):
        return ("superdiagnostic", "all")
    return ("labels",)


def _online_probe(experiment: Experiment) -> ProbeSettings | None:
    """Settings of the evaluator that marks the best checkpoint, or of the first."""
    named = experiment.checkpoint.best.partition("/")[0]
    names = sorted(experiment.evaluators, key=lambda name: name != named)
    for name in names:
        values = experiment.evaluators[name]
        if values.get("kind", "probe") == "probe":
            return build(ProbeSettings, values, f"config.evaluators.{name}")
    return None


def _seen_folds(experiment: Experiment, prepared: PreparedSet) -> tuple[int, ...]:
    """Folds of this set that the run was pre-trained on."""
    if prepared.name != experiment.data.name:
        return ()
    return experiment.data.folds or tuple(set(prepared.index["fold"].tolist()))


def _check_rate(run: runs.Run, prepared: PreparedSet) -> None:
    """Raises ConfigError unless the set has the rate that the run was trained at."""
    trained = run.data["rate"]
    if prepared.rate != trained:
        raise ConfigError(
            f"{prepared.name} has {prepared.rate:g} Hz, the encoder was trained at "
            f"{trained:g} Hz ({run.data['name']}); prepare it again with "
            f"--rate={trained:g}"
        )


def _encoders(
    args: argparse.Namespace,
    run: runs.Run,
    experiment: Experiment,
    params: Any,
    prepared: PreparedSet,
    seeds: Sequence[int],
) -> list[tuple[str, tuple[int, ...], list[Encode]]]:
    """(name, seeds, one encode for each seed) of every row of the table."""
    method = assembly.make_method(experiment)
    example = runs.example_batch(experiment, prepared)
    mesh = sharding.make_mesh(Mesh())
    attends = args.protocol == "attention"
    function = features.make_feature_function(
        method, mesh, clip=experiment.data.clip, tokens=attends
    )

    def encoder(make_parameters: Callable[[], tuple[Any, Any]]) -> Encode:
        def encode(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            found = features.extract(
                function,
                *make_parameters(),
                prepared,
                rows,
                crop=experiment.data.crop,
                batch_size=256,
                mesh=mesh,
            )
            name = "tokens" if attends else "pooled"
            return found[name], found.get("tokens_valid")

        return encode

    def random(seed: int) -> Encode:
        return encoder(lambda: runs.random_parameters(method, example, seed))

    trained = runs.trained_parameters(run, params, method, example)
    found: list[tuple[str, tuple[int, ...], list[Encode]]] = []
    if not (args.no_spectrum or attends):

        def spectrum(rows: np.ndarray) -> tuple[np.ndarray, None]:
            return log_spectrum(prepared, rows), None

        found.append(("log spectrum", (), [spectrum]))
    found.append(("random encoder", tuple(seeds), [random(seed) for seed in seeds]))
    name = f"pre-trained, step {run.step}"
    found.append((name, (experiment.seed,), [encoder(lambda: trained)]))
    return found


def _retrieval(
    run: runs.Run,
    experiment: Experiment,
    params: Any,
    prepared: PreparedSet,
    folds: comparison.Folds,
) -> dict[str, retrieval.Retrieval]:
    """Reports of ECGs and ECGs of reports, on the validation folds.

    Of methods that learn from reports, on the set that they learnt from: another one
    has another vocabulary.
    """
    method = assembly.make_method(experiment)
    if method.text is None:
        return {}
    if prepared.metadata["content_hash"] != run.data["content_hash"]:
        print(f"retrieval is left out: {prepared.name} has a vocabulary of its own")
        return {}
    texts = assembly.make_texts(prepared, method.text)
    fold = prepared.index["fold"]
    rows = np.flatnonzero(np.isin(fold, folds.valid) & (texts.ids >= 0))
    if not len(rows):
        print(f"retrieval is left out: no report in folds {list(folds.valid)}")
        return {}
    mesh = sharding.make_mesh(Mesh())
    function = features.make_feature_function(
        method, mesh, clip=experiment.data.clip, tokens=False
    )
    example = runs.example_batch(experiment, prepared)
    trained = runs.trained_parameters(run, params, method, example)
    crop = experiment.data.crop
    pooled = features.extract(
        function, *trained, prepared, rows, crop=crop, batch_size=256, mesh=mesh
    )["pooled"]
    method = cast(TextMethod, method)
    ecg, text = retrieval.embed_records(method, *trained, pooled, texts, rows)
    ids = texts.ids[rows]
    return {
        "ECG to report": retrieval.retrieve(ecg, text, ids),
        "report to ECG": retrieval.retrieve(text, ecg, ids),
    }


def _scores(
    encoder: str,
    encode: Encode,
    questions: Sequence[comparison.Question],
    folds: comparison.Folds,
    args: argparse.Namespace,
    seed: int,
) -> list[comparison.Score]:
    """One score for each question, from one pass over the records."""
    rows = comparison.rows_of(questions)
    began = time.perf_counter()
    encoded, tokens_valid = encode(rows)
    print(
        f"{encoder}: {len(rows)} records encoded in {time.perf_counter() - began:.1f} s",
        flush=True,
    )
    scores = []
    for asked in questions:
        began = time.perf_counter()
        chosen = np.searchsorted(rows, asked.rows)
        try:
            score = comparison.answer(
                asked,
                encoded[chosen],
                folds,
                protocol=args.protocol,
                tokens_valid=None if tokens_valid is None else tokens_valid[chosen],
                seed=seed,
            )
        except ValueError as error:
            raise ConfigError(f"task {asked.name!r}, {encoder}: {error}") from error
        seconds = time.perf_counter() - began
        print(f"  {asked.name} {score.macro.value:.4f} in {seconds:.1f} s", flush=True)
        scores.append(score)
    return scores


def _sizes(asked: comparison.Question, folds: comparison.Folds) -> tuple[int, int]:
    trained = int(np.isin(asked.fold, folds.train).sum())
    return trained, len(asked.fold) - trained


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
