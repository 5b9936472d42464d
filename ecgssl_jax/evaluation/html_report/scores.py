"""Figures of the macro AUROCs: of all encoders, their distances, and fewer labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ecgssl_jax.evaluation.html_report.chart import (
    CURVE_MARKS,
    Chart,
    Entry,
    line_style,
    plain,
    share_ticks,
    tidy,
)
from ecgssl_jax.evaluation.html_report.dots import Line, dots_chart
from ecgssl_jax.evaluation.html_report.ink import LIGHT
from ecgssl_jax.evaluation.html_report.page import Picture, in_rows
from ecgssl_jax.evaluation.html_report.scoreboard import PROTOCOL_NAMES, Scoreboard
from ecgssl_jax.evaluation.intervals import Interval
from ecgssl_jax.evaluation.markdown import figure, minus, signed_figure
from ecgssl_jax.evaluation.scoring import NO_LABELS
from ecgssl_jax.evaluation.summary import Cell, Key


def encoders_by_task(board: Scoreboard) -> Picture | None:
    """Dots and intervals of all encoders by each protocol, with the most labels."""
    cells = board.most_labels()
    if not cells:
        return None
    limits = _limits([cell.interval for cell in cells.values()], most=1.004)
    styles, bold = board.styles, board.trained if len(board.trained) == 1 else ()

    def line(key: Key, cell: Cell) -> Line:
        return Line(
            name=key.encoder,
            value=cell.mean(),
            interval=cell.interval,
            shown=figure(cell.mean()),
            style=styles[key.encoder],
            bold=key.encoder in bold,
        )

    return Picture(
        name="encoders",
        title="Every encoder, task by task",
        caption=(
            "Macro AUROC on the reported records. The bars are "
            f"{percent(cells)} intervals over patients; further right is better."
        ),
        charts=[
            dots_chart(task, lines, limits)
            for task, lines in _lines(board, cells, line)
        ],
        width=360,
        columns=2,
    )


def distances_by_task(board: Scoreboard) -> Picture | None:
    """How far the trained encoders are from the first of them, with the most labels."""
    first = board.trained[0]
    cells = {
        key: cell for key, cell in board.most_labels().items() if first in cell.against
    }
    if not cells:
        return None
    limits = _limits([cell.against[first] for cell in cells.values()], zero=True)
    styles = board.styles

    def line(key: Key, cell: Cell) -> Line:
        more = cell.mean() - board.cells[key._replace(encoder=first)].mean()
        return Line(
            name=key.encoder,
            value=more,
            interval=cell.against[first],
            shown=minus(signed_figure(more)),
            style=styles[key.encoder],
        )

    return Picture(
        name="distances",
        title=f"How much more than {board.article}{first}",
        caption=(
            "Differences of macro AUROCs on the same records, and their "
            f"{percent(cells)} intervals, of the same draws of patients. Where a bar "
            "crosses the dotted line, other patients might have put the two the other "
            "way round."
        ),
        charts=[
            dots_chart(task, lines, limits, zero=True)
            for task, lines in _lines(board, cells, line)
        ],
        width=360,
        columns=2,
    )


def percent(cells: Mapping[Key, Cell]) -> str:
    """The level of the intervals, as 95 %."""
    return f"{100 * next(iter(cells.values())).interval.level:g} %"


def _lines(
    board: Scoreboard, cells: Mapping[Key, Cell], line: Callable[[Key, Cell], Line]
) -> Iterator[tuple[str, list[str | Line]]]:
    """Task -> its lines, under a heading for each of several protocols."""
    for task in board.tasks:
        found: list[str | Line] = []
        for protocol in board.protocols:
            own = [key for key in cells if (key.task, key.protocol) == (task, protocol)]
            if own and len(board.protocols) > 1:
                found.append(PROTOCOL_NAMES[protocol])
            found += [line(key, cells[key]) for key in own]
        if found:
            yield task, found


def _limits(
    intervals: Sequence[Interval], *, most: float = np.inf, zero: bool = False
) -> tuple[float, float]:
    """Of the axis, with some room at its ends."""
    low = min([each.low for each in intervals] + [0.0] * zero)
    high = max([each.high for each in intervals] + [0.0] * zero)
    room = max(0.06 * (high - low), 0.004)
    return low - room, min(high + room, most)


def budget_curves(board: Scoreboard) -> list[Picture]:
    """A figure for each protocol that was run with several budgets."""
    found = []
    for protocol in board.protocols:
        budgets = [
            each
            for each in board.budgets
            if any(k.protocol == protocol and k.budget == each for k in board.cells)
        ]
        if len(budgets) > 1:
            found.append(_budget_picture(board, protocol, budgets))
    return found


def _budget_picture(
    board: Scoreboard, protocol: str, budgets: Sequence[str]
) -> Picture:
    own = {k: c for k, c in board.cells.items() if k.protocol == protocol}
    texts = {}
    if len(board.trained) == 1:
        texts = {k.task: c for k, c in board.cells.items() if k.budget == NO_LABELS}
    styles = board.styles
    used = [name for name in board.encoders if any(k.encoder == name for k in own)]
    legend = [
        Entry(colour=styles[x][0], mark=CURVE_MARKS[styles[x][1]], text=x) for x in used
    ]
    if texts:
        legend.append(Entry(colour="purple", mark="dots", text="zero-shot"))
    tasks = [task for task in board.tasks if any(k.task == task for k in own)]
    name = PROTOCOL_NAMES[protocol]
    return Picture(
        name=f"budgets-{protocol}",
        title=f"Fewer labels: {name}",
        caption=(
            "Macro AUROC by the labels that were learnt from, and its interval over "
            "patients. The further an encoder is ahead with few labels, the more its "
            "pre-training was worth."
        ),
        charts=[
            _budget_chart(
                {k: c for k, c in own.items() if k.task == task},
                budgets,
                {x: styles[x] for x in used},
                board.trained,
                task,
                texts.get(task),
            )
            for task in tasks
        ],
        legend=legend,
        width=230,
        columns=in_rows(len(tasks), 4),
    )


def _budget_chart(
    cells: Mapping[Key, Cell],
    budgets: Sequence[str],
    styles: Mapping[str, tuple[str, str]],
    trained: Sequence[str],
    task: str,
    texts: Cell | None,
) -> Chart:
    series = {}
    for encoder in styles:
        points = [
            (place, cell)
            for place, budget in enumerate(budgets)
            for key, cell in cells.items()
            if key.encoder == encoder and key.budget == budget
        ]
        if points:
            series[encoder] = points
    said = "; ".join(
        f"{encoder}: "
        + ", ".join(f"{budgets[x]} {figure(cell.mean())}" for x, cell in points)
        for encoder, points in series.items()
    )

    def draw(axes: Axes) -> None:
        tidy(axes)
        for encoder, points in series.items():
            color = LIGHT[styles[encoder][0]]
            own = encoder in trained
            places = np.array([place for place, _ in points])
            values = [cell.mean() for _, cell in points]
            axes.fill_between(
                places,
                [cell.interval.low for _, cell in points],
                [cell.interval.high for _, cell in points],
                color=color,
                alpha=0.16 if own else 0.1,
                lw=0,
            )
            axes.plot(
                places,
                values,
                color=color,
                lw=2.4 if own else 1.5,
                ls=line_style(styles[encoder][1]),
                marker="o",
                ms=5.5 if own else 4,
                zorder=4 if own else 3,
            )
        if texts is not None:
            axes.axhline(texts.mean(), color=LIGHT["purple"], ls=(0, (1, 2)), lw=1.6)
        axes.set_xticks(range(len(budgets)), [plain(each) for each in budgets])
        axes.set_xlim(-0.25, len(budgets) - 0.75)
        share_ticks(axes.yaxis, 5)

    return Chart(
        draw=draw,
        label=said,
        title=task,
        size=(270, 210),
        margins=(34, 8, 30, 24),
    )
