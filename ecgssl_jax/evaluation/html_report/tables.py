"""The figures of an evaluation as HTML tables."""

from collections.abc import Mapping

from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import escape, table
from ecgssl_jax.evaluation.html_report.scoreboard import (
    PROTOCOL_NAMES,
    Scoreboard,
    budget_name,
)
from ecgssl_jax.evaluation.intervals import Interval
from ecgssl_jax.evaluation.markdown import figure, mean_figure, minus, signed_figure
from ecgssl_jax.evaluation.scoring import NO_LABELS
from ecgssl_jax.evaluation.summary import Cell, Key


def score_tables(board: Scoreboard) -> list[str]:
    """Macro AUROC, a table for each budget; that of most labels first."""
    found = []
    for budget in reversed(board.budgets):
        cells = {k: c for k, c in board.cells.items() if k.budget == budget}
        name = budget_name(budget)
        name = name[0].upper() + name[1:]
        made = _score_table(board, cells, name)
        if found and budget != NO_LABELS:
            # The curves show them too.
            made = f"<details><summary>{escape(name)}</summary>{made}</details>"
        elif len(board.budgets) > 1:
            made = f'<h3 class="subhead">{escape(name)}</h3>{made}'
        found.append(made)
    several = any(len(cell.answers) > 1 for cell in board.cells.values())
    text = "In brackets the interval over patients."
    if several:
        text += (
            " Of several seeds the mean is shown, with their standard deviation in its "
            "last digits: .812(04) is .812 with .004."
        )
    return [*found, f'<p class="aside">{text}</p>']


def _score_table(board: Scoreboard, cells: Mapping[Key, Cell], name: str) -> str:
    tasks = [task for task in board.tasks if any(k.task == task for k in cells)]
    protocols = [x for x in board.protocols if any(k.protocol == x for k in cells)]
    # Where all are trained, none stands out.
    highlighted = board.trained if len(board.trained) == 1 else ()
    rows: list[tuple[str, list[str]]] = []
    for protocol in protocols:
        part = {k: c for k, c in cells.items() if k.protocol == protocol}
        if len(board.protocols) > 1:
            heading = PROTOCOL_NAMES[protocol].capitalize()
            rows.append(("group", [escape(heading), *[""] * len(tasks)]))
        for encoder in dict.fromkeys(key.encoder for key in part):
            own = {k.task: c for k, c in part.items() if k.encoder == encoder}
            kind = "own" if encoder in highlighted else ""
            shown = [_cell(own[task]) if task in own else "" for task in tasks]
            rows.append((kind, [escape(encoder), *shown]))
            rows += _distances(part, own, tasks, board.article)
    header = ["Macro AUROC", *map(escape, tasks)]
    return table(header, rows, label=f"Macro AUROC, {name}")


def _cell(cell: Cell) -> str:
    return f"<b>{mean_figure(cell.macro)}</b><small>{bracket(cell.interval)}</small>"


def _distances(
    part: Mapping[Key, Cell], own: Mapping[str, Cell], tasks: list[str], article: str
) -> list[tuple[str, list[str]]]:
    """How much more than each of the others."""
    found = []
    for name in dict.fromkeys(x for cell in own.values() for x in cell.against):
        shown = []
        for task in tasks:
            interval = own[task].against.get(name) if task in own else None
            other = next(
                (c for k, c in part.items() if (k.task, k.encoder) == (task, name)),
                None,
            )
            if interval is None or other is None:
                shown.append("")
                continue
            more = own[task].mean() - other.mean()
            shown.append(
                f"{minus(signed_figure(more))}"
                f"<small>{bracket(interval, signed=True)}</small>"
            )
        found.append(("more", [escape(f"more than {article}{name}"), *shown]))
    return found


def bracket(interval: Interval, *, signed: bool = False) -> str:
    """[.801, .823]"""
    shape = signed_figure if signed else figure
    return minus(f"[{shape(interval.low)}, {shape(interval.high)}]")


def retrieval_table(material: Material) -> str:
    """Recall in each direction, and that of a random order."""
    found = material.retrieval
    depths = list(dict.fromkeys(k for each in found.values() for k in each.recall))
    rows = [
        (
            "",
            [
                escape(name),
                f"{each.num_queries:,}",
                f"{each.num_candidates:,}",
                *(
                    f"<b>{figure(each.recall[k])}</b>"
                    f"<small>{figure(each.chance[k])}</small>"
                    if k in each.recall
                    else ""
                    for k in depths
                ),
            ],
        )
        for name, each in found.items()
    ]
    header = ["Direction", "Queries", "Candidates", *(f"Recall@{k}" for k in depths)]
    return table(header, rows, label="Retrieval")
