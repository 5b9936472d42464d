"""The head of the page: what the pre-training was worth, and of what records."""

import numpy as np

from ecgssl_jax.evaluation.html_report.material import PROTOCOL_NAMES, Material
from ecgssl_jax.evaluation.html_report.neighbours import millivolts
from ecgssl_jax.evaluation.html_report.page import escape, facts_list
from ecgssl_jax.evaluation.html_report.tables import bracket, minus
from ecgssl_jax.evaluation.intervals import Interval
from ecgssl_jax.evaluation.markdown import figure, signed_figure
from ecgssl_jax.evaluation.split import shown

_BASELINE = "random encoder"
_POINTS = 900  # of the trace


def header(material: Material) -> str:
    """HTML."""
    kind, standing, why = record_standing(material)
    return (
        '<div class="top"><p class="kicker">Evaluation of a pre-trained ECG encoder</p>'
        '<button id="scheme" type="button" hidden aria-label="Light or dark" '
        'title="Light or dark">◐</button></div>'
        f"<h1>{escape(material.name)}</h1>{_trace(material)}"
        f"{''.join(verdicts(material))}"
        f'<div class="standing {kind}"><b>{escape(standing)}</b>'
        f"<span>{escape(why)}</span></div>"
        f"{facts_list(_facts(material))}"
    )


def verdicts(material: Material) -> list[str]:
    """What the pre-training was worth: a sentence of HTML for each of two tasks."""
    found = []
    for task in material.tasks[:2]:
        key = material.main(task)
        if key is None:
            continue
        cell = material.cells[key]
        text = (
            f"{escape(task)}: <b>{figure(cell.mean())}</b> "
            f"<span>{bracket(cell.interval)}</span>"
        )
        name = (
            _BASELINE if _BASELINE in cell.against else next(iter(cell.against), None)
        )
        if name is not None:
            other = material.cells[key._replace(encoder=name)]
            text += f", {_more(cell.mean() - other.mean(), cell.against[name], name)}"
        for behind, interval in cell.against.items():
            if behind != name and interval.high < 0:
                other = material.cells[key._replace(encoder=behind)]
                text += f", but {_more(cell.mean() - other.mean(), interval, behind)}"
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


def _more(difference: float, interval: Interval, name: str) -> str:
    sign = minus(signed_figure(difference))
    text = f"<b>{sign}</b> <span>{bracket(interval, signed=True)}</span> "
    if interval.low <= 0 <= interval.high:
        return (
            f"{text}against the {escape(name)}"
            '<span class="no">: other patients might have put them the other way round'
            "</span>"
        )
    than = "more than" if difference > 0 else "against"
    return f"{text}{than} the {escape(name)}"


def record_standing(material: Material) -> tuple[str, str, str]:
    """-> class of CSS, what the reported records are, and why."""
    split, provenance = material.split, material.provenance
    fold = shown(split.report)
    report = set(split.report)
    if report & set(provenance.learnt.get("labels", ())):
        return (
            "caution",
            "No valid figures",
            f"The training has seen the labels of fold {fold}, which are reported here.",
        )
    texts = {each.protocol for each in material.cells} & {"zero_shot"}
    if (texts or material.retrieval) and report & set(
        provenance.learnt.get("reports", ())
    ):
        return (
            "caution",
            "No valid figures of texts",
            (
                f"The training has read the reports of fold {fold}: what it finds by "
                "texts there says nothing of new ones."
            ),
        )
    if provenance.changed:
        return (
            "caution",
            "Of unknown standing",
            (
                "The set has changed since the training: which of these records it knew is "
                "unknown."
            ),
        )
    if report & set(provenance.selected_on):
        return (
            "caution",
            "Selection fold, no test figures",
            (
                f"The checkpoint was chosen by an online probe on fold {fold}, which gives "
                "these figures. They flatter it a little."
            ),
        )
    if report == {-1}:
        return (
            "neutral",
            "All records",
            "The set has no folds; nothing was kept from anything.",
        )
    if material.test:
        return (
            "test",
            "Test folds",
            f"Fold {fold}, which selected neither the checkpoint nor a probe's settings.",
        )
    return (
        "neutral",
        "Validation folds, no test figures",
        f"Fold {fold}, which did not select the checkpoint. The test folds were not read.",
    )


def _facts(material: Material) -> dict[str, str]:
    document, prepared = material.document, material.prepared
    split = material.split
    method, model = (dict(x) for x in (material.method, material.model))
    preset = model.get("preset")
    facts = {
        "Data set": f"{prepared.name}, {len(prepared):,} records",
        "Method": str(method.get("name", "")).upper()
        + (f" ({method['mode']})" if "mode" in method else ""),
        "Encoder": str(model.get("name", "")) + (f", {preset}" if preset else ""),
        "Checkpoint": f"step {document['step']:,}",
        "Reported": f"fold {shown(split.report)}",
    }
    if material.tasks:
        count = len(material.reported(material.tasks[0]).rows)
        facts["Reported"] += f", {count:,} records"
    if material.cells:
        facts["Probed by"] = ", ".join(PROTOCOL_NAMES[x] for x in material.protocols)
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
