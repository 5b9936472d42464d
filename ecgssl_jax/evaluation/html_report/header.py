"""The head of the page: what the pre-training was worth, and of what records."""

import numpy as np

from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.neighbours import millivolts
from ecgssl_jax.evaluation.html_report.page import escape, facts_list
from ecgssl_jax.evaluation.html_report.scoreboard import PROTOCOL_NAMES, by_what
from ecgssl_jax.evaluation.html_report.tables import bracket
from ecgssl_jax.evaluation.intervals import Interval
from ecgssl_jax.evaluation.markdown import figure, minus, signed_figure
from ecgssl_jax.evaluation.split import shown
from ecgssl_jax.evaluation.standing import Standing
from ecgssl_jax.evaluation.summary import Key

_BASELINE = "random encoder"
_SPECTRUM = "log spectrum"
# As their papers write them.
_METHODS = {
    "jepa": "JEPA",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "clocs": "CLOCS",
    "meclip": "MECLIP",
}
_POINTS = 900  # of the trace


def header(material: Material) -> str:
    """HTML."""
    standing = Standing(**material.document["standing"])
    return (
        f"{top(f'Evaluation of {_kind(material)}', material.name)}"
        f"{_trace(material)}{''.join(verdicts(material))}"
        f"{standing_box(standing)}"
        f"{facts_list(_facts(material))}"
    )


def _kind(material: Material) -> str:
    if dict(material.method).get("name") == "supervised":
        return "an ECG model trained on labels"
    return "a pre-trained ECG encoder"


def top(kicker: str, title: str) -> str:
    """The page's heading, with the button that changes its scheme."""
    return (
        f'<div class="top"><p class="kicker">{escape(kicker)}</p>'
        '<button id="scheme" type="button" hidden aria-label="Light or dark" '
        f'title="Light or dark">◐</button></div><h1>{escape(title)}</h1>'
    )


def standing_box(standing: Standing, whose: str = "") -> str:
    """How far figures can be believed; `whose`, where not all of the page's are meant."""
    title = f"{whose}: {standing.title}" if whose else standing.title
    return (
        f'<div class="standing {standing.kind}"><b>{escape(title)}</b>'
        f"<span>{escape(standing.why)}</span></div>"
    )


def verdicts(material: Material) -> list[str]:
    """What the pre-training was worth: a sentence of HTML for each of two tasks."""
    found = []
    for task in material.board.tasks[:2]:
        key = material.board.main(task)
        if key is None:
            continue
        cell = material.cells[key]
        text = (
            f"{escape(task)}: <b>{figure(cell.mean())}</b> "
            f"<span>{bracket(cell.interval)} {escape(by_what(key))}</span>"
        )
        if cell.against:
            text += _distances(material, key)
        found.append(f'<p class="verdict">{text}</p>')
    if not found and material.retrieval:
        name, one = next(iter(material.retrieval.items()))
        depth = next(iter(one.recall))
        found.append(
            f'<p class="verdict">{escape(name)}: recall@{depth} '
            f"<b>{figure(one.recall[depth])}</b>, where a random order has "
            f"<b>{figure(one.chance[depth])}</b></p>"
        )
    return found


def _distances(material: Material, key: Key) -> str:
    """HTML: from the random encoder, if there is one, and from what matters besides."""
    cell = material.cells[key]
    first = _BASELINE if _BASELINE in cell.against else next(iter(cell.against))

    def distance(name: str) -> str:
        other = material.cells[key._replace(encoder=name)]
        difference = cell.mean() - other.mean()
        return more(difference, cell.against[name], f"the {name}")

    text = f", {distance(first)}"
    for name, interval in cell.against.items():
        # The spectrum needs no encoder at all: it is named whatever it says.
        if name != first and (interval.high < 0 or name == _SPECTRUM):
            joined = "but" if interval.high < 0 < cell.against[first].low else "and"
            text += f", {joined} {distance(name)}"
    return text


def more(difference: float, interval: Interval, whom: str) -> str:
    """HTML: '+.012 [+.003, +.020] more than ', and whom."""
    sign = minus(signed_figure(difference))
    text = f"<b>{sign}</b> <span>{bracket(interval, signed=True)}</span> "
    if interval.low <= 0 <= interval.high:
        return (
            f"{text}against {escape(whom)}"
            '<span class="no">: other patients might have put them the other way round'
            "</span>"
        )
    than = "more than" if difference > 0 else "against"
    return f"{text}{than} {escape(whom)}"


def _facts(material: Material) -> dict[str, str]:
    document, prepared = material.document, material.prepared
    split = material.split
    method, model = (dict(x) for x in (material.method, material.model))
    preset, name = model.get("preset"), str(method.get("name", ""))
    facts = {
        "Data set": f"{prepared.name}, {len(prepared):,} records",
        "Method": _METHODS.get(name, name)
        + (f" ({method['mode']})" if "mode" in method else ""),
        "Encoder": str(model.get("name", "")) + (f", {preset}" if preset else ""),
        "Checkpoint": f"step {document['step']:,}",
        "Reported": f"fold {shown(split.report)}",
    }
    if material.board.tasks:
        count = len(material.reported(material.board.tasks[0]).rows)
        facts["Reported"] += f", {count:,} records"
    if material.cells:
        facts["Probed by"] = ", ".join(
            PROTOCOL_NAMES[x] for x in material.board.protocols
        )
        facts["Fitted to"] = f"fold {shown(split.fitted)}"
    facts["Date"] = material.date
    return facts


def _trace(material: Material) -> str:
    """A reported record as a line over ECG paper, for the eye."""
    prepared = material.prepared
    (rows,) = np.nonzero(np.isin(prepared.index["fold"], material.split.report))
    if not len(rows):
        return ""
    row = int(rows[material.seed % len(rows)])
    lead = prepared.leads.index("II") if "II" in prepared.leads else 0
    signal = millivolts(material, row)[:, lead]
    signal = signal[np.isfinite(signal)][:_POINTS]
    low, high = (float(x) for x in (signal.min(), signal.max()))
    if not high > low:
        return ""
    x = np.linspace(0, 1000, len(signal))
    y = 88 - 80 * (signal - low) / (high - low)
    points = " ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        '<svg class="trace" viewBox="0 0 1000 96" preserveAspectRatio="none" '
        f'aria-hidden="true"><path d="M{points}"/></svg>'
    )
