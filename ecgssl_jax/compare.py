"""Evaluated runs side by side, and how much more each is worth than the first.

    python -m ecgssl_jax.compare runs/jepa-ptbxl runs/simclr-ptbxl
    python -m ecgssl_jax.compare JEPA=runs/jepa-0,runs/jepa-1 SimCLR=runs/simclr-0

What `python -m ecgssl_jax.evaluate` left in the runs' folders is read; no encoder is.
Runs that are named together count as seeds of one row. Differences are of the same
records, and their intervals of the same draws of patients. Prints tables, and writes
them to results.md, .csv and .json, and report.html to look at.
"""

import argparse
import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax import reporting
from ecgssl_jax.errors import UserError, exit_with_message
from ecgssl_jax.evaluation import comparison, predictions, report
from ecgssl_jax.evaluation.comparison import Contestant
from ecgssl_jax.evaluation.html_report.comparison import Compared
from ecgssl_jax.evaluation.html_report.comparison import write as write_page
from ecgssl_jax.evaluation.intervals import check_settings
from ecgssl_jax.evaluation.summary import summarise
from ecgssl_jax.output_folder import check_writable


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN[,RUN]",
        help="workdirs, or folders of results such as runs/jepa/evaluation-mine; "
        "without a name, a row is called by its folder",
    )
    add(
        "--evaluation",
        default="evaluation",
        help="folder of the results in each workdir; default 'evaluation'",
    )
    add(
        "--output",
        type=Path,
        default=Path("runs/comparison"),
        help="folder of the tables; default runs/comparison",
    )
    add("--draws", type=int, default=1000, help="of patients; default 1000")
    add("--level", type=float, default=0.95, help="of the intervals; default 0.95")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_with_message("compare"):
        compare(args)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the comparison that the command line asks for -> what results.json holds.

    Raises:
      OSError: tables that cannot be written.
      UserError: names that are not told apart, or evaluations that cannot be compared.
    """
    try:
        check_settings(args.draws, args.level)
    except ValueError as error:
        raise UserError(str(error)) from error
    check_writable(args.output)
    folders = _named(args.runs)
    contestants = [
        Contestant(
            name=name,
            runs=[comparison.read(_results(run, args.evaluation)) for run in workdirs],
        )
        for name, workdirs in folders.items()
    ]
    comparison.check_names(contestants)
    questions = comparison.shared_questions(contestants)
    first, *others = folders
    rows = comparison.rows_of(contestants, questions)
    cells = summarise(
        rows,
        questions,
        pairs=[(other, first) for other in others],
        draws=args.draws,
        level=args.level,
    )
    documents = [run.document for each in contestants for run in each.runs]
    notes = comparison.notes_of(contestants, cells)
    document = {
        "runs": {name: list(map(str, runs)) for name, runs in folders.items()},
        "data": documents[0]["data"],
        "test_folds_were_read": any(x["test_folds_were_read"] for x in documents),
        "notes": notes,
        "summary": report.summary_as_json(cells),
        "results": report.as_json(cells),
        **reporting.describe_run(),
    }
    text = report.page(report.tables(cells, document["data"], article=""), notes)
    written = report.write(args.output, text, document, cells)
    compared = Compared(
        cells=cells,
        rows={each.name: len(each.runs) for each in contestants},
        standings={
            each.name: [run.standing for run in each.runs] for each in contestants
        },
        document=document,
        date=datetime.date.today().isoformat(),
    )
    written.append(write_page(args.output, compared))
    print(f"{text}\n\nresults     {'  '.join(map(str, written))}")
    return document


def _named(given: Sequence[str]) -> dict[str, list[Path]]:
    """Name -> workdirs, of arguments such as JEPA=runs/jepa-0,runs/jepa-1."""
    found: dict[str, list[Path]] = {}
    for text in given:
        name, paths = _split(text)
        workdirs = [Path(path) for path in paths.split(",") if path]
        if not workdirs:
            raise UserError(f"{text!r} names no run")
        name = name or workdirs[0].name
        if name in found:
            raise UserError(
                f"two rows are called {name!r}; name one of them: NAME={paths}"
            )
        found[name] = workdirs
    every = [path.resolve() for workdirs in found.values() for path in workdirs]
    twice = {path for path in every if every.count(path) > 1}
    if twice:
        raise UserError(f"{min(twice)} is given more than once")
    return found


def _results(run: Path, evaluation: str) -> Path:
    """The folder of a run's results; `run` may be such a folder itself."""
    return run if (run / predictions.FILE).exists() else run / evaluation


def _split(text: str) -> tuple[str, str]:
    """(name, workdirs); default workdirs such as runs/jepa-name=mine hold an = too."""
    match = re.fullmatch(r"([^/=,]+)=(.+)", text)
    if match is None or Path(text).exists():
        return "", text
    return match[1], match[2]


if __name__ == "__main__":
    main()
