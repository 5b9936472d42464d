"""The report is put together, and written."""

from pathlib import Path

from ecgssl_jax.evaluation.html_report import tables
from ecgssl_jax.evaluation.html_report.attention import attention_picture
from ecgssl_jax.evaluation.html_report.curves import (
    precision_picture,
    reliability_picture,
    roc_picture,
)
from ecgssl_jax.evaluation.html_report.embedding_map import map_picture
from ecgssl_jax.evaluation.html_report.ending import footer, notes_list, reproduction
from ecgssl_jax.evaluation.html_report.header import header
from ecgssl_jax.evaluation.html_report.label_scores import label_pictures
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.neighbours import neighbour_gallery
from ecgssl_jax.evaluation.html_report.page import (
    Gallery,
    Picture,
    Section,
    write_page,
)
from ecgssl_jax.evaluation.html_report.scoreboard import Scoreboard
from ecgssl_jax.evaluation.html_report.scores import budget_curves, encoders_by_task
from ecgssl_jax.evaluation.html_report.training import training_picture


def write(folder: Path, material: Material) -> Path:
    """Writes report.html, and its figures into the folder `report`; returns its path."""
    return write_page(
        folder,
        title=f"{material.name}: {material.prepared.name}",
        header=header(material),
        sections=make_sections(material),
        footer=footer(
            material.document,
            material.date,
            holds="This page holds signals and names of records of the data set.",
        ),
    )


def _how_to_read(board: Scoreboard) -> str:
    said = (
        "A random encoder is a strong baseline on ECGs, and so is the log spectrum of "
        "each lead. "
    )
    if {key.encoder for key in board.cells} <= set(board.trained):
        return said + "No baseline was asked for here."
    return said + "Read a figure as its distance from both."


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
            *tables.score_tables(material.board),
            encoders_by_task(material.board),
            lead=_how_to_read(material.board),
        )
        add("budgets", "Fewer labels", *budget_curves(material.board))
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
    document = material.document
    add("notes", "Notes", notes_list(document["notes"]))
    read = {"checkpoint": document["checkpoint"]}
    add(
        "reproduce",
        "Reproduce",
        *reproduction(document, read, predictions=bool(material.cells)),
    )
    return found
