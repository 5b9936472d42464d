"""Plans as a picture: memory by kind, and what a step waits for, for every mesh."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ecgssl_jax.planning.figures import GIB, KINDS, WAITS, Figures

_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#999999")
_INK, _FAINT = "#15171c", "#7d7f86"
_WAIT_COLOURS = {"compute": "#0072b2", "memory": "#e69f00", "exchange": "#cc79a7"}


def draw(plans: Sequence[Figures], *, title: str = "") -> Figure:
    """Two panels with a row for each of the plans; they share the rows' names."""
    figure = Figure(
        figsize=(10, 1.4 + 0.34 * len(plans)), facecolor="white", layout="constrained"
    )
    figure.suptitle(title, fontsize=10, color=_INK, x=0.01, ha="left")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(plans))[::-1]
    names = [f"{each.topology}  {each.name}" for each in plans]
    left.set_yticks(places, names)
    _memory(left, plans, places)
    _seconds(right, plans, places)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#c3c5ca")
        axes.tick_params(labelsize=8, color="#c3c5ca", labelcolor=_INK)
        axes.grid(axis="x", color="#e6e7ea", lw=0.8)
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                frameon=False,
                fontsize=7.5,
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=3,
                labelcolor=_INK,
            )
    return figure


def _memory(axes: Axes, plans: Sequence[Figures], places: np.ndarray) -> None:
    start = np.zeros(len(plans))
    for kind, colour in zip(KINDS, _COLOURS, strict=True):
        sizes = np.array([each.memory.get(kind, 0) / GIB for each in plans])
        axes.barh(places, sizes, left=start, height=0.6, color=colour, label=kind)
        start += sizes
    for place, each in zip(places, plans, strict=True):
        if each.available:
            size = each.available / GIB
            axes.plot([size, size], [place - 0.4, place + 0.4], color=_INK, lw=1.5)
    axes.set_xlabel("GiB a device; black: what there is", fontsize=8, color=_FAINT)


def _seconds(axes: Axes, plans: Sequence[Figures], places: np.ndarray) -> None:
    height = 0.22
    for number, (name, colour) in enumerate(_WAIT_COLOURS.items()):
        times = [1e3 * each.seconds[name] if each.seconds else 0 for each in plans]
        offset = (1 - number) * height
        axes.barh(
            places + offset, times, height=height, color=colour, label=WAITS[name]
        )
    axes.set_xlabel("ms of a step, each alone at full speed", fontsize=8, color=_FAINT)
