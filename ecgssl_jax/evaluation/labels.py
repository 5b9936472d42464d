"""The labels of a prepared set, as a task asks for them."""

import dataclasses

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import ptbxl
from ecgssl_jax.settings import ConfigError, near


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


def labels_of(prepared: PreparedSet, task: str) -> Labels:
    """The labels of a task of the set.

    Args:
      task: 'labels' for the set's own, or one of `evaluation.ptbxl.TASKS`.

    Raises:
      ConfigError: the set has no labels, or no such task.
    """
    tasks = ("labels", *ptbxl.TASKS)
    if task not in tasks:
        raise ConfigError(f"unknown task {task!r}{near(task, tasks)}")
    labels = prepared.index["labels"]
    if not labels.shape[1]:
        raise ConfigError(
            f"{prepared.name} has no labels; name a labelled prepared set"
        )
    if task == "labels":
        known = prepared.index["labels_valid"].astype(bool)
        rows = np.flatnonzero(known.any(axis=1))
        return Labels(
            classes=prepared.labels, rows=rows, labels=labels[rows], known=known[rows]
        )
    if not prepared.label_table:
        raise ConfigError(
            f"{prepared.name} has no table of SCP statements; only task='labels' works"
        )
    found = ptbxl.task(task, labels, prepared.labels, prepared.label_table)
    return Labels(
        classes=found.classes,
        rows=found.rows,
        labels=found.labels,
        known=np.ones(found.labels.shape, bool),
    )
