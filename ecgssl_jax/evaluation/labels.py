"""The labels of a prepared set, as a task asks for them.

Tasks come in families, modules with `TASKS`, `MAIN_TASKS`, `PROMPTS`, `fits`, `parts` and
`task`, such as `evaluation.ptbxl`: another data set's tasks are such a module, and its
name below.
"""

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import ptbxl
from ecgssl_jax.settings import ConfigError, near

FAMILIES = (ptbxl,)
OWN = "labels"  # the task of a set's labels as they are
EVERY = "every"  # all tasks of a set at once
KNOWN_TASKS = (OWN, EVERY, *(task for family in FAMILIES for task in family.TASKS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Of the records that take part in a task: those with at least one known label.

    Attributes:
      classes: Y names.
      rows: [n] int64, of the set, ascending.
      labels: [n, Y] 0 or 1; 0 where not known.
      known: [n, Y] bool, labels that are known.
    """

    classes: tuple[str, ...]
    rows: np.ndarray
    labels: np.ndarray
    known: np.ndarray

    def take(self, places: np.ndarray) -> "Labels":
        """Of some of the records, by their places among `rows`."""
        return dataclasses.replace(
            self,
            rows=self.rows[places],
            labels=self.labels[places],
            known=self.known[places],
        )


def main_tasks(prepared: PreparedSet) -> tuple[str, ...]:
    """The tasks to begin with: of a family's its main ones, else 'labels'.

    Empty where the set has no labels.
    """
    return _tasks(prepared, "MAIN_TASKS")


def every_task(prepared: PreparedSet) -> tuple[str, ...]:
    """All tasks of the set's family, else 'labels'; empty where it has no labels."""
    return _tasks(prepared, "TASKS")


def _tasks(prepared: PreparedSet, which: str) -> tuple[str, ...]:
    if not prepared.labels:
        return ()
    family = _family(prepared)
    return (OWN,) if family is None else getattr(family, which)


def _family(prepared: PreparedSet) -> ModuleType | None:
    fitting = (each for each in FAMILIES if each.fits(prepared.label_table))
    return next(fitting, None)


def shipped_prompts(prepared: PreparedSet) -> Path | None:
    """The file of prompts for the labels of the set's family; None without any."""
    family = _family(prepared)
    return None if family is None else Path(__file__).with_name(family.PROMPTS)


def parts_of(prepared: PreparedSet, task: str) -> dict[str, list[int]]:
    """Class of the task -> the labels of the set that make it, by their places.

    Classes are in the order of `labels_of`, which has checked the task.
    """
    if task == OWN:
        return {name: [place] for place, name in enumerate(prepared.labels)}
    family = next(each for each in FAMILIES if task in each.TASKS)
    return family.parts(task, prepared.labels, prepared.label_table)


def labels_of(prepared: PreparedSet, task: str) -> Labels:
    """The labels of a task of the set.

    Args:
      task: 'labels' for the set's own, one of its family's, or 'every': all of them
        side by side, as `columns_of` has them, unknown where a record is not of a task.

    Raises:
      ConfigError: the set has no labels, or no such task.
    """
    if task not in KNOWN_TASKS:
        raise ConfigError(f"unknown task {task!r}{near(task, KNOWN_TASKS)}")
    labels = prepared.index["labels"]
    if not labels.shape[1]:
        raise ConfigError(
            f"{prepared.name} has no labels; name a labelled prepared set"
        )
    if task == EVERY:
        return _every(prepared)
    if task == OWN:
        known = prepared.index["labels_valid"].astype(bool)
        rows = np.flatnonzero(known.any(axis=1))
        return Labels(
            classes=prepared.labels, rows=rows, labels=labels[rows], known=known[rows]
        )
    family = next(each for each in FAMILIES if task in each.TASKS)
    if not family.fits(prepared.label_table):
        raise ConfigError(
            f"{prepared.name} has no table of labels that tells of {task!r}; only "
            f"{', '.join(map(repr, every_task(prepared)))} works"
        )
    found = family.task(task, labels, prepared.labels, prepared.label_table)
    return Labels(
        classes=found.classes,
        rows=found.rows,
        labels=found.labels,
        known=np.ones(found.labels.shape, bool),
    )


def _every(prepared: PreparedSet) -> Labels:
    """The labels of all tasks, with the name of its task before each."""
    parts = {task: labels_of(prepared, task) for task in every_task(prepared)}
    shape = len(prepared), sum(len(part.classes) for part in parts.values())
    labels, known = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for task, columns in columns_of(prepared, EVERY).items():
        labels[parts[task].rows, columns] = parts[task].labels
        known[parts[task].rows, columns] = parts[task].known
    rows = np.flatnonzero(known.any(axis=1))
    return Labels(
        classes=tuple(
            f"{task}: {name}" for task, part in parts.items() for name in part.classes
        ),
        rows=rows,
        labels=labels[rows],
        known=known[rows],
    )


def columns_of(prepared: PreparedSet, task: str) -> dict[str, slice]:
    """Task -> its columns among the labels of `task`, which may be 'every'."""
    if task != EVERY:
        return {task: slice(None)}
    found, start = {}, 0
    for each in every_task(prepared):
        stop = start + len(labels_of(prepared, each).classes)
        found[each], start = slice(start, stop), stop
    return found
