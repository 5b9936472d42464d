"""ECGs on ECG paper, in true proportions."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ecgssl_jax.leads import LEADS

MM_PER_INCH = 25.4
SPEED, GAIN = 25.0, 10.0  # mm/s, mm/mV
# Sizes of the paper around the traces, mm.
_LEFT, _RIGHT, _TOP, _BOTTOM = 22.0, 4.0, 5.0, 5.0
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 4.0, 4.0, 12.0, 13.0
_MIN_HALF_ROW, _MAX_HALF_ROW = 7.5, 25.0
_MISSING_HALF_ROW = 4.0

_PAPER = "#fffbf9"
_GRID_1MM, _GRID_5MM = "#f9dfd9", "#eeb5aa"
_INK, _FAINT = "#15171c", "#7d7f86"
_SHADES = {
    "context": ("#2a6fdb", 0.16, "context"),
    "target": ("#f0a000", 0.30, "target"),
}


def ecg_paper(
    ecg: np.ndarray,
    *,
    rate: float,
    leads: Sequence[str] = LEADS,
    title: str = "",
    shade: Sequence[tuple[float, float, str]] | None = None,
    lead_valid: Sequence[bool] | np.ndarray | None = None,
    fine: bool = True,
) -> Figure:
    """Draws an ECG on ECG paper, one lead under the other, at 25 mm/s and 10 mm/mV.

    The proportions are true: save it at any dpi.

    Args:
      ecg: [T, C], millivolts; gaps where NaN.
      rate: sampling rate, Hz.
      leads: C names.
      title: printed above the paper.
      shade: (start, stop, kind) in seconds, kind "context" or "target": bands
        behind the traces, explained by a legend.
      lead_valid: [C] bool, False for leads that the record lacks. A lead that is
        NaN throughout counts as lacking too.
      fine: whether the lines of 1 mm are drawn; in small pictures they blur.

    Raises:
      ValueError: shapes, kinds or leads that do not fit.
    """
    ecg = np.asarray(ecg, np.float32)
    if ecg.ndim != 2 or ecg.shape[1] != len(leads) or 0 in ecg.shape:
        raise ValueError(
            f"ecg has shape {ecg.shape}; expected [samples, {len(leads)}] for leads "
            f"{', '.join(leads)}"
        )
    if lead_valid is None:
        lead_valid = np.ones(len(leads), bool)
    if len(lead_valid) != len(leads):
        raise ValueError(f"{len(lead_valid)} lead_valid for {len(leads)} leads")
    valid = np.asarray(lead_valid, bool) & ~np.isnan(ecg).all(axis=0)
    centres, height = _row_centres(ecg, valid)
    width = _LEFT + ecg.shape[0] / rate * SPEED + _RIGHT
    # Whole squares of 5 mm, so that the paper ends on a line of the grid.
    width, height = (5.0 * math.ceil(size / 5.0) for size in (width, height))

    figure, axes = _paper(width, height, fine)
    x = np.arange(ecg.shape[0]) / rate * SPEED
    for name, there, trace, centre in zip(leads, valid, ecg.T, centres, strict=True):
        _draw_lead(axes, name, x, trace if there else None, centre)
    if shade:
        _draw_shade(figure, axes, shade)
    _draw_axes(axes, ecg.shape[0] / rate, centres[0])
    _draw_captions(figure, title, rate, beside_legend=bool(shade))
    return figure


def _fit(title: str, width: float) -> str:
    """Cuts a title of 9 point letters (1.75 mm on average) to a width in mm."""
    room = max(8, int(width / 1.75))
    return title if len(title) <= room else title[: room - 1] + "…"


def _row_centres(ecg: np.ndarray, valid: np.ndarray) -> tuple[list[float], float]:
    """y of each lead's 0 mV in mm, and the paper's height: rows make room for tall
    traces, within limits."""
    above, below = [], []
    for there, trace in zip(valid, ecg.T, strict=True):
        up = down = _MISSING_HALF_ROW
        if there:
            # Never less than the calibration pulse needs.
            up = GAIN * max(1.0, float(np.nanmax(trace)))
            down = GAIN * -float(np.nanmin(trace))
            up, down = (
                float(np.clip(x + 1.5, _MIN_HALF_ROW, _MAX_HALF_ROW))
                for x in (up, down)
            )
        above.append(up)
        below.append(down)
    used = _TOP + _BOTTOM + sum(above) + sum(below)
    height = 5.0 * math.ceil(used / 5.0)
    centres, y = [], height - _TOP - (height - used) / 2
    for up, down in zip(above, below, strict=True):
        centres.append(y - up)
        y -= up + down
    return centres, height


def _paper(width: float, height: float, fine: bool) -> tuple[Figure, Axes]:
    """An empty sheet, mm as the unit of its axes."""
    page = (
        _MARGIN_LEFT + width + _MARGIN_RIGHT,
        _MARGIN_BOTTOM + height + _MARGIN_TOP,
    )
    figure = Figure(
        figsize=(page[0] / MM_PER_INCH, page[1] / MM_PER_INCH), facecolor="white"
    )
    axes = figure.add_axes(
        (
            _MARGIN_LEFT / page[0],
            _MARGIN_BOTTOM / page[1],
            width / page[0],
            height / page[1],
        )
    )
    axes.set_facecolor(_PAPER)
    axes.set_xlim(-_LEFT, width - _LEFT)
    axes.set_ylim(0, height)
    # The grid starts at time zero, so that a second is five squares from there on.
    grids = ((1.0, _GRID_1MM, 0.35, 0.1), (5.0, _GRID_5MM, 0.6, 0.2))
    for step, color, line, order in grids if fine else grids[1:]:
        first = step * math.ceil(-_LEFT / step)
        segments = [
            ((x, 0.0), (x, height)) for x in np.arange(first, width - _LEFT, step)
        ]
        segments += [
            ((-_LEFT, y), (width - _LEFT, y)) for y in np.arange(0, height, step)
        ]
        axes.add_collection(
            LineCollection(segments, colors=color, linewidths=line, zorder=order),
            autolim=False,
        )
    for spine in axes.spines.values():
        spine.set_color(_GRID_5MM)
    return figure, axes


def _draw_lead(
    axes: Axes, name: str, x: np.ndarray, trace: np.ndarray | None, centre: float
) -> None:
    """A lead's name, the customary pulse (1 mV, 5 mm long) and its trace, if any."""
    axes.text(
        -_LEFT + 1.5,
        centre,
        name,
        va="center",
        fontsize=10,
        fontweight="bold",
        color=_FAINT if trace is None else _INK,
        zorder=4,
    )
    if trace is not None:
        pulse = np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
        edges = np.array([-8.5, -7.5, -7.5, -2.5, -2.5, -1.5])
        axes.plot(edges, centre + GAIN * pulse, color=_INK, lw=0.8, zorder=3)
        y = centre + GAIN * trace
        axes.plot(x, y, color=_INK, lw=0.8, solid_joinstyle="round", zorder=3)
        return
    axes.plot(x[[0, -1]], [centre, centre], color=_FAINT, lw=0.8, ls=(0, (4, 4)))
    axes.text(
        x.mean(),
        centre,
        f"{name} not recorded",
        ha="center",
        va="center",
        fontsize=8,
        color=_FAINT,
        bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 2},
    )


def _draw_shade(
    figure: Figure, axes: Axes, shade: Sequence[tuple[float, float, str]]
) -> None:
    kinds = []
    for start, stop, kind in shade:
        if kind not in _SHADES:
            raise ValueError(
                f"shade kind is {kind!r}; expected one of {', '.join(_SHADES)}"
            )
        color, alpha, _ = _SHADES[kind]
        axes.axvspan(
            start * SPEED, stop * SPEED, facecolor=color, alpha=alpha, lw=0, zorder=1
        )
        if kind not in kinds:
            kinds.append(kind)
    handles = [
        Patch(facecolor=_SHADES[k][0], alpha=_SHADES[k][1], label=_SHADES[k][2])
        for k in _SHADES
        if k in kinds
    ]
    page = MM_PER_INCH * figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="center right",
        bbox_to_anchor=(
            1.0 - _MARGIN_RIGHT / page[0],
            1.0 - 0.55 * _MARGIN_TOP / page[1],
        ),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        borderaxespad=0,
        handlelength=1.6,
        columnspacing=1.2,
    )


def _draw_axes(axes: Axes, duration: float, centre: float) -> None:
    """Seconds along the bottom, and the pulse's 1 mV said once."""
    every = 0.5 if duration <= 5 else 1.0
    seconds = np.arange(0.0, duration + 1e-6, every)
    axes.set_xticks(seconds * SPEED, [f"{s:g}" for s in seconds], fontsize=7)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=2, color=_FAINT, labelcolor=_FAINT, pad=1.5)
    axes.set_xlabel("seconds", fontsize=7, color=_FAINT, labelpad=0.5)
    axes.text(
        -5.0,
        centre + GAIN + 0.6,
        "1 mV",
        ha="center",
        va="bottom",
        fontsize=6,
        color=_FAINT,
        zorder=4,
    )


def _draw_captions(
    figure: Figure, title: str, rate: float, *, beside_legend: bool
) -> None:
    """The title above the paper, and the scales below it."""
    page = MM_PER_INCH * figure.get_size_inches()
    figure.text(
        (_MARGIN_LEFT + 1.0) / page[0],
        1.0 - 0.55 * _MARGIN_TOP / page[1],
        _fit(title, 0.62 * page[0] if beside_legend else page[0]),
        va="center",
        fontsize=9,
        color=_INK,
    )
    figure.text(
        1.0 - (_MARGIN_RIGHT + 1.0) / page[0],
        2.5 / page[1],
        f"{SPEED:g} mm/s   {GAIN:g} mm/mV   {rate:g} Hz",
        ha="right",
        va="center",
        fontsize=7,
        color=_FAINT,
    )


def mask_preview(
    ecg: np.ndarray,
    *,
    context: Sequence[int] | np.ndarray,
    targets: Sequence[int] | np.ndarray,
    patch_size: int,
    rate: float,
    leads: Sequence[str] = LEADS,
    title: str = "",
    lead_valid: Sequence[bool] | np.ndarray | None = None,
) -> Figure:
    """`ecg_paper` with the patches that a method sees and those it predicts.

    Args:
      ecg: [T, C], millivolts.
      context: indices of the context's patches, padding left out.
      targets: indices of all target patches, padding left out, repeats allowed.
      patch_size: samples per patch.
      rate, leads, title, lead_valid: as in `ecg_paper`.
    """
    seconds = patch_size / rate
    shade = [
        (first * seconds, stop * seconds, kind)
        for kind, indices in (("context", context), ("target", targets))
        for first, stop in _runs(indices)
    ]
    return ecg_paper(
        ecg, rate=rate, leads=leads, title=title, shade=shade, lead_valid=lead_valid
    )


def _runs(indices: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    """Maximal runs of consecutive indices as (first, one past the last)."""
    sorted_indices = np.unique(np.asarray(indices, np.int64))
    if sorted_indices.size == 0:
        return []
    breaks = np.flatnonzero(np.diff(sorted_indices) > 1) + 1
    return [(int(r[0]), int(r[-1]) + 1) for r in np.split(sorted_indices, breaks)]
