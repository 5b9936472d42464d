"""Figures of the macro AUROCs: of all encoders, and by the number of labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ecgssl_jax.evaluation.html_report.chart import TEXT, Chart, Entry, plain, tidy
from ecgssl_jax.evaluation.html_report.ink import LIGHT
from ecgssl_jax.evaluation.html_report.material import PROTOCOL_NAMES, Material, looks
from ecgssl_jax.evaluation.html_report.page import Picture, in_rows
from ecgssl_jax.evaluation.markdown import figure
from ecgssl_jax.evaluation.scoring import NO_LABELS
from ecgssl_jax.evaluation.summary import Cell, Key

_ROW = 25  # px
# Letters of an encoder's name: as they are, and smaller; more are cut.
_NAME, _LONG = 23, 32
MARKERS = {"dot": "o", "ring": "o", "diamond": "D"}


def encoders_by_task(material: Material) -> Picture | None:
    """Dots and intervals of all encoders by each protocol, with the most labels."""
    cells: dict[Key, Cell] = {}
    for key, cell in material.cells.items():
        own = material.main(key.task, (key.protocol,))
        if own is None or key.budget == own.budget:
            cells[key] = cell
    if not cells:
        return None
    limits = _limits([cell for cell in cells.values()])
    charts = [
        _dots(
            {key: cell for key, cell in cells.items() if key.task == task},
            material,
            task,
            limits,
        )
        for task in material.tasks
    ]
    level = next(iter(cells.values())).interval.level
    return Picture(
        name="encoders",
        title="Every encoder, task by task",
        caption=(
            "Macro AUROC on the reported records. The bars are "
            f"{100 * level:g} % intervals over patients; further right is better."
        ),
        charts=charts,
        width=360,
        columns=2,
    )


def _limits(cells: Sequence[Cell]) -> tuple[float, float]:
    low = min(cell.interval.low for cell in cells)
    high = max(cell.interval.high for cell in cells)
    room = max(0.06 * (high - low), 0.004)
    return low - room, min(high + room, 1.004)


def _dots(cells: Mapping[Key, Cell], material: Material, task: str, limits) -> Chart:
    """A line for each encoder, under a heading for each of several protocols."""
    protocols = [
        name for name in material.protocols if any(k.protocol == name for k in cells)
    ]
    lines: list[str | Key] = []
    for protocol in protocols:
        if len(material.protocols) > 1:
            lines.append(PROTOCOL_NAMES[protocol])
        lines += [key for key in cells if key.protocol == protocol]
    styles = looks(material.encoders, material.encoder)
    said = "; ".join(
        f"{key.encoder}, {PROTOCOL_NAMES[key.protocol]} {_with_interval(cell)}"
        for key, cell in cells.items()
    )

    def draw(axes: Axes) -> None:
        tidy(axes, grid="x")
        for place, line in enumerate(lines):
            if isinstance(line, str):
                _beside(axes, place, line, color=LIGHT["faint"], fontweight="bold")
                continue
            cell = cells[line]
            colour, mark = styles[line.encoder]
            own = line.encoder == material.encoder
            dot_and_interval(
                axes, place, cell.mean(), cell.interval, colour, mark, bold=own
            )
            _beside(
                axes,
                place,
                line.encoder,
                color=LIGHT["ink"],
                fontweight="bold" if own else "normal",
            )
            axes.annotate(
                figure(cell.mean()),
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(34, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=TEXT,
                fontweight="bold" if own else "normal",
                color=LIGHT["ink"],
            )
        axes.set(xlim=limits, ylim=(len(lines) - 0.4, -0.6), yticks=[])
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: short(value))

    return Chart(
        draw=draw,
        label=said,
        title=task,
        size=(400, 60 + _ROW * len(lines)),
        margins=(162, 40, 30, 26),
    )


def _beside(axes: Axes, place: float, text: str, **style) -> None:
    """Text left of the axes, where it begins at the chart's own edge."""
    axes.annotate(
        plain(text if len(text) <= _LONG else text[: _LONG - 1] + "…"),
        (0, place),
        xycoords=("axes fraction", "data"),
        xytext=(-160, 0),
        textcoords="offset points",
        va="center",
        fontsize=TEXT * min(1, _NAME / len(text)),
        **style,
    )


def dot_and_interval(
    axes: Axes,
    place: float,
    value: float,
    interval,
    colour: str,
    mark: str,
    *,
    bold: bool = False,
    size: float = 6.5,
) -> None:
    """A value on the line `place`, with its interval."""
    color = LIGHT[colour]
    axes.plot(
        [interval.low, interval.high],
        [place, place],
        color=color,
        lw=3.2 if bold else 1.8,
        alpha=0.45 if bold else 0.6,
        solid_capstyle="round",
    )
    axes.plot(
        [value],
        [place],
        marker=MARKERS[mark],
        ms=size + bold,
        color=color,
        mfc=color if mark == "dot" else LIGHT["card"],
        mew=1.5,
        ls="none",
    )


def short(value: float) -> str:
    """Of a tick: .8, .85, 1."""
    return f"{value:.3f}".rstrip("0").rstrip(".").removeprefix("0") or "0"


def _with_interval(cell: Cell) -> str:
    low, high = (figure(x) for x in (cell.interval.low, cell.interval.high))
    return f"{figure(cell.mean())} from {low} to {high}"


def budget_curves(material: Material) -> list[Picture]:
    """A figure for each protocol that was run with several budgets."""
    found = []
    for protocol in material.protocols:
        budgets = [
            each
            for each in material.budgets
            if any(k.protocol == protocol and k.budget == each for k in material.cells)
        ]
        if len(budgets) > 1:
            found.append(_budget_picture(material, protocol, budgets))
    return found


def _budget_picture(
    material: Material, protocol: str, budgets: Sequence[str]
) -> Picture:
    own = {k: c for k, c in material.cells.items() if k.protocol == protocol}
    texts = {k.task: c for k, c in material.cells.items() if k.budget == NO_LABELS}
    styles = looks(material.encoders, material.encoder)
    used = [name for name in material.encoders if any(k.encoder == name for k in own)]
    legend = [Entry(colour=styles[x][0], mark="line", text=x) for x in used]
    if texts:
        legend.append(Entry(colour="purple", mark="dots", text="zero-shot"))
    tasks = [task for task in material.tasks if any(k.task == task for k in own)]
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
                used,
                styles,
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
    encoders: Sequence[str],
    styles: Mapping[str, tuple[str, str]],
    task: str,
    texts: Cell | None,
) -> Chart:
    series = {}
    for encoder in encoders:
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
            own = styles[encoder][1] == "dot"
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
                marker="o",
                ms=5.5 if own else 4,
                zorder=4 if own else 3,
            )
        if texts is not None:
            axes.axhline(texts.mean(), color=LIGHT["purple"], ls=(0, (1, 2)), lw=1.6)
        axes.set_xticks(range(len(budgets)), [plain(each) for each in budgets])
        axes.set_xlim(-0.25, len(budgets) - 0.75)
        axes.locator_params(axis="y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: short(value))

    return Chart(
        draw=draw,
        label=said,
        title=task,
        size=(270, 210),
        margins=(34, 8, 30, 24),
    )
