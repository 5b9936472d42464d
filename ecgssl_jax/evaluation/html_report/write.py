"""The report is put together, and written."""

import shlex
from pathlib import Path

from ecgssl_jax.evaluation.html_report import tables
from ecgssl_jax.evaluation.html_report.attention import attention_picture
from ecgssl_jax.evaluation.html_report.curves import (
    precision_picture,
    reliability_picture,
    roc_picture,
)
from ecgssl_jax.evaluation.html_report.embedding_map import map_picture
from ecgssl_jax.evaluation.html_report.header import header
from ecgssl_jax.evaluation.html_report.label_scores import label_pictures
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.neighbours import neighbour_gallery
from ecgssl_jax.evaluation.html_report.page import (
    Gallery,
    Picture,
    Section,
    escape,
    facts_list,
    page,
)
from ecgssl_jax.evaluation.html_report.scores import budget_curves, encoders_by_task
from ecgssl_jax.evaluation.html_report.training import training_picture
from ecgssl_jax.output_folder import whole_file

FILE, FOLDER = "report.html", "report"
_BESIDE = {
    "results.md": "the tables as text",
    "results.csv": "every label's figures",
    "results.json": "everything, for programs",
    "predictions.npz": "what was said of every record",
    "report/": "the figures as PNG",
}


def write(folder: Path, material: Material) -> Path:
    """Writes report.html, and its figures into the folder `report`; returns its path."""
    sections = make_sections(material)
    pictures = folder / FOLDER
    for old in pictures.glob("*.png"):
        old.unlink()
    for section in sections:
        for part in section.parts:
            if not isinstance(part, str):
                part.save(pictures)
    title = f"{material.name}: {material.prepared.name}"
    text = page(title, header(material), sections, _footer(material))
    with whole_file(folder / FILE) as partial:
        partial.write_text(text, encoding="utf-8")
    return folder / FILE


def make_sections(material: Material) -> list[Section]:
    """Those that there is something to show in, in their order."""
    found: list[Section] = []

    def add(name: str, title: str, *parts: Picture | Gallery | str | None, lead=""):
        kept = [part for part in parts if part is not None]
        if kept:
            found.append(Section(name=name, title=title, lead=lead, parts=kept))

    if material.cells:
        add(
            "results",
            "Results",
            *tables.score_tables(material),
            encoders_by_task(material),
            lead=(
                "A random encoder is a strong baseline on ECGs, and so is the log "
                "spectrum of each lead. Read a figure as its distance from both."
            ),
        )
        add("budgets", "Fewer labels", *budget_curves(material))
        add("labels", "Labels", *label_pictures(material))
        add(
            "curves",
            "Curves",
            roc_picture(material),
            precision_picture(material),
            reliability_picture(material),
        )
        add("embeddings", "Map", map_picture(material))
        add("alike", "Neighbours", neighbour_gallery(material))
        add("looks", "Attention", attention_picture(material))
    if material.retrieval:
        add(
            "retrieval",
            "Retrieval",
            tables.retrieval_table(material),
            lead=(
                "Whether the report of an ECG is found by its embedding, and the ECG of "
                "a report; any report in the same words is a hit. Small: what a random "
                "order would find."
            ),
        )
    add("history", "Training", training_picture(material))
    add("notes", "Notes", _notes(material))
    add("reproduce", "Reproduce", *_reproduction(material))
    return found


def _notes(material: Material) -> str | None:
    notes = material.document["notes"]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if notes else None


def _reproduction(material: Material) -> list[str]:
    """The command, what ran it, and the files beside the report."""
    document = material.document
    program, *arguments = document["command"]
    words = [program, *arguments]
    if Path(program).name == "evaluate.py":
        words = ["python", "-m", "ecgssl_jax.evaluate", *arguments]
    facts = {
        "checkpoint": document["checkpoint"],
        "git revision": document["git_revision"] or "unknown",
        "devices": document["devices"],
        "processes": str(document["processes"]),
        **document["versions"],
    }
    links = "".join(
        f'<li><a href="{name}">{name}</a>: {what}</li>'
        for name, what in _BESIDE.items()
        if material.cells or name != "predictions.npz"
    )
    return [
        f"<pre><code>{escape(shlex.join(words))}</code></pre>",
        facts_list(facts),
        f'<p class="subhead">Beside this page:</p><ul class="notes">{links}</ul>',
    ]


def _footer(material: Material) -> str:
    versions = material.document["versions"]
    return (
        f"ecgssl_jax {escape(versions.get('ecgssl_jax', ''))}, {escape(material.date)}. "
        "This page holds signals and names of records of the data set. Research code: no "
        "medical device, and nothing here has been validated clinically."
    )
