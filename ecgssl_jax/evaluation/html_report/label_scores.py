"""Figures of each label's AUROC, best first."""

import dataclasses
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from ecgssl_jax.evaluation.html_report.chart import (
    TEXT,
    Chart,
    Entry,
    plain,
    share_ticks,
    shortened,
    tidy,
)
from ecgssl_jax.evaluation.html_report.ink import LIGHT
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import Picture
from ecgssl_jax.evaluation.html_report.scoreboard import PROTOCOL_NAMES
from ecgssl_jax.evaluation.intervals import TRUSTED_PATIENTS, LabelInterval
from ecgssl_jax.evaluation.markdown import figure

_ROW = 18  # px
_MOST = 40  # lines of a chart; more are divided over several
_LONG = 30  # letters of a name; more are cut
_FEW = 12  # more than these are two charts at least


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One label.

    Attributes:
      label: its name.
      value, interval: the trained encoder's AUROC.
      others: of other encoders, by their name.
    """

    label: str
    value: float
    interval: LabelInterval
    others: Mapping[str, float]


def lines_of(material: Material, task: str) -> list[Line]:
    """All labels that can be scored, the best one first."""
    key = material.board.main(task)
    if key is None:
        return []
    cell = material.cells[key]
    values = cell.per_label()
    beside = {
        name: material.cells[other].per_label()
        for name, other in material.board.others(key).items()
    }
    found = [
        Line(
            label=label,
            value=values[label],
            interval=interval,
            others={name: each[label] for name, each in beside.items()},
        )
        for label, interval in cell.labels.items()
    ]
    return sorted(found, key=lambda line: -line.value)


def label_pictures(material: Material) -> list[Picture]:
    """Of the first task, and of that with most classes."""
    sizes = {each.name: len(each.classes) for each in material.asked}
    if not material.board.tasks:
        return []
    most = max(material.board.tasks, key=sizes.__getitem__)
    tasks = dict.fromkeys((material.board.tasks[0], most))
    found = [_picture(material, task) for task in tasks]
    return [each for each in found if each is not None]


def _picture(material: Material, task: str) -> Picture | None:
    lines, key = lines_of(material, task), material.board.main(task)
    if not lines or key is None:
        return None
    styles = material.board.styles
    others = list(lines[0].others)
    legend = [
        Entry(colour="blue", mark="dot", text=material.encoder),
        *(Entry(colour=styles[x][0], mark=styles[x][1], text=x) for x in others),
    ]
    rare = [line for line in lines if not line.interval.trusted]
    caption = (
        f"AUROC of each label, best first: {PROTOCOL_NAMES[key.protocol]}"
        f"{'' if key.budget == '100 %' else ', ' + key.budget + ' of the labels'}. The "
        "number behind a name is that of the patients who have it, or of those who do "
        "not, if they are fewer."
    )
    if rare:
        legend.insert(1, Entry(colour="blue", mark="ring", text="not to be trusted"))
        caption += (
            f" Hollow dots with dotted intervals: fewer than {TRUSTED_PATIENTS} such "
            "patients, so that the interval is mostly a model's."
        )
    limits, room = _limits(lines), _room(lines)
    parts = max(-(-len(lines) // _MOST), 1 + (len(lines) > _FEW))
    length = -(-len(lines) // parts)
    charts = [
        _chart(lines[start : start + length], styles, limits, room)
        for start in range(0, len(lines), length)
    ]
    return Picture(
        name=f"labels-{task}",
        title=f"Label by label: {task}",
        caption=caption,
        charts=charts,
        legend=legend,
        width=360,
        columns=2,
    )


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    values = [line.interval.low for line in lines]
    values += [value for line in lines for value in line.others.values()]
    return max(min(values) - 0.015, 0), 1.01


def _room(lines: Sequence[Line]) -> float:
    """px left of the axes, for the longest name and the number."""
    longest = max(len(line.label) for line in lines)
    return max(6.3 * min(longest, _LONG) + 40, 106)


def _chart(
    lines: Sequence[Line],
    styles: Mapping[str, tuple[str, str]],
    limits: tuple[float, float],
    room: float,
) -> Chart:
    said = "; ".join(
        f"{line.label} {figure(line.value)} from {figure(line.interval.low)} to "
        f"{figure(line.interval.high)}"
        for line in lines
    )

    def draw(axes: Axes) -> None:
        tidy(axes, grid="x")
        for place, line in enumerate(lines):
            _draw_line(axes, place, line, styles, room)
        axes.set(xlim=limits, ylim=(len(lines) - 0.3, -0.7), yticks=[])
        share_ticks(axes.xaxis, 6)

    return Chart(
        draw=draw,
        label=said,
        size=(320 + 0.66 * room, 34 + _ROW * len(lines)),
        margins=(room, 42, 6, 26),
    )


def _draw_line(
    axes: Axes,
    place: int,
    line: Line,
    styles: Mapping[str, tuple[str, str]],
    room: float,
) -> None:
    trusted, blue = line.interval.trusted, LIGHT["blue"]
    axes.plot(
        [line.interval.low, line.interval.high],
        [place, place],
        color=blue,
        lw=2.6 if trusted else 1.4,
        ls="-" if trusted else (0, (1, 2)),
        alpha=0.4 if trusted else 0.9,
        solid_capstyle="round",
    )
    for name, value in line.others.items():
        colour, mark = styles[name]
        axes.plot(
            [value],
            [place],
            marker="D" if mark == "diamond" else "o",
            ms=3.6 if mark == "diamond" else 4.6,
            color=LIGHT[colour],
            mfc="none",
            mew=1.1,
            ls="none",
            alpha=0.75,
        )
    axes.plot(
        [line.value],
        [place],
        marker="o",
        ms=6,
        color=blue,
        mfc=blue if trusted else LIGHT["card"],
        mew=1.3,
        ls="none",
        zorder=5,
    )
    row = ("axes fraction", "data")
    style = {
        "textcoords": "offset points",
        "va": "center",
        "fontsize": TEXT - 0.5,
        "annotation_clip": False,
    }
    axes.annotate(
        plain(shortened(line.label, _LONG)),
        (0, place),
        xycoords=row,
        xytext=(2 - room, 0),
        color=LIGHT["ink"],
        **style,
    )
    axes.annotate(
        f"{line.interval.patients}",
        (0, place),
        xycoords=row,
        xytext=(-8, 0),
        ha="right",
        color=LIGHT["faint"],
        **style,
    )
    axes.annotate(
        figure(line.value),
        (1, place),
        xycoords=row,
        xytext=(38, 0),
        ha="right",
        color=LIGHT["ink"],
        **style,
    )
