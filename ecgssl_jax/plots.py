"""Pictures for people: ECGs on ECG paper, and the curves of a training run.

Figures are made as `matplotlib.figure.Figure` objects, never through pyplot: no
global state, no display, no backend to choose.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ecgssl_jax.output_folder import whole_file
from ecgssl_jax.paper import ecg_paper, mask_preview

__all__ = ["ecg_paper", "loss_curve", "mask_preview", "probe_curve", "save"]

_INK, _FAINT = "#15171c", "#7d7f86"
# Okabe and Ito's colours, which stay apart for colour-blind readers.
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Width of the running mean, as a share of the series.
_SMOOTH = 0.02
_DPI = 110

Series = Mapping[str, Sequence[tuple[float, float]]]


def loss_curve(series: Series, *, title: str = "") -> Figure:
    """Losses by step: each series as it is, pale, under its running mean.

    Args:
      series: name -> (step, value) pairs; values that are not finite are gaps.
      title: text above.
    """
    figure, axes = _chart(title, "loss")
    for index, (name, points) in enumerate(series.items()):
        steps, values = _columns(points)
        color = _SERIES[index % len(_SERIES)]
        width = round(_SMOOTH * len(values))
        if width > 1:
            axes.plot(steps, values, color=color, lw=0.8, alpha=0.3)
            values = _running_mean(values, width)
        axes.plot(steps, values, color=color, lw=1.6, label=name)
    return _finish_chart(figure, axes, series)


def probe_curve(series: Series, *, title: str = "") -> Figure:
    """Probe results by step, every measurement a dot, the best one named.

    Args:
      series: name -> (step, value) pairs.
      title: text above.
    """
    figure, axes = _chart(title, "macro AUROC")
    for index, (name, points) in enumerate(series.items()):
        steps, values = _columns(points)
        color = _SERIES[index % len(_SERIES)]
        axes.plot(steps, values, color=color, lw=1.6, marker="o", ms=3.5, label=name)
        if np.isfinite(values).any():
            best = int(np.nanargmax(values))
            axes.annotate(
                f"{values[best]:.3f}",
                (steps[best], values[best]),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=8,
                color=color,
            )
    axes.margins(y=0.15)
    return _finish_chart(figure, axes, series)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.asarray(points, np.float64).reshape(-1, 2)
    return pairs[:, 0], np.where(np.isfinite(pairs[:, 1]), pairs[:, 1], np.nan)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over up to `width` finite values; shorter at both ends."""
    window = np.ones(width)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), window, mode="same")
    count = np.convolve(finite.astype(float), window, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def _chart(title: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.8), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_FAINT)
    axes.set_ylabel(ylabel, fontsize=9, color=_FAINT)
    return figure, axes


def _finish_chart(figure: Figure, axes: Axes, series: Series) -> Figure:
    axes.grid(axis="y", color="#e6e7ea", lw=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c3c5ca")
    axes.tick_params(labelsize=8, color="#c3c5ca", labelcolor=_FAINT)
    if series:
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    else:
        axes.text(
            0.5,
            0.5,
            "nothing recorded",
            transform=axes.transAxes,
            ha="center",
            color=_FAINT,
        )
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, whole or not at all, and makes the folder if needed."""
    with whole_file(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=_DPI)
