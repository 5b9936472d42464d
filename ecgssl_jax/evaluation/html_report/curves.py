"""Figures of the main task's classes: ROC, precision and recall, reliability."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.special import expit

from ecgssl_jax.evaluation.html_report.chart import (
    CURVE_MARKS,
    TEXT,
    Chart,
    Entry,
    line_style,
    short,
    tidy,
)
from ecgssl_jax.evaluation.html_report.curve_points import (
    Reliability,
    precision_recall_curve,
    reliability,
    roc_curve,
)
from ecgssl_jax.evaluation.html_report.ink import LIGHT
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import Picture, in_rows
from ecgssl_jax.evaluation.html_report.scoreboard import PROTOCOL_NAMES
from ecgssl_jax.evaluation.markdown import figure

_CLASSES = 8  # at most, the most frequent ones
# Whose logits are log-odds.
_CALIBRATED = ("linear", "attention", "predictions", "finetuned", "two_stage")
# Mark of an encoder -> width of its curves.
_WIDTHS = {"dot": 2.2, "ring": 1.4, "diamond": 1.2}
_ENOUGH = 10  # records of a bin, for its share to mean something
_SQUARE = {"size": (190, 196), "margins": (30, 8, 28, 32)}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A class, with the records that it is known of.

    Attributes:
      name: of the class.
      styles: encoder -> its colour and mark.
      labels: [n] 0 or 1, some of each.
      scores: encoder -> [n] logits, of its first seed; the trained one's last.
      auroc, precision: encoder -> its figures over all seeds.
    """

    name: str
    styles: Mapping[str, tuple[str, str]]
    labels: np.ndarray
    scores: Mapping[str, np.ndarray]
    auroc: Mapping[str, float]
    precision: Mapping[str, float]


def scored_classes(
    material: Material, among: Sequence[str] | None = None
) -> list[Scored]:
    """The most frequent classes of the first task, the most frequent one first.

    Args:
      among: protocols, of which the first that was run counts; None for any.
    """
    board = material.board
    if not board.tasks:
        return []
    task = board.tasks[0]
    key = board.main(task, among) if among else board.main(task)
    if key is None:
        return []
    asked = material.reported(task)
    keys = {**board.others(key), key.encoder: key}
    cells = {name: material.cells[each] for name, each in keys.items()}
    positives = (asked.known & (asked.labels == 1)).sum(axis=0)
    scorable = cells[key.encoder].per_label()
    found = []
    for column in np.argsort(-positives, kind="stable"):
        name, known = asked.classes[column], asked.known[:, column]
        if name in scorable:
            found.append(
                Scored(
                    name=name,
                    styles=board.styles,
                    labels=asked.labels[known, column],
                    scores={
                        encoder: cell.answers[0].logits[known, column]
                        for encoder, cell in cells.items()
                    },
                    auroc={x: cell.per_label()[name] for x, cell in cells.items()},
                    precision={
                        x: cell.per_label("average_precision")[name]
                        for x, cell in cells.items()
                    },
                )
            )
    return found[:_CLASSES]


def roc_picture(material: Material) -> Picture | None:
    """Sensitivity by false alarms."""
    classes = scored_classes(material)
    if not classes:
        return None

    def chart(one: Scored) -> Chart:
        def draw(axes: Axes) -> None:
            axes.plot([0, 1], [0, 1], color=LIGHT["line"], lw=1.2)
            _lines(axes, one, roc_curve)
            _square(axes, "false positives", "sensitivity")
            _figures(axes, one.auroc, one.styles, (0, 1))

        said = ", ".join(f"{name} {figure(x)}" for name, x in one.auroc.items())
        return Chart(draw=draw, label=f"AUROC {said}", title=one.name, **_SQUARE)

    return Picture(
        name="roc",
        title=f"ROC curves: {material.board.tasks[0]}",
        caption=(
            "Sensitivity against the share of false positives, over all thresholds; "
            "the figures are the areas below. " + _which(material, classes)
        ),
        charts=[chart(one) for one in classes],
        legend=_legend(classes),
        width=150,
        columns=in_rows(len(classes)),
    )


def precision_picture(material: Material) -> Picture | None:
    """Precision by sensitivity."""
    classes = scored_classes(material)
    if not classes:
        return None

    def chart(one: Scored) -> Chart:
        share = float(one.labels.mean())

        def draw(axes: Axes) -> None:
            axes.axhline(share, color=LIGHT["pale"], lw=1.1, ls=(0, (1, 2)))
            points = _lines(axes, one, precision_recall_curve)
            _square(axes, "sensitivity", "precision")
            _figures(axes, one.precision, one.styles, _emptiest(points))

        said = ", ".join(f"{name} {figure(x)}" for name, x in one.precision.items())
        return Chart(
            draw=draw,
            label=f"average precision {said}; share of positives {figure(share)}",
            title=one.name,
            **_SQUARE,
        )

    return Picture(
        name="precision",
        title=f"Precision and recall: {material.board.tasks[0]}",
        caption=(
            "Of the records that are called positive, the share that is; by the share "
            "of the positives that are found. The figures are average precisions."
        ),
        charts=[chart(one) for one in classes],
        legend=[
            *_legend(classes),
            Entry(colour="pale", mark="dots", text="share of positives"),
        ],
        width=150,
        columns=in_rows(len(classes)),
    )


def reliability_picture(material: Material) -> Picture | None:
    """Whether probabilities mean what they say."""
    classes = scored_classes(material, _CALIBRATED)
    key = material.board.main(material.board.tasks[0], _CALIBRATED) if classes else None
    if key is None:
        return None
    found = {
        one.name: reliability(expit(one.scores[material.encoder]), one.labels)
        for one in classes
    }
    mean = float(np.mean([each.error for each in found.values()]))
    worst = max(found, key=lambda name: found[name].error)
    words = (
        f"On average a probability is {100 * mean:.1f} points away from how often the "
        "label holds (the expected calibration error)"
    )
    if len(found) > 1:
        words += f"; furthest for {worst}, by {100 * found[worst].error:.1f}"
    return Picture(
        name="reliability",
        title=f"Can its probabilities be believed? {material.board.tasks[0]}",
        caption=(
            f"Records in ten bins by the probability that the {_of(key.protocol)} "
            "gives a label, and how often it holds there: on the diagonal, if they can. "
            "Below, how many records there are; hollow where they are fewer than "
            f"{_ENOUGH}. {words}."
        ),
        charts=[_reliability_chart(name, each) for name, each in found.items()],
        width=150,
        columns=in_rows(len(classes)),
    )


def _of(protocol: str) -> str:
    return "model" if protocol == "predictions" else PROTOCOL_NAMES[protocol]


def _reliability_chart(name: str, found: Reliability) -> Chart:
    centres = (found.edges[1:] + found.edges[:-1]) / 2

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=LIGHT["pale"], lw=1.1, ls=(0, (4, 2.5)))
        many = found.counts >= _ENOUGH
        few = (found.counts > 0) & ~many
        blue = LIGHT["blue"]
        axes.plot(
            found.predicted[many],
            found.observed[many],
            color=blue,
            lw=1.8,
            marker="o",
            ms=4.6,
        )
        axes.plot(
            found.predicted[few],
            found.observed[few],
            color=blue,
            ls="none",
            marker="o",
            ms=4,
            mfc=LIGHT["card"],
            mew=1.1,
        )
        axes.text(
            0.03,
            0.9,
            f"{100 * found.error:.1f} points off",
            fontsize=TEXT - 1,
            color=LIGHT["ink"],
        )
        _square(axes, "", "observed")
        axes.tick_params(labelbottom=False)
        below = axes.inset_axes((0, -0.34, 1, 0.25))
        tidy(below, grid="")
        below.set_facecolor("none")
        below.bar(centres, found.counts, width=0.086, color=LIGHT["pale"], lw=0)
        below.set(xlim=(-0.03, 1.03), yticks=[], xticks=[0, 0.5, 1])
        below.xaxis.set_major_formatter(lambda value, _: short(value))
        below.set_xlabel("predicted", labelpad=1)
        most = int(np.argmax(found.counts))
        right = centres[most] > 0.5
        below.annotate(
            f"{found.counts[most]:,}",
            (centres[most], found.counts[most]),
            xytext=(-7 if right else 7, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontsize=TEXT - 2,
            color=LIGHT["faint"],
        )

    points = ", ".join(
        f"{x:.2f}: {y:.2f} of {count}"
        for x, y, count in zip(
            found.predicted, found.observed, found.counts, strict=True
        )
        if count
    )
    return Chart(
        draw=draw,
        label=f"observed share by predicted probability: {points}",
        title=name,
        size=(190, 244),
        margins=(30, 8, 28, 80),
    )


def _lines(
    axes: Axes, one: Scored, curve: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Draws every encoder's curve -> [m, 2], places on them, evenly spaced in x."""
    places = []
    for name, scores in one.scores.items():
        colour, mark = one.styles[name]
        places.append(curve(scores, one.labels))
        axes.plot(
            *places[-1].T, color=LIGHT[colour], lw=_WIDTHS[mark], ls=line_style(mark)
        )
    x = np.linspace(0, 1, 101)
    even = [np.stack([x, np.interp(x, *points.T)], axis=1) for points in places]
    return np.concatenate(even)


def _emptiest(points: np.ndarray) -> tuple[int, int]:
    """The corner, (left, lower) 0 or 1, where there is most room for three figures."""
    corners = [(0, 0), (1, 1), (0, 1)]  # upper right, lower left, lower right

    def crowd(corner: tuple[int, int]) -> int:
        left, lower = corner
        x = points[:, 0] < 0.32 if left else points[:, 0] > 0.68
        y = points[:, 1] < 0.36 if lower else points[:, 1] > 0.64
        return int((x & y).sum())

    return min(corners, key=crowd)


def _square(axes: Axes, xlabel: str, ylabel: str) -> None:
    tidy(axes, grid="both")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    axes.set_xlabel(xlabel, labelpad=1)
    axes.set_ylabel(ylabel, labelpad=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: short(value))


def _figures(
    axes: Axes,
    figures: Mapping[str, float],
    styles: Mapping[str, tuple[str, str]],
    corner: tuple[int, int],
) -> None:
    """Each encoder's figure in its colour, as in the legend, in a corner."""
    left, lower = corner
    *others, own = figures
    names = [own, *others]
    for place, name in enumerate(names):
        up = 9 + 14 * (len(names) - 1 - place) if lower else -15 - 14 * place
        axes.annotate(
            figure(figures[name]),
            (0 if left else 1, 0 if lower else 1),
            xycoords="axes fraction",
            xytext=(10 if left else -9, up),
            textcoords="offset points",
            ha="left" if left else "right",
            fontsize=TEXT,
            fontweight="bold" if name == own else "normal",
            color=LIGHT[styles[name][0]],
        )


def _legend(classes: Sequence[Scored]) -> list[Entry]:
    first = classes[0]
    *others, own = first.scores
    found = []
    for name in (own, *others):
        colour, mark = first.styles[name]
        found.append(Entry(colour=colour, mark=CURVE_MARKS[mark], text=name))
    return found


def _which(material: Material, classes: Sequence[Scored]) -> str:
    task = material.board.tasks[0]
    key = material.board.main(task)
    assert key is not None
    text = f"By the {PROTOCOL_NAMES[key.protocol]}"
    if key.protocol in ("predictions", "zero_shot"):
        text = f"By {PROTOCOL_NAMES[key.protocol]}"
    many = len(material.cells[key].per_label())
    if many > len(classes):
        text += f", of the {len(classes)} most frequent of {many} classes"
    if any(
        len(material.cells[k].answers) > 1 for k in material.board.others(key).values()
    ):
        text += "; of several seeds the first one's curve and the mean of the figures"
    return f"{text}."
