"""Charts of values with their intervals, one below the other."""

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes

from ecgssl_jax.evaluation.html_report.chart import (
    TEXT,
    Chart,
    plain,
    share_ticks,
    shortened,
    tidy,
)
from ecgssl_jax.evaluation.html_report.ink import LIGHT
from ecgssl_jax.evaluation.intervals import Interval

_ROW = 25  # px
# Letters of a name: as they are, and smaller; more are cut.
_NAME, _LONG = 23, 32
_MARKERS = {"dot": "o", "ring": "o", "diamond": "D"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One value.

    Attributes:
      name: left of it.
      value, interval: where its dot and its bar are.
      shown: right of it, the value as people read it.
      style: colour and mark.
      bold: whether it stands out.
    """

    name: str
    value: float
    interval: Interval
    shown: str
    style: tuple[str, str]
    bold: bool = False


def dots_chart(
    title: str,
    lines: Sequence[str | Line],
    limits: tuple[float, float],
    *,
    zero: bool = False,
) -> Chart:
    """A line for each value; strings are headings.

    Args:
      limits: of the axis.
      zero: whether a dotted line marks 0.
    """
    said = "; ".join(
        f"{heading}{line.name} {line.shown}, from {line.interval.low:.3f} to "
        f"{line.interval.high:.3f}"
        for heading, line in _under_headings(lines)
    )

    def draw(axes: Axes) -> None:
        tidy(axes, grid="x")
        if zero:
            axes.axvline(0, color=LIGHT["faint"], lw=1.2, ls=(0, (1, 2)))
        for place, line in enumerate(lines):
            if isinstance(line, str):
                _beside(axes, place, line, color=LIGHT["faint"], fontweight="bold")
            else:
                _draw_line(axes, place, line)
        axes.set(xlim=limits, ylim=(len(lines) - 0.4, -0.6), yticks=[])
        share_ticks(axes.xaxis, 5)

    return Chart(
        draw=draw,
        label=said,
        title=title,
        size=(400, 60 + _ROW * len(lines)),
        margins=(162, 40, 30, 26),
    )


def _under_headings(lines: Sequence[str | Line]) -> list[tuple[str, Line]]:
    found, heading = [], ""
    for line in lines:
        if isinstance(line, str):
            heading = f"{line}, "
        else:
            found.append((heading, line))
    return found


def _draw_line(axes: Axes, place: float, line: Line) -> None:
    weight = "bold" if line.bold else "normal"
    color, mark = LIGHT[line.style[0]], line.style[1]
    axes.plot(
        [line.interval.low, line.interval.high],
        [place, place],
        color=color,
        lw=3.2 if line.bold else 1.8,
        alpha=0.45 if line.bold else 0.6,
        solid_capstyle="round",
    )
    axes.plot(
        [line.value],
        [place],
        marker=_MARKERS[mark],
        ms=6.5 + line.bold,
        color=color,
        mfc=color if mark == "dot" else LIGHT["card"],
        mew=1.5,
        ls="none",
    )
    _beside(axes, place, line.name, color=LIGHT["ink"], fontweight=weight)
    axes.annotate(
        line.shown,
        (1, place),
        xycoords=("axes fraction", "data"),
        xytext=(36, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=TEXT,
        fontweight=weight,
        color=LIGHT["ink"],
    )


def _beside(axes: Axes, place: float, text: str, **style) -> None:
    """Text left of the axes, where it begins at the chart's own edge."""
    text = shortened(text, _LONG)
    axes.annotate(
        plain(text),
        (0, place),
        xycoords=("axes fraction", "data"),
        xytext=(-160, 0),
        textcoords="offset points",
        va="center",
        fontsize=TEXT * min(1, _NAME / len(text)),
        **style,
    )
