"""The result of a comparison as a table for people and as JSON for programs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.evaluation.comparison import Folds, Score
from ecgssl_jax.evaluation.markdown import markdown_table, mean_figure
from ecgssl_jax.evaluation.provenance import Provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One encoder: its scores by task, one for each seed."""

    encoder: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Sequence[Score]]


def table(rows: Sequence[Row], tasks: Sequence[str], data: str) -> str:
    """Macro AUROC on the set `data`, encoders by tasks, as a table of Markdown.

    Several seeds are shown as their mean and standard deviation: .812(04).
    """
    header = [f"{data}, macro AUROC", *tasks]
    body = [
        [
            row.encoder,
            *(mean_figure([s.macro.value for s in row.scores[t]]) for t in tasks),
        ]
        for row in rows
    ]
    return markdown_table(header, body)


def notes(
    folds: Folds,
    *,
    protocol: str,
    sizes: Mapping[str, tuple[int, int]],
    provenance: Provenance,
    left_out: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """What a reader must know to judge the table.

    Args:
      sizes: task -> records trained and evaluated on.
      provenance: what the pre-training knew of this set.
      left_out: task -> label -> why it is not in the mean.
    """
    lines = _probe_notes(folds, protocol, sizes) if sizes else []
    lines += _provenance_notes(folds, provenance)
    for task, reasons in left_out.items():
        if reasons:
            lines.append(
                f"{task}: the mean leaves out {len(reasons)} labels without a positive "
                f"or a negative record: {', '.join(reasons)}."
            )
    return lines


def _probe_notes(
    folds: Folds, protocol: str, sizes: Mapping[str, tuple[int, int]]
) -> list[str]:
    """What the probe was trained, selected and evaluated on."""
    counts = "; ".join(f"{t}: {a} and {b} records" for t, (a, b) in sizes.items())
    used = (
        f"{protocol} probe on frozen features: trained on folds {_shown(folds.train)}, "
        f"evaluated on fold {_shown(folds.valid)} ({counts})."
    )
    if protocol == "linear":
        selected = (
            f"Fold {folds.selection} selected the probe's strength; the probe was then "
            "fitted to all training folds."
        )
    else:
        selected = (
            f"Fold {folds.selection} selected the probe's step, and was not trained on."
        )
    return [used, selected]


def _provenance_notes(folds: Folds, provenance: Provenance) -> list[str]:
    """Whether the pre-training knew the validation folds, and what follows."""
    lines = []
    if provenance.changed:
        lines.append(
            "The pre-training's set of this name had other contents (was it prepared "
            "again?): which of these records it saw, or selected the checkpoint on, is "
            "unknown. These may be no test figures."
        )
    shared = sorted(set(provenance.selected_on) & set(folds.valid))
    if shared:
        lines.append(
            f"Fold {_shown(shared)} is the selection fold: the checkpoint with the best "
            "online probe was chosen there. These are not test figures."
        )
    shared = sorted(set(provenance.trained_on) & set(folds.valid))
    if not shared:
        return lines
    *others, last = provenance.learnt_from
    learnt_from = f"{', '.join(others)} and {last}" if others else last
    text = f"The pre-training saw the {learnt_from} of fold {_shown(shared)}"
    if "labels" not in provenance.learnt_from:
        text += ", without labels"
    invalid = {
        "reports": "the recall of the retrieval is no valid figure",
        "labels": "the figure of the pre-trained encoder is no valid one",
    }
    found = [invalid[each] for each in provenance.learnt_from if each in invalid]
    if found:
        text += f": {', '.join(found)}"
    keeps_out = "the folds of config.data keep them out"
    if list(shared) == [-1]:
        keeps_out = "folds would keep some out, and this set has none"
    return [*lines, f"{text}; {keeps_out}."]


def _shown(folds: Sequence[int]) -> str:
    ordered = sorted(folds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}-{ordered[-1]}"
    return ", ".join("-1 (none)" if fold == -1 else str(fold) for fold in ordered)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One object for each encoder, seed and task."""
    return [
        {
            "encoder": row.encoder,
            "seed": seed,
            "task": task,
            "macro_auroc": score.macro.value,
            "per_label": dict(score.macro.per_label),
            "left_out": dict(score.macro.left_out),
            "probe": dict(score.settings),
            "selection": dict(score.selection),
        }
        for row in rows
        for task, scores in row.scores.items()
        for seed, score in zip(row.seeds or (None,), scores, strict=True)
    ]


def write(
    folder: Path, name: str, text: str, document: Mapping[str, Any]
) -> list[Path]:
    """Writes NAME.md and NAME.json, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / f"{name}.md", folder / f"{name}.json"
    markdown.write_text(text + "\n", encoding="utf-8")
    data.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return [markdown, data]
