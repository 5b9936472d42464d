"""What the attention probe looked at, over the signal of some records."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from ecgssl_jax.evaluation.features import window_count
from ecgssl_jax.evaluation.html_report.chart import Chart, Entry, shortened, tidy
from ecgssl_jax.evaluation.html_report.ink import LIGHT
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.neighbours import millivolts
from ecgssl_jax.evaluation.html_report.page import Picture
from ecgssl_jax.evaluation.scoring import Look

_LEAD = "II"
_DARKEST = 0.75  # opacity of the token that counts most
_FAINTEST = 0.02  # less is not drawn


def attention_picture(material: Material) -> Picture | None:
    """None where the probe was not run, or its tokens are not in the order of time."""
    task = next(iter(material.board.tasks), None)
    key = material.board.main(task, ("attention",)) if task else None
    if task is None or key is None or not material.ordered_tokens:
        return None
    looks = material.cells[key].answers[0].looks
    if not looks:
        return None
    return Picture(
        name="attention",
        title=f"What the attention probe looks at: {task}",
        caption=(
            "Of each class the reported record that the probe is surest of, and rightly. "
            "The darker a stretch, the more it counts for the answer. Tokens have seen "
            "their neighbours: a stretch stands for its surroundings too."
        ),
        charts=[_chart(material, task, name, look) for name, look in looks.items()],
        legend=[
            Entry(colour="orange", mark="band", text="attention"),
            Entry(colour="ink", mark="line", text="ECG, one lead"),
        ],
        width=620,
        columns=1,
        least=620,
    )


def token_times(material: Material, tokens: int) -> np.ndarray:
    """[L + 1] seconds: where tokens begin and end, those of all windows of a record."""
    windows = int(window_count(material.prepared.length, material.crop))
    seconds = windows * material.crop / material.prepared.rate
    return np.linspace(0, seconds, tokens + 1)


def _chart(material: Material, task: str, name: str, look: Look) -> Chart:
    row = int(material.reported(task).rows[look.place])
    prepared = material.prepared
    lead = _shown_lead(material, row)
    signal = millivolts(material, row)[:, lead]
    seconds = np.arange(len(signal)) / prepared.rate
    edges = token_times(material, len(look.attention))
    record, end = prepared.index["record_id"][row], seconds[-1] + 1 / prepared.rate
    peak = int(np.argmax(look.attention))

    def draw(axes: Axes) -> None:
        tidy(axes, grid="")
        low, high = float(np.nanmin(signal)), float(np.nanmax(signal))
        room = 0.12 * (high - low) + 0.05
        axes.set(xlim=(0, end), ylim=(low - room, high + room), yticks=[])
        _shade(axes, look.attention, edges, end)
        axes.plot(seconds, signal, color=LIGHT["ink"], lw=1.1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        # A millivolt, for the scale.
        axes.plot(
            [end * 1.008] * 2,
            [low, low + 1],
            color=LIGHT["faint"],
            lw=1.4,
            clip_on=False,
        )
        axes.annotate(
            "1 mV",
            (end * 1.008, low),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
            color=LIGHT["faint"],
            annotation_clip=False,
        )

    return Chart(
        draw=draw,
        label=(
            f"lead {prepared.leads[lead]} of record {record}; most attention from "
            f"{edges[peak]:.1f} to {edges[peak + 1]:.1f} s"
        ),
        title=f"{name}: record {shortened(str(record), 40)}, lead {prepared.leads[lead]}",
        size=(960, 150),
        margins=(8, 44, 28, 22),
    )


def _shown_lead(material: Material, row: int) -> int:
    """Lead II, or the first one that the record has."""
    valid = material.prepared.index["lead_valid"][row].astype(bool)
    leads = list(material.prepared.leads)
    if _LEAD in leads and valid[leads.index(_LEAD)]:
        return leads.index(_LEAD)
    return int(np.argmax(valid))


def _shade(axes: Axes, attention: np.ndarray, edges: np.ndarray, end: float) -> None:
    low, high = axes.get_ylim()
    opacity = _DARKEST * attention / max(float(attention.max()), 1e-12)
    for number in np.flatnonzero((opacity >= _FAINTEST) & (edges[:-1] < end)):
        left, right = edges[number], min(edges[number + 1], end)
        corners = [(left, low), (left, high), (right, high), (right, low)]
        axes.add_collection(
            PolyCollection(
                [corners],
                facecolor=LIGHT["orange"],
                alpha=float(opacity[number]),
                lw=0,
            ),
            autolim=False,
        )
