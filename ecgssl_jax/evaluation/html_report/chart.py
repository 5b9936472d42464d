"""Charts of a figure: each by itself as SVG for the page, all on one sheet as PNG.

A chart is drawn by a function into axes whose place is known, in pixels: nothing is laid
out by measuring texts, which browsers set in other fonts.
"""

import dataclasses
import html
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ecgssl_jax.evaluation.html_report.ink import LIGHT, as_variables
from ecgssl_jax.evaluation.markdown import minus

# One unit of an SVG is one pixel, and one of matplotlib's points.
_UNITS = 72
TEXT = 11  # px
_SMALL = 10
_LEAST = 8  # of a chart's title
_GAP, _HEAD = 18, 58  # px, of a sheet

# Mark of a legend -> how matplotlib draws it.
_MARKS: dict[str, dict[str, Any]] = {
    "dot": {"marker": "o", "lw": 0, "ms": 6},
    "ring": {"marker": "o", "lw": 0, "ms": 6, "mfc": "none", "mew": 1.4},
    "diamond": {"marker": "D", "lw": 0, "ms": 5, "mfc": "none", "mew": 1.2},
    "bar": {"marker": "|", "lw": 0, "ms": 9, "mew": 1.6},
    "line": {"lw": 2.2},
    "dashes": {"lw": 1.6, "ls": (0, (4, 2.5))},
    "dots": {"lw": 1.4, "ls": (0, (1, 2))},
    "band": {"lw": 8, "alpha": 0.45},
}

# Mark of an encoder -> that of its curves.
CURVE_MARKS = {"dot": "line", "ring": "line", "diamond": "dashes"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chart:
    """One drawing of a figure.

    Attributes:
      draw: draws it into axes.
      label: what it shows, in words, for those who cannot see it.
      title: printed above it.
      size: width and height, px.
      margins: left, right, top, bottom, px: room around the axes.
    """

    draw: Callable[[Axes], None]
    label: str
    title: str = ""
    size: tuple[float, float] = (340, 240)
    margins: tuple[float, float, float, float] = (40, 14, 26, 34)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Of a legend: a colour of the scheme, one of the marks, and what it stands for."""

    colour: str
    mark: str
    text: str


def svg(chart: Chart, name: str) -> str:
    """The chart as an element for an HTML page; the same chart gives the same text.

    Args:
      name: unlike that of all other charts of the page.
    """
    width, height = chart.size
    figure = Figure(figsize=(width / _UNITS, height / _UNITS), facecolor="none")
    # The hash of an element's name must not be drawn anew each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        _draw(chart, figure, (0, 0), (width, height))
        written = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=metadata)
    return _for_page(written.getvalue(), chart, name)


def _for_page(drawing: str, chart: Chart, name: str) -> str:
    """What matplotlib wrote, without what a page has no use for, in its colours."""
    body = drawing[drawing.index("<svg") : drawing.rindex("</svg>")]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<!--.*?-->|<style.*?</style>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))

    def identity(match: re.Match) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    body = re.sub(r' id="([^"]*)"', identity, body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    # The page's own font, whatever the size.
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"font: (?:([0-9]+) )?([0-9.]+px) [^;\"]*", _font, body)
    body = re.sub(r"<[^>]*>", _rounded, body)
    body = re.sub(r"\n\s*", " ", body)
    body = re.sub(r"<g>\s*</g>|<defs>\s*</defs>", "", body)
    width, height = chart.size
    title = f"{chart.title}: {chart.label}" if chart.title else chart.label
    return (
        f'<svg class="chart" role="img" aria-label="{html.escape(title)}" '
        f'viewBox="0 0 {width:g} {height:g}" style="max-width:{1.18 * width:.0f}px">'
        f"{as_variables(body)}</svg>"
    )


def _rounded(tag: re.Match) -> str:
    """Coordinates to a hundredth of a pixel; texts, between tags, stay as they are."""
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0])


def _font(match: re.Match) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"


def sheet(
    charts: Sequence[Chart], *, title: str, legend: Sequence[Entry], columns: int
) -> Figure:
    """All charts of a figure, `columns` in a row, under their title and legend."""
    columns = min(columns, len(charts))
    rows = math.ceil(len(charts) / columns)
    width = max(chart.size[0] for chart in charts)
    height = max(chart.size[1] for chart in charts)
    whole = (
        max(columns * width + (columns + 1) * _GAP, 420),
        _HEAD + rows * (height + _GAP),
    )
    figure = Figure(
        figsize=(whole[0] / _UNITS, whole[1] / _UNITS), facecolor=LIGHT["card"]
    )
    figure.text(
        _GAP / whole[0],
        1 - 22 / whole[1],
        plain(title),
        fontsize=14,
        fontweight="bold",
        color=LIGHT["ink"],
    )
    for number, chart in enumerate(charts):
        row, column = divmod(number, columns)
        corner = (
            _GAP + column * (width + _GAP),
            whole[1] - _HEAD - row * (height + _GAP) - chart.size[1],
        )
        _draw(chart, figure, corner, whole)
    if legend:
        figure.legend(
            handles=[_handle(entry) for entry in legend],
            loc="upper left",
            bbox_to_anchor=(_GAP / whole[0], 1 - 28 / whole[1]),
            ncols=len(legend),
            frameon=False,
            fontsize=TEXT,
            labelcolor=LIGHT["ink"],
            borderpad=0,
            borderaxespad=0,
            columnspacing=1.6,
            handletextpad=0.5,
        )
    return figure


def _handle(entry: Entry) -> Line2D:
    mark = _MARKS[entry.mark]
    color = LIGHT[entry.colour]
    return Line2D([], [], color=color, label=plain(entry.text), **mark)


def _draw(
    chart: Chart,
    figure: Figure,
    corner: tuple[float, float],
    whole: tuple[float, float],
) -> None:
    """Draws with its lower left corner at `corner` of a figure of these px."""
    left, right, top, bottom = chart.margins
    width, height = chart.size
    axes = figure.add_axes(
        (
            (corner[0] + left) / whole[0],
            (corner[1] + bottom) / whole[1],
            (width - left - right) / whole[0],
            (height - top - bottom) / whole[1],
        )
    )
    axes.set_facecolor("none")
    chart.draw(axes)
    if chart.title:
        # Smaller where it is longer than the chart is wide, and shorter if need be.
        letters = (width - left) / 0.62
        title = shortened(chart.title, int(letters / _LEAST))
        axes.annotate(
            plain(title),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 9),
            textcoords="offset points",
            fontsize=min(TEXT + 1, letters / len(title)),
            fontweight="bold",
            color=LIGHT["ink"],
        )


def line_style(mark: str) -> Any:
    """Of the curves of an encoder with this mark."""
    return _MARKS[CURVE_MARKS[mark]].get("ls", "-")


def shortened(text: str, most: int) -> str:
    """Text of so many letters at most: longer ones lose their middle.

    Names that begin alike are told apart by their ends.
    """
    if len(text) <= most:
        return text
    head = max(most // 3, 1)
    return f"{text[:head].rstrip()}…{text[len(text) - (most - head - 1) :].lstrip()}"


def plain(text: str) -> str:
    """Text that matplotlib takes as it is: no formula begins with a dollar."""
    return text.replace("$", r"\$")


def tidy(axes: Axes, *, grid: str = "y", spines: Sequence[str] = ("bottom",)) -> None:
    """A quiet look: few lines, all of them pale."""
    if grid:
        axes.grid(axis=grid, color=LIGHT["line"], lw=1)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in spines)
        spine.set_color(LIGHT["pale"])
        spine.set_linewidth(0.8)
    axes.tick_params(
        length=0, labelsize=_SMALL, labelcolor=LIGHT["faint"], color=LIGHT["pale"]
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=_SMALL, color=LIGHT["faint"])


def share_ticks(axis: Axis, most: int) -> None:
    """So many ticks of shares or areas at most, as `short` has them."""
    axis.set_major_locator(MaxNLocator(most))
    axis.set_major_formatter(lambda value, _: short(value))


def short(value: float) -> str:
    """Of a tick: .8, .85, 1, −.02."""
    text = f"{abs(value):.3f}".rstrip("0").rstrip(".").removeprefix("0") or "0"
    return minus(f"-{text}") if value < 0 and text != "0" else text
