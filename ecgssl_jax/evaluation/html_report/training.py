"""Figures of the training: its loss, and its online probes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ecgssl_jax.evaluation.html_report.chart import (
    TEXT,
    Chart,
    short,
    tidy,
)
from ecgssl_jax.evaluation.html_report.ink import LIGHT, SERIES
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import Picture, in_rows

# End of a metric's name -> what it is.
_SHOWN = {
    "loss": "Loss",
    "mean_prediction_loss": "Loss of always predicting the mean",
    "macro_auroc": "Online probe, macro AUROC",
    "predictions_auroc": "Its own predictions, macro AUROC",
    "rankme": "Effective dimensions of the features",
}
_POINTS = 400  # of a curve, at most


def training_picture(material: Material) -> Picture | None:
    """None where nothing was logged."""
    charts = []
    for ending, title in _SHOWN.items():
        names = {
            name
            for line in material.metrics
            for name in line
            if name.split("/")[-1] == ending
        }
        curves = {name: series(material.metrics, name) for name in sorted(names)}
        curves = {name: points for name, points in curves.items() if len(points) > 1}
        if curves:
            charts.append(_chart(title, curves, material.document["step"]))
    if not charts:
        return None
    steps = max(int(line["step"]) for line in material.metrics)
    return Picture(
        name="training",
        title="How the training went",
        caption=(
            f"{steps:,} steps. The dotted line is the checkpoint that was evaluated. "
            "Has it collapsed? Then the effective dimensions would fall towards 1."
        ),
        charts=charts,
        width=300,
        columns=in_rows(len(charts), 3),
    )


def series(lines: Sequence[Any], name: str) -> np.ndarray:
    """[n, 2]: step and value of a metric, where it is finite."""
    found = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
    return np.asarray(found, np.float64).reshape(-1, 2)


def _chart(title: str, curves: dict[str, np.ndarray], step: int) -> Chart:
    said = "; ".join(
        f"{name} from {points[0, 1]:.3g} to {points[-1, 1]:.3g}"
        for name, points in curves.items()
    )

    def draw(axes: Axes) -> None:
        tidy(axes)
        axes.axvline(step, color=LIGHT["pale"], lw=1.2, ls=(0, (1, 2)))
        for number, points in enumerate(curves.values()):
            color = LIGHT[SERIES[number % len(SERIES)]]
            few = len(points) <= 30
            thin = points[:: -(-len(points) // _POINTS)]
            if len(thin) > 60:
                axes.plot(*thin.T, color=color, lw=0.8, alpha=0.35)
                thin = np.stack([thin[:, 0], _smooth(thin[:, 1])], axis=1)
            axes.plot(*thin.T, color=color, lw=1.8, marker="o" if few else "", ms=3.6)
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: _steps(value))
        if "AUROC" in title:
            axes.yaxis.set_major_formatter(lambda value, _: short(value))
        axes.tick_params(labelsize=TEXT - 1)

    return Chart(draw=draw, label=said, title=title, size=(330, 214))


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running median over a thirtieth of them."""
    half = max(len(values) // 60, 1)
    padded = np.pad(values, half, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.median(windows, axis=1)


def _steps(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
