"""The end of the page: notes, how it was made, and what lies beside it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.evaluation.html_report.page import escape, facts_list

# Files that may lie beside a page, and what they are.
_FILES = {
    "results.md": "the tables as text",
    "results.csv": "every label's figures",
    "results.json": "everything, for programs",
    "predictions.npz": "what was said of every record",
    "report/": "the figures as PNG",
}


def notes_list(notes: Sequence[str]) -> str | None:
    """HTML; None without notes."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if notes else None


def reproduction(
    document: Mapping[str, Any], facts: Mapping[str, str], *, predictions: bool
) -> list[str]:
    """The command, what ran it, and the files beside the page, as HTML.

    Args:
      document: what results.json holds.
      facts: of what was read, before those of the machine.
      predictions: whether predictions.npz is one of the files.
    """
    program, *arguments = document["command"]
    path = Path(program)
    words = [program]
    if (path.parent.name, path.suffix) == ("ecgssl_jax", ".py"):
        words = ["python", "-m", f"ecgssl_jax.{path.stem}"]
    facts = {
        **facts,
        "git revision": document["git_revision"] or "unknown",
        "devices": document["devices"],
        "processes": str(document["processes"]),
        **document["versions"],
    }
    links = "".join(
        f'<li><a href="{name}">{name}</a>: {what}</li>'
        for name, what in _FILES.items()
        if predictions or name != "predictions.npz"
    )
    return [
        f"<pre><code>{escape(shlex.join([*words, *arguments]))}</code></pre>",
        facts_list(facts),
        f'<p class="subhead">Beside this page:</p><ul class="notes">{links}</ul>',
    ]


def footer(document: Mapping[str, Any], date: str, *, holds: str = "") -> str:
    """HTML; `holds` says what of the data set is in the page."""
    version = document["versions"].get("ecgssl_jax", "")
    return (
        f"ecgssl_jax {escape(version)}, {escape(date)}. {escape(holds)} Research code: no "
        "medical device, and nothing here has been validated clinically."
    )
