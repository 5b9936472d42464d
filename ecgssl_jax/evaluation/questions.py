"""What is asked of encoders: the labels of a task, and the folds that have them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.labels import Labels, labels_of
from ecgssl_jax.evaluation.split import Split
from ecgssl_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A task on the records of a set that take part in it.

    Attributes:
      name: of the task.
      classes: Y names.
      rows: [n] int64, of the set (or of the features `within` which they are), ascending.
      record_id: [n] str.
      labels: [n, Y] 0 or 1.
      known: [n, Y] bool, labels that are known.
      fold: [n] int32.
      patient: [n] int32, numbers below `population`.
      population: patients of the set.
    """

    name: str
    classes: tuple[str, ...]
    rows: np.ndarray
    record_id: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    fold: np.ndarray
    patient: np.ndarray
    population: int

    def part(self, folds: Sequence[int]) -> np.ndarray:
        """[n] bool: the records of these folds."""
        return np.isin(self.fold, list(folds))

    def only(self, folds: Sequence[int]) -> "Question":
        """The same, asked of the records of these folds alone."""
        part = self.part(folds)
        by_record = ("rows", "record_id", "labels", "known", "fold", "patient")
        found = {name: getattr(self, name)[part] for name in by_record}
        return dataclasses.replace(self, **found)

    def within(self, rows: np.ndarray) -> "Question":
        """The same with its rows by their places among `rows` of the set, ascending."""
        return dataclasses.replace(self, rows=np.searchsorted(rows, self.rows))


def question(prepared: PreparedSet, task: str, split: Split) -> Question:
    """The records and labels of a task in these folds.

    Raises:
      ConfigError: no labels, no such task or fold, or a part without records.
    """
    found = labels_of(prepared, task)
    check_folds(prepared, split)
    fold = prepared.index["fold"][found.rows]
    used = np.isin(fold, split.folds)
    for purpose in ("fit", "select", "report"):
        part = getattr(split, purpose)
        if not np.isin(fold, part).any():
            raise ConfigError(
                f"task {task!r}: no labelled record in the folds to {purpose}, "
                f"{list(part)}, of {prepared.name}"
            )
        # A macro figure needs a label that some records have and others have not.
        if purpose != "fit" and not _kinds(found, np.isin(fold, part)).any():
            raise ConfigError(
                f"task {task!r}: no label of {prepared.name} has both a positive and a "
                f"negative record in the folds to {purpose}, {list(part)}; take more "
                "folds, or another task"
            )
    rows = found.rows[used]
    return Question(
        name=task,
        classes=found.classes,
        rows=rows,
        record_id=np.asarray(prepared.index["record_id"][rows], str),
        labels=found.labels[used],
        known=found.known[used],
        fold=fold[used],
        patient=prepared.index["patient"][rows],
        population=int(prepared.index["patient"].max()) + 1,
    )


def _kinds(found: Labels, part: np.ndarray) -> np.ndarray:
    """[Y] bool: whether records of this part have the label, and others have it not."""
    known, labels = found.known[part], found.labels[part]
    return (known & (labels == 1)).any(axis=0) & (known & (labels == 0)).any(axis=0)


def check_folds(prepared: PreparedSet, split: Split) -> None:
    """Raises ConfigError where the set lacks a fold of the split, or a patient is in two.

    Only those without a fold (-1) can be.
    """
    present = sorted(set(prepared.index["fold"].tolist()))
    missing = sorted(set(split.folds) - set(present))
    if not missing:
        _check_patients(prepared, split)
        return
    hint = (
        "choose others with --config.train_folds, --config.valid_folds and, with "
        "--test, --config.test_folds"
    )
    if present == [-1]:
        hint = "its source named no folds: add a column 'fold', split by patient"
    raise ConfigError(f"{prepared.name} has no folds {missing}, only {present}; {hint}")


def _check_patients(prepared: PreparedSet, split: Split) -> None:
    if -1 not in split.folds:
        return
    fold, patient = prepared.index["fold"], prepared.index["patient"]
    parts = [np.isin(fold, part) for part in (split.fit, split.select, split.report)]
    of_parts = [np.unique(patient[part]) for part in parts]
    several = np.unique(np.concatenate(of_parts), return_counts=True)[1] > 1
    if several.any():
        raise ConfigError(
            f"{several.sum()} patients of {prepared.name} have records in fold -1 (no "
            "fold) and in others that another part is given to: a probe would be judged "
            "on patients that it was fitted on; leave fold -1 out"
        )
