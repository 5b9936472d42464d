"""The benchmark tasks of PTB-XL, from its statements.

Strodthoff et al., "Deep Learning for ECG Analysis: Benchmarking and Insights from
PTB-XL", IEEE J. Biomed. Health Inform. 25(5), 2021. Every statement of a record
counts, whatever its likelihood; a task holds the records with at least one of its
classes; classes are in alphabetical order.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

TASKS = (
    "all",
    "diagnostic",
    "subdiagnostic",
    "superdiagnostic",
    "form",
    "rhythm",
    "single_superdiagnostic",
)
MAIN_TASKS = ("superdiagnostic", "all")
PROMPTS = "ptbxl_prompts.json"  # beside this file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task on some records of a labelled set.

    Attributes:
      name: one of `TASKS`.
      classes: Y class names.
      labels: [n, Y] float32, 0 or 1.
      rows: [n] int64, ascending: the records of the set that take part.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    rows: np.ndarray


def fits(label_table: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a set's table of labels is one of SCP statements."""
    return any("diagnostic_class" in row for row in label_table.values())


def task(
    name: str,
    labels: np.ndarray,
    statements: Sequence[str],
    label_table: Mapping[str, Mapping[str, Any]],
) -> Task:
    """One task of PTB-XL.

    A class that no record has stays a class, so that a part of the set has the
    same classes as the whole.

    Args:
      name: one of `TASKS`; `single_superdiagnostic` holds the records with exactly
        one superclass (the "ST-MEM task").
      labels: [N, S] 0 or 1: which of the S statements each record has.
      statements: their codes, such as "NORM", "LVH".
      label_table: code -> row of `scp_statements.csv` (`diagnostic`, `form` and
        `rhythm` true or false, `diagnostic_class`, `diagnostic_subclass`).

    Raises:
      ValueError: an unknown task, labels that are not [N, S] of 0 and 1, or a
        statement that the table lacks.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.shape[1] != len(statements):
        raise ValueError(
            f"labels of shape {labels.shape} for {len(statements)} statements; "
            "expected one column per statement"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels of PTB-XL must be 0 or 1, none of them unknown")
    found = parts(name, statements, label_table)
    merged = np.stack([labels[:, own].any(axis=1) for own in found.values()], axis=1)
    count = merged.sum(axis=1)
    rows = np.flatnonzero(count == 1 if name.startswith("single_") else count > 0)
    return Task(
        name=name,
        classes=tuple(found),
        labels=merged[rows].astype(np.float32),
        rows=rows,
    )


def parts(
    name: str,
    statements: Sequence[str],
    label_table: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[int]]:
    """Class of the task -> the statements that belong to it, by their places.

    Classes are in alphabetical order.

    Raises:
      ValueError: an unknown task, or a statement that the table lacks.
    """
    if name not in TASKS:
        raise ValueError(f"no PTB-XL task is called {name!r}; there are {TASKS}")
    found: dict[str, list[int]] = {}
    for place, statement in enumerate(statements):
        class_name = _CLASS_OF[name](statement, _row(label_table, statement))
        if class_name is not None:
            found.setdefault(class_name, []).append(place)
    if not found:
        raise ValueError(
            f"none of the {len(statements)} statements belongs to the task {name!r}: "
            "are these labels PTB-XL's?"
        )
    return dict(sorted(found.items()))


def _row(label_table: Mapping[str, Mapping[str, Any]], statement: str):
    if statement not in label_table:
        near = difflib.get_close_matches(statement, label_table, n=1)
        raise ValueError(
            f"statement {statement!r} is not among the {len(label_table)} statements "
            f"of the label table{f' (near: {near[0]!r})' if near else ''}"
        )
    return label_table[statement]


def _filled(value: Any) -> bool:
    """Whether a cell of the table says something: CSV readers leave '', None or NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    return value != ""


def _flag(kind: str) -> Callable[[str, Mapping[str, Any]], str | None]:
    def class_of(statement: str, row: Mapping[str, Any]) -> str | None:
        value = row.get(kind)
        return statement if _filled(value) and float(value) == 1 else None  # type: ignore[arg-type]

    return class_of


def _diagnostic(column: str) -> Callable[[str, Mapping[str, Any]], str | None]:
    is_diagnostic = _flag("diagnostic")

    def class_of(statement: str, row: Mapping[str, Any]) -> str | None:
        if is_diagnostic(statement, row) is None:
            return None
        value = row.get(column)
        if not _filled(value):
            raise ValueError(f"diagnostic statement {statement!r} has no {column}")
        return str(value)

    return class_of


_CLASS_OF: dict[str, Callable[[str, Mapping[str, Any]], str | None]] = {
    "all": lambda statement, row: statement,
    "diagnostic": _flag("diagnostic"),
    "subdiagnostic": _diagnostic("diagnostic_subclass"),
    "superdiagnostic": _diagnostic("diagnostic_class"),
    "form": _flag("form"),
    "rhythm": _flag("rhythm"),
    "single_superdiagnostic": _diagnostic("diagnostic_class"),
}
