"""ECGs on ECG paper, in true proportions."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ecgssl_jax.leads import LEADS

MM_PER_INCH = 25.4
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

_CLINICAL = (
    ("I", "aVR", "V1", "V4"),
    ("II", "aVL", "V2", "V5"),
    ("III", "aVF", "V3", "V6"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Strip:
    """A stretch of one lead on the paper."""

    lead: int
    row: int
    start: int  # first sample
    stop: int  # one past the last sample


def ecg_paper(
    ecg: np.ndarray,
    *,
    rate: float,
    leads: Sequence[str] = LEADS,
    title: str = "",
    shade: Sequence[tuple[float, float, str]] | None = None,
    lead_valid: Sequence[bool] | np.ndarray | None = None,
    layout: str = "rows",
    rhythm: str = "II",
    speed: float = 25.0,
    gain: float = 10.0,
) -> Figure:
    """Draws an ECG on ECG paper, in true proportions (save at any dpi).

    Args:
      ecg: [T, C], millivolts; gaps where NaN.
      rate: sampling rate, Hz.
      leads: C names.
      title: printed above the paper.
      shade: (start, stop, kind) in seconds, kind "context" or "target": bands
        behind the traces, explained by a legend. Layout "rows" only.
      lead_valid: [C] bool, False for leads that the record lacks. A lead that is
        NaN throughout counts as lacking too.
      layout: "rows", one lead under the other; or "clinical", three rows of four
        leads, each showing its quarter of the time, and a rhythm strip.
      rhythm: the lead of the rhythm strip.
      speed: paper speed, mm/s.
      gain: mm/mV.

    Raises:
      ValueError: shapes, kinds or leads that do not fit.
    """
    ecg = np.asarray(ecg, np.float32)
    if ecg.ndim != 2 or ecg.shape[1] != len(leads) or 0 in ecg.shape:
        raise ValueError(
            f"ecg has shape {ecg.shape}; expected [samples, {len(leads)}] for leads "
            f"{', '.join(leads)}"
        )
    valid = ~np.all(np.isnan(ecg), axis=0)
    if lead_valid is not None:
        if len(lead_valid) != len(leads):
            raise ValueError(f"{len(lead_valid)} lead_valid for {len(leads)} leads")
        valid &= np.asarray(lead_valid, bool)
    strips = _strips(ecg.shape[0], list(leads), layout, rhythm)
    centres, height = _row_centres(ecg, valid, strips, gain)
    width = _LEFT + ecg.shape[0] / rate * speed + _RIGHT
    # Whole squares of 5 mm, so that the paper ends on a line of the grid.
    width, height = (5.0 * math.ceil(size / 5.0) for size in (width, height))

    figure, axes = _paper(width, height)
    for strip in strips:
        _draw_strip(axes, ecg, strip, centres, valid, leads, rate, speed, gain)
    for row in sorted({strip.row for strip in strips if valid[strip.lead]}):
        _draw_calibration(axes, centres[row], gain)
    if shade:
        if layout != "rows":
            raise ValueError(f'shade needs layout "rows", not {layout!r}')
        _draw_shade(figure, axes, shade, height, speed)
    _draw_axes(axes, ecg.shape[0] / rate, speed, centres, gain, layout)
    page = MM_PER_INCH * figure.get_size_inches()
    if title:
        figure.text(
            (_MARGIN_LEFT + 1.0) / page[0],
            1.0 - 0.55 * _MARGIN_TOP / page[1],
            _fit(title, 0.62 * page[0] if shade else page[0]),
            va="center",
            fontsize=9,
            color=_INK,
        )
    figure.text(
        1.0 - (_MARGIN_RIGHT + 1.0) / page[0],
        2.5 / page[1],
        f"{speed:g} mm/s   {gain:g} mm/mV   {rate:g} Hz",
        ha="right",
        va="center",
        fontsize=7,
        color=_FAINT,
    )
    return figure


def _fit(title: str, width: float) -> str:
    """Cuts a title of 9 point letters (1.75 mm on average) to a width in mm."""
    room = max(8, int(width / 1.75))
    return title if len(title) <= room else title[: room - 1] + "…"


def _strips(
    samples: int, leads: list[str], layout: str, rhythm: str
) -> tuple[_Strip, ...]:
    if layout == "rows":
        return tuple(
            _Strip(lead=i, row=i, start=0, stop=samples) for i in range(len(leads))
        )
    if layout != "clinical":
        raise ValueError(f'layout is {layout!r}; expected "rows" or "clinical"')
    absent = [lead for lead in (*sum(_CLINICAL, ()), rhythm) if lead not in leads]
    if absent:
        raise ValueError(
            f'layout "clinical" needs {", ".join(absent)}; use "rows" for other leads'
        )
    strips = []
    for row, names in enumerate(_CLINICAL):
        edges = np.linspace(0, samples, len(names) + 1).round().astype(int)
        for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True):
            index = leads.index(name)
            strips.append(_Strip(lead=index, row=row, start=int(start), stop=int(stop)))
    strips.append(_Strip(lead=leads.index(rhythm), row=3, start=0, stop=samples))
    return tuple(strips)


def _row_centres(
    ecg: np.ndarray, valid: np.ndarray, strips: Sequence[_Strip], gain: float
) -> tuple[dict[int, float], float]:
    """Row -> y of its 0 mV in mm, and the paper's height: rows make room for tall
    traces, within limits."""
    above: dict[int, float] = {}
    below: dict[int, float] = {}
    for strip in strips:
        up = down = _MISSING_HALF_ROW
        if valid[strip.lead]:
            trace = ecg[strip.start : strip.stop, strip.lead]
            trace = trace[np.isfinite(trace)]
            # Never less than the calibration pulse needs.
            up = gain * max(1.0, float(trace.max()) if trace.size else 0.0)
            down = gain * -float(trace.min()) if trace.size else 0.0
            up, down = (
                float(np.clip(x + 1.5, _MIN_HALF_ROW, _MAX_HALF_ROW))
                for x in (up, down)
            )
        above[strip.row] = max(above.get(strip.row, 0.0), up)
        below[strip.row] = max(below.get(strip.row, 0.0), down)
    height = _TOP + _BOTTOM + sum(above.values()) + sum(below.values())
    used = height
    height = 5.0 * math.ceil(height / 5.0)
    centres, y = {}, height - _TOP - (height - used) / 2
    for row in sorted(above):
        centres[row] = y - above[row]
        y -= above[row] + below[row]
    return centres, height


def _paper(width: float, height: float) -> tuple[Figure, Axes]:
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
    for step, color, line, order in (
        (1.0, _GRID_1MM, 0.35, 0.1),
        (5.0, _GRID_5MM, 0.6, 0.2),
    ):
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


def _draw_strip(
    axes: Axes,
    ecg: np.ndarray,
    strip: _Strip,
    centres: Mapping[int, float],
    valid: np.ndarray,
    leads: Sequence[str],
    rate: float,
    speed: float,
    gain: float,
) -> None:
    centre = centres[strip.row]
    x = np.arange(strip.start, strip.stop) / rate * speed
    name = leads[strip.lead]
    at_margin = strip.start == 0
    axes.text(
        -_LEFT + 1.5 if at_margin else x[0] + 1.0,
        centre if at_margin else centre + 7.0,
        name,
        va="center",
        fontsize=10,
        fontweight="bold",
        color=_INK if valid[strip.lead] else _FAINT,
        # Over a trace in the clinical layout: keep it legible.
        bbox={"facecolor": _PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        zorder=4,
    )
    if strip.start > 0:
        axes.plot([x[0], x[0]], [centre - 4, centre + 4], color=_INK, lw=0.6, zorder=3)
    if valid[strip.lead]:
        y = centre + gain * ecg[strip.start : strip.stop, strip.lead]
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


def _draw_calibration(axes: Axes, centre: float, gain: float) -> None:
    """The customary pulse: 1 mV, 5 mm long."""
    x = np.array([-8.5, -7.5, -7.5, -2.5, -2.5, -1.5])
    y = centre + gain * np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    axes.plot(x, y, color=_INK, lw=0.8, zorder=3)


def _draw_shade(
    figure: Figure,
    axes: Axes,
    shade: Sequence[tuple[float, float, str]],
    height: float,
    speed: float,
) -> None:
    kinds = []
    for start, stop, kind in shade:
        if kind not in _SHADES:
            raise ValueError(
                f"shade kind is {kind!r}; expected one of {', '.join(_SHADES)}"
            )
        color, alpha, _ = _SHADES[kind]
        axes.axvspan(
            start * speed, stop * speed, facecolor=color, alpha=alpha, lw=0, zorder=1
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


def _draw_axes(
    axes: Axes,
    duration: float,
    speed: float,
    centres: Mapping[int, float],
    gain: float,
    layout: str,
) -> None:
    """Seconds along the bottom, and the pulse's 1 mV said once."""
    every = 0.5 if duration <= 5 else 1.0
    seconds = np.arange(0.0, duration + 1e-6, every)
    axes.set_xticks(seconds * speed, [f"{s:g}" for s in seconds], fontsize=7)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=2, color=_FAINT, labelcolor=_FAINT, pad=1.5)
    axes.set_xlabel("seconds", fontsize=7, color=_FAINT, labelpad=0.5)
    axes.text(
        -5.0,
        centres[0] + gain + 0.6,
        "1 mV",
        ha="center",
        va="bottom",
        fontsize=6,
        color=_FAINT,
        zorder=4,
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
