"""The best checkpoint of each method, evaluated in full: every task and protocol.

  python -m benchmarks.checkpoints_table --runs=runs/ten_times --root=data

takes the runs that `benchmarks.methods_table` left there, and evaluates of each the
checkpoint that its online probe found best, with `configs/evaluate.py:tuned`. Baselines
are those of the first run: random encoders, the log spectrum, and models that learned the
same labels from scratch. What is finished is not repeated. With --test the figures are
those of the test folds.

`--results=benchmarks/checkpoints --show` prints the figures that come with the project.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods_table import ENCODERS, METHODS, name_of, write
from ecgssl_jax.evaluation.markdown import figure, markdown_table

# Row of a baseline -> how evaluate's results name it.
BASELINES = {
    "log spectrum": "log spectrum",
    "random encoder": "random encoder",
    "from scratch": "supervised model",
}
PROTOCOLS = ("linear", "attention", "two_stage")
# (row, protocol, budget, task) -> an entry of results.json's summary.
Entries = Mapping[tuple[str, str, str, str], Mapping[str, Any]]


def evaluate(
    method: str,
    workdir: Path,
    runs: Path,
    root: str,
    *,
    baselines: bool,
    test: bool,
    more: Sequence[str] = (),
) -> None:
    """Evaluates a run; models that are fine-tuned are shared by all runs."""
    command = [sys.executable, "-m", "ecgssl_jax.evaluate", f"--workdir={workdir}"]
    command += ["--config=configs/evaluate.py:tuned", f"--config.root={root}"]
    command += [f"--config.finetuning.folder={runs / 'finetuned'}"]
    if not baselines:
        command.append("--config.baselines=()")
    if test:
        command.append("--test")
    print(f"{method}: {workdir}", flush=True)
    subprocess.run([*command, *more], check=True)


def kept(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's results.json, what the tables show and what made it."""
    figures = (
        *("encoder", "protocol", "budget", "task", "seeds"),
        *("macro_auroc", "macro_average_precision", "macro_f1_max", "interval"),
        "against",
    )
    parts = (
        *("encoder", "step", "folds", "test_folds_were_read", "training", "retrieval"),
        *("notes", "versions", "devices", "git_revision"),
    )
    by_seed: dict[Any, list[float]] = {}
    for each in document["results"]:
        where = tuple(each[key] for key in figures[:4])
        by_seed.setdefault(where, []).append(each["macro_auroc"])
    summary = [
        {key: each[key] for key in figures}
        | {"by_seed": by_seed[tuple(each[key] for key in figures[:4])]}
        for each in document["summary"]
    ]
    # Without what is only where things lay.
    settings = {k: v for k, v in document["settings"].items() if k != "root"}
    tuning = {k: v for k, v in settings["finetuning"].items() if k != "folder"}
    return {
        "summary": summary,
        **{key: document[key] for key in parts},
        "settings": settings | {"finetuning": tuning},
    }


def file_of(results: Path, encoder: str, method: str, *, test: bool) -> Path:
    """Of one run; figures of test folds have files of their own."""
    return results / f"{name_of(encoder, method)}{'_test' if test else ''}.json"


def entries(
    results: Path, encoder: str, methods: Sequence[str], *, test: bool
) -> Entries:
    """What there is, by row, protocol, budget and task."""
    found: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}
    names = {name: row for row, name in BASELINES.items()}
    for method in methods:
        file = file_of(results, encoder, method, test=test)
        if not file.exists():
            continue
        document = json.loads(file.read_text())
        for each in document["summary"]:
            row = names.get(each["encoder"])
            if each["encoder"] == document["encoder"]:
                row = method
            if row is not None:
                where = (row, each["protocol"], each["budget"], each["task"])
                found.setdefault(where, each)
    return found


def _ordered(found: Entries, place: int) -> list[str]:
    return list(dict.fromkeys(key[place] for key in found))


def _rows(found: Entries) -> Iterator[str]:
    present = set(_ordered(found, 0))
    yield from (row for row in (*BASELINES, *METHODS) if row in present)


def _cell(found: Entries, row: str, budget: str, task: str) -> str:
    """'.812 / .834 / .861', a dash where there is nothing."""
    if row == "from scratch":
        # It has nothing to probe.
        each = found.get((row, "two_stage", budget, task))
        return figure(each["macro_auroc"]) if each else "-"
    values = [found.get((row, protocol, budget, task)) for protocol in PROTOCOLS]
    return " / ".join(figure(x["macro_auroc"]) if x else "-" for x in values)


def tasks_table(found: Entries, budget: str) -> str:
    """Markdown: rows by tasks, of one budget; in a cell all protocols."""
    tasks = _ordered(found, 3)
    header = [f"macro AUROC, {budget} of the labels", *tasks]
    rows = [
        [row, *(_cell(found, row, budget, task) for task in tasks)]
        for row in _rows(found)
    ]
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs/ten_times"), help="of methods_table")
    add("--root", default="data", help="folder of the prepared ptbxl")
    add("--results", type=Path, help="of what is done; default: RUNS/checkpoints")
    add("--methods", nargs="+", choices=METHODS, help="default: whose runs there are")
    add("--encoder", choices=ENCODERS, default="ViT-XS")
    add("--seed", type=int, default=0, help="of the runs")
    add("--test", action="store_true", help="read the test folds")
    add("--show", action="store_true", help="print what there is")
    args, more = parser.parse_known_args()
    results = args.results or args.runs / "checkpoints"
    methods = args.methods or list(METHODS)
    if not args.show:
        results.mkdir(parents=True, exist_ok=True)
        workdirs = {
            method: args.runs / name_of(args.encoder, method, args.seed)
            for method in methods
        }
        workdirs = {method: w for method, w in workdirs.items() if w.is_dir()}
        if not workdirs:
            parser.error(f"no run of {args.encoder}, seed {args.seed}, in {args.runs}")
        for number, (method, workdir) in enumerate(workdirs.items()):
            file = file_of(results, args.encoder, method, test=args.test)
            if file.exists():
                print(f"{method}: taken from {file}; delete it to evaluate again")
                continue
            evaluate(
                method,
                workdir,
                args.runs,
                args.root,
                baselines=number == 0,
                test=args.test,
                more=more,
            )
            name = "evaluation-test" if args.test else "evaluation"
            write(file, kept(json.loads((workdir / name / "results.json").read_text())))
    elif more:
        parser.error(f"nothing is evaluated with --show: {' '.join(more)}")
    found = entries(results, args.encoder, methods, test=args.test)
    if not found:
        parser.error(f"there are no results in {results}")
    folds = "test" if args.test else "validation"
    print(f"Of the {folds} folds; in each cell {' / '.join(PROTOCOLS)}.\n")
    for budget in _ordered(found, 2):
        print(f"{tasks_table(found, budget)}\n")


if __name__ == "__main__":
    main()
