"""The page of a comparison of runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.evaluation.html_report.ending import footer, notes_list, reproduction
from ecgssl_jax.evaluation.html_report.header import more, standing_box, top
from ecgssl_jax.evaluation.html_report.page import (
    Section,
    escape,
    facts_list,
    write_page,
)
from ecgssl_jax.evaluation.html_report.scoreboard import (
    PROTOCOL_NAMES,
    Scoreboard,
    by_what,
)
from ecgssl_jax.evaluation.html_report.scores import (
    budget_curves,
    distances_by_task,
    encoders_by_task,
)
from ecgssl_jax.evaluation.html_report.tables import bracket, score_tables
from ecgssl_jax.evaluation.markdown import figure
from ecgssl_jax.evaluation.standing import Standing
from ecgssl_jax.evaluation.summary import Cell, Key

_SENTENCES = 4  # of the head; the table has the others


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """All that a comparison found.

    Attributes:
      cells: of the baselines, and of the rows that are compared.
      rows: name -> number of runs; all others are compared with the first.
      standings: row -> those of its runs.
      document: what results.json holds.
      date: such as 2026-01-31.
    """

    cells: Mapping[Key, Cell]
    rows: Mapping[str, int]
    standings: Mapping[str, Sequence[Standing]]
    document: Mapping[str, Any]
    date: str

    @property
    def board(self) -> Scoreboard:
        return Scoreboard(cells=self.cells, trained=list(self.rows), article="")


def write(folder: Path, found: Compared) -> Path:
    """Writes report.html, and its figures into the folder `report`; returns its path."""
    return write_page(
        folder,
        title=_title(found),
        header=_header(found),
        sections=make_sections(found),
        footer=footer(found.document, found.date),
    )


def make_sections(found: Compared) -> list[Section]:
    """Those that there is something to show in, in their order."""
    board = found.board
    distances = distances_by_task(board)
    dots = encoders_by_task(board)
    sections = [
        Section(
            name="results",
            title="Results",
            lead=(
                "All figures are of the same records, and all intervals of the same "
                "draws of patients."
            ),
            parts=[*score_tables(board), *(x for x in (distances, dots) if x)],
        )
    ]
    curves = budget_curves(board)
    if curves:
        sections.append(Section(name="budgets", title="Fewer labels", parts=curves))
    notes = notes_list(found.document["notes"])
    if notes:
        sections.append(Section(name="notes", title="Notes", parts=[notes]))
    runs = {name: ", ".join(x) for name, x in found.document["runs"].items()}
    made = reproduction(found.document, runs, predictions=False)
    sections.append(Section(name="reproduce", title="Reproduce", parts=made))
    return sections


def _title(found: Compared) -> str:
    first, *others = found.rows
    if not others:
        return first
    if len(others) < 3:
        return f"{first} against {' and '.join(others)}"
    return f"{first} and {len(others)} others"


def _header(found: Compared) -> str:
    return (
        f"{top('Comparison of pre-trained ECG encoders', _title(found))}"
        f"{''.join(verdicts(found))}{_standing_boxes(found.standings)}"
        f"{facts_list(_facts(found))}"
    )


def verdicts(found: Compared) -> list[str]:
    """A sentence of HTML for each of some rows: the first task, and against the first."""
    board = found.board
    first, *others = found.rows
    key = board.main(board.tasks[0])
    if key is None:
        return []
    cell = found.cells[key]
    what = f"{key.task}, {by_what(key)}"
    texts = [f"{escape(what)}: {escape(first)} {_with_interval(cell)}"]
    for name in others[:_SENTENCES]:
        other = found.cells.get(key._replace(encoder=name))
        if other is not None and first in other.against:
            difference = other.mean() - cell.mean()
            texts.append(
                f"{escape(name)} {_with_interval(other)}, "
                f"{more(difference, other.against[first], first)}"
            )
    return [f'<p class="verdict">{text}</p>' for text in texts]


def _with_interval(cell: Cell) -> str:
    return f"<b>{figure(cell.mean())}</b> <span>{bracket(cell.interval)}</span>"


def _standing_boxes(standings: Mapping[str, Sequence[Standing]]) -> str:
    """One for all rows, or one for those that each of several holds of."""
    whose: dict[Standing, list[str]] = {}
    for name, found in standings.items():
        for standing in dict.fromkeys(found):
            whose.setdefault(standing, []).append(name)
    if len(whose) == 1:
        return standing_box(next(iter(whose)))
    return "".join(
        standing_box(standing, ", ".join(names)) for standing, names in whose.items()
    )


def _facts(found: Compared) -> dict[str, str]:
    board = found.board
    sizes = {key.task: len(x.answers[0].logits) for key, x in found.cells.items()}
    return {
        "Data set": str(found.document["data"]),
        "Records": ", ".join(f"{n:,} ({task})" for task, n in sizes.items()),
        "Rows": ", ".join(
            name if runs == 1 else f"{name} ({runs} runs)"
            for name, runs in found.rows.items()
        ),
        "Probed by": ", ".join(PROTOCOL_NAMES[x] for x in board.protocols),
        "Date": found.date,
    }
