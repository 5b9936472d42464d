"""The result of an evaluation as tables for people and as files for programs."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from ecgssl_jax.evaluation.markdown import (
    figure,
    markdown_table,
    mean_figure,
    signed_figure,
)
from ecgssl_jax.evaluation.provenance import Provenance
from ecgssl_jax.evaluation.scoring import METRICS, NO_LABELS
from ecgssl_jax.evaluation.settings import SUPERVISED, TUNING, Protocol
from ecgssl_jax.evaluation.split import Split, shown
from ecgssl_jax.evaluation.summary import Cell, Key
from ecgssl_jax.output_folder import whole_file


def tables(cells: Mapping[Key, Cell], data: str, *, article: str = "the ") -> list[str]:
    """Macro AUROC on the set `data`, a table of Markdown for each budget.

    Encoders (and protocols) by tasks: .812(04) [.801, .823] is a mean, the standard
    deviation of several seeds in its last digit, and the mean's interval. Below each
    protocol encoders' distances from others, where there are any; `article` stands before
    the others' names.
    """
    budgets = list(dict.fromkeys(key.budget for key in cells))
    protocols = _protocols(cells)
    found = []
    for budget in budgets:
        part = {key: cell for key, cell in cells.items() if key.budget == budget}
        title = f"{data}, macro AUROC"
        if len(budgets) > 1:
            title += f", {budget} of the labels" if "%" in budget else f", {budget}"
        found.append(_table(part, title, protocols, article))
    return found


def page(tables: Sequence[str], notes: Sequence[str]) -> str:
    """The tables, and the notes as a list below them, as Markdown."""
    return "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes)])


def _table(
    cells: Mapping[Key, Cell], title: str, protocols: Sequence[str], article: str
) -> str:
    """Of one budget; `protocols`: those of all tables."""
    tasks = list(dict.fromkeys(key.task for key in cells))
    # Of one encoder alone it is clear whose distances they are.
    compared = {key.encoder for key, cell in cells.items() if cell.against}
    body = []
    for protocol in protocols:
        prefix = f"{protocol}: " if len(protocols) > 1 else ""
        part = {key: cell for key, cell in cells.items() if key.protocol == protocol}
        rows: dict[str, dict[str, str]] = {}
        for key, cell in part.items():
            shown_cell = f"{mean_figure(cell.macro)} {_interval(cell.interval)}"
            rows.setdefault(key.encoder, {})[key.task] = shown_cell
        for key, cell in part.items():
            for name, interval in cell.against.items():
                difference = cell.mean() - cells[key._replace(encoder=name)].mean()
                text = (
                    f"{signed_figure(difference)} {_interval(interval, signed_figure)}"
                )
                row = f"more than {article}{name}"
                if len(compared) > 1:
                    row = f"{key.encoder}, {row}"
                rows.setdefault(row, {})[key.task] = text
        for name, row in rows.items():
            body.append([prefix + name, *(row.get(task, "") for task in tasks)])
    return markdown_table([title, *tasks], body)


def _protocols(cells: Mapping[Key, Cell]) -> list[str]:
    """Those of the cells, in the order of their definition."""
    found = {key.protocol for key in cells}
    return [name for name in get_args(Protocol) if name in found]


def _interval(interval, shape=figure) -> str:
    return f"[{shape(interval.low)}, {shape(interval.high)}]"


def notes(
    cells: Mapping[Key, Cell],
    split: Split,
    *,
    sizes: Mapping[str, int],
    level: float,
    provenance: Provenance,
) -> list[str]:
    """What a reader must know to judge the tables.

    Args:
      sizes: task -> records that the figures are of.
      provenance: what the pre-training knew of this set.
    """
    lines = _probe_notes(cells, split, sizes, level) if cells else []
    lines += _provenance_notes(split, provenance, _protocols(cells))
    scores = {key.task: cell.answers[0].scores["auroc"] for key, cell in cells.items()}
    for task, score in scores.items():
        if score.left_out:
            lines.append(
                f"{task}: the mean leaves out {len(score.left_out)} labels without a "
                f"positive or a negative record: {'; '.join(score.left_out)}."
            )
    return [*lines, *_unfitted_notes(cells)]


def _unfitted_notes(cells: Mapping[Key, Cell]) -> Iterator[str]:
    """Labels that are in a mean although probes could not learn them."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for key, cell in cells.items():
        for answer in cell.answers:
            out = answer.scores["auroc"].left_out
            missed = [name for name in answer.unfitted if name not in out]
            found.setdefault((key.task, key.budget), {}).update(dict.fromkeys(missed))
    for (task, budget), labels in found.items():
        if labels:
            named = f": {'; '.join(labels)}" if len(labels) <= _NAMED else ""
            yield (
                f"{task}, {budget} of the labels: {len(labels)} labels had no positive "
                "or no negative record among those that probes were fitted to (in one "
                f"draw at least), and count in the mean all the same{named}."
            )


_NAMED = 8  # labels in a note, at most


def test_note(split: Split, reads: int) -> str:
    """That the test folds were read, and how often for results in the same place."""
    text = f"Test fold {shown(split.report)} was read"
    if reads > 1:
        text += (
            f", {reads} times for results in this folder: what was changed in between was "
            "chosen by it"
        )
    return f"{text}."


# Of protocols that fit nothing, what they do.
_UNFITTED = {
    "predictions": (
        "predictions are the model's own, by the classifier that it was trained with."
    ),
    "zero_shot": (
        "zero_shot reads no label: a class has its share of a softmax over an ECG's "
        "similarities to texts that say the labels."
    ),
}


def _probe_notes(
    cells: Mapping[Key, Cell], split: Split, sizes: Mapping[str, int], level: float
) -> list[str]:
    """What the probes were fitted to, selected and evaluated on."""
    protocols = [
        name for name in _protocols(cells) if name not in (*TUNING, *_UNFITTED)
    ]
    trained = [name for name in _protocols(cells) if name in TUNING]
    counts = "; ".join(f"{task}: {count} records" for task, count in sizes.items())
    figures = f"the figures are those of fold {shown(split.report)} ({counts})."
    fitted = (
        f"Probes on frozen features ({', '.join(protocols)}), fitted to folds "
        f"{shown(split.fit)}; fold {shown(split.select)} selected their settings; "
    )
    lines = [fitted + figures if protocols else f"T{figures[1:]}"]
    if trained:
        lines.append(
            f"{' and '.join(trained)}: the encoder is trained as well, by one model for "
            f"all tasks on folds {shown(split.fit)}; of its steps fold "
            f"{shown(split.select)} selected the best."
        )
    if any(key.encoder == SUPERVISED for key in cells):
        lines.append(
            f"The {SUPERVISED} began random and learned all tasks at once on folds "
            f"{shown(split.fit)}; of its steps fold {shown(split.select)} selected the best."
        )
    lines += [_UNFITTED[name] for name in _protocols(cells) if name in _UNFITTED]
    if split.refit:
        again = [name for name in protocols if name != "attention"]
        if again:
            lines.append(
                f"Once selected, {' and '.join(again)} probes were fitted to fold "
                f"{shown(split.select)} as well."
            )
    budgets = {key.budget for key in cells} - {"100 %", NO_LABELS}
    if budgets:
        kinds = ["of so many patients"] * any("%" in each for each in budgets)
        kinds += ["of so many records of each class"] * any(
            "class" in each for each in budgets
        )
        lines.append(
            f"Fewer labels: those {' or '.join(kinds)}, drawn anew for each seed from all "
            f"folds that are fitted to. Settings were selected by all labels of fold "
            f"{shown(split.select)}."
        )
    if any(len(cell.answers) > 1 for cell in cells.values()):
        lines.append(
            "Figures of several seeds are their means, with the standard deviation in the "
            "last digits: .812(04) is .812 with .004."
        )
    lines.append(
        f"In square brackets {100 * level:g} % intervals over patients: what other "
        "patients would have given, not other seeds of the pre-training."
    )
    return lines


def _provenance_notes(
    split: Split, provenance: Provenance, protocols: Sequence[str]
) -> list[str]:
    """Whether the pre-training knew the reported folds, and what follows."""
    lines = []
    if provenance.changed:
        lines.append(
            "The pre-training's set of this name had other contents (was it prepared "
            "again?): which of these records it saw, or selected the checkpoint on, is "
            "unknown. These may be no test figures."
        )
    shared = sorted(set(provenance.selected_on) & set(split.report))
    if shared:
        lines.append(
            f"Fold {shown(shared)} is the selection fold: the checkpoint with the best "
            "online probe was chosen there. These are not test figures."
        )
    shared = sorted(set(provenance.learnt.get("signals", ())) & set(split.report))
    if not shared:
        return lines
    learnt = [
        kind
        for kind, folds in provenance.learnt.items()
        if set(folds) & set(split.report)
    ]
    *others, last = learnt
    listed = f"{', '.join(others)} and {last}" if others else last
    training = "training" if "labels" in learnt else "pre-training"
    text = f"The {training} saw the {listed} of fold {shown(shared)}"
    if "labels" not in learnt:
        text += ", without labels"
    invalid = {
        "reports": "the recall of the retrieval is no valid figure",
        "labels": "the figures of the trained model are no valid ones",
    }
    if "zero_shot" in protocols:
        invalid["reports"] += ", nor are those of zero_shot"
    found = [invalid[each] for each in learnt if each in invalid]
    if found:
        text += f": {', '.join(found)}"
    keeps_out = "A run whose config.data.folds does not name it would not have seen it."
    if list(shared) == [-1]:
        keeps_out = "Folds would keep some out, and this set has none."
    return [*lines, f"{text}. {keeps_out}"]


def as_json(cells: Mapping[Key, Cell]) -> list[dict[str, Any]]:
    """One object for each encoder, seed, protocol, budget and task."""
    return [
        {
            "encoder": key.encoder,
            "seed": encoder_seed,
            "protocol": key.protocol,
            "budget": key.budget,
            "probe_seed": probe_seed,
            "task": key.task,
            **{f"macro_{name}": score.value for name, score in answer.scores.items()},
            "per_label": {
                name: dict(score.per_label) for name, score in answer.scores.items()
            },
            "left_out": dict(answer.scores["auroc"].left_out),
            "probe": dict(answer.settings),
            "selection": dict(answer.selection),
            "records": answer.records,
            "unfitted": list(answer.unfitted),
        }
        for key, cell in cells.items()
        for (encoder_seed, probe_seed), answer in zip(
            cell.seeds, cell.answers, strict=True
        )
    ]


def summary_as_json(cells: Mapping[Key, Cell]) -> list[dict[str, Any]]:
    """One object for each cell of the tables."""
    return [
        {
            **key._asdict(),
            "seeds": len(cell.answers),
            **{f"macro_{name}": cell.mean(name) for name in METRICS},
            "interval": dataclasses.asdict(cell.interval),
            "labels": {
                name: dataclasses.asdict(each) for name, each in cell.labels.items()
            },
            "against": {
                name: dataclasses.asdict(each) for name, each in cell.against.items()
            },
        }
        for key, cell in cells.items()
    ]


def as_csv(cells: Mapping[Key, Cell]) -> str:
    """A line for each cell and label, and for their mean, whose label is empty."""
    text = io.StringIO()
    columns = [*Key._fields, "label", "seeds", *METRICS, "low", "high", "trusted"]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for key, cell in cells.items():
        writer.writerows(_lines(key, cell))
    return text.getvalue()


def _lines(key: Key, cell: Cell) -> Iterator[dict[str, Any]]:
    shared = {**key._asdict(), "seeds": len(cell.answers)}
    yield {
        **shared,
        "label": "",
        **{name: cell.mean(name) for name in METRICS},
        "low": cell.interval.low,
        "high": cell.interval.high,
        "trusted": "",  # a question for each label
    }
    per_label = {name: cell.per_label(name) for name in METRICS}
    for label, interval in cell.labels.items():
        yield {
            **shared,
            "label": label,
            **{name: values[label] for name, values in per_label.items()},
            "low": interval.low,
            "high": interval.high,
            "trusted": interval.trusted,
        }


def write(
    folder: Path, text: str, document: Mapping[str, Any], cells: Mapping[Key, Cell]
) -> list[Path]:
    """Writes results.md, results.json and results.csv; returns their paths."""
    contents = {
        "results.md": text + "\n",
        "results.json": json.dumps(document, indent=1) + "\n",
        "results.csv": as_csv(cells),
    }
    for name, content in contents.items():
        with whole_file(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return [folder / name for name in contents]
