"""One probe, one split, several encoders: what is a pre-training worth?

The probe is trained on the training folds, and its settings are selected on the last
of them. The figures are those of the validation folds, which the probe never saw;
whether the checkpoint was selected there is for the report to say.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation import metrics, probes
from ecgssl_jax.evaluation.labels import labels_of
from ecgssl_jax.settings import ConfigError

Protocol = Literal["linear", "attention"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds:
    """Of the labelled set; the last training fold selects the probe's settings."""

    train: tuple[int, ...]
    valid: tuple[int, ...]

    def __post_init__(self):
        both = sorted(set(self.train) & set(self.valid))
        if both:
            raise ConfigError(
                f"folds {both} are training and validation folds; a probe must not be "
                "evaluated on what it was trained on"
            )
        if len(set(self.train)) < 2:
            raise ConfigError(
                f"training folds {list(self.train)}: at least two are needed, since the "
                "last one selects the probe's settings"
            )

    @property
    def selection(self) -> int:
        return self.train[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A task on the records of the set that take part in it.

    Attributes:
      name: of the task.
      classes: Y names.
      rows: [n] int64, of the set, ascending.
      labels: [n, Y] 0 or 1.
      known: [n, Y] bool, labels that are known.
      fold: [n] int32.
    """

    name: str
    classes: tuple[str, ...]
    rows: np.ndarray
    labels: np.ndarray
    known: np.ndarray
    fold: np.ndarray

    def sizes(self, folds: Folds) -> tuple[int, int]:
        """Records of the training and of the validation folds."""
        trained = int(np.isin(self.fold, folds.train).sum())
        return trained, len(self.fold) - trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What one encoder's features are worth for one task.

    Attributes:
      task: its name.
      macro: AUROC on the validation folds, per label and their mean.
      settings: what was selected: the probe's strength, or its step.
      selection: each candidate -> macro AUROC on the selection fold.
    """

    task: str
    macro: metrics.MacroScore
    settings: Mapping[str, float]
    selection: Mapping[str, float]


def question(prepared: PreparedSet, task: str, folds: Folds) -> Question:
    """The records and labels of a task in these folds.

    Raises:
      ConfigError: no labels, no such task or fold, or a part without records.
    """
    found = labels_of(prepared, task)
    present = sorted(set(prepared.index["fold"].tolist()))
    missing = sorted({*folds.train, *folds.valid} - set(present))
    if missing:
        hint = "choose others with --train-folds and --valid-folds"
        if present == [-1]:
            hint = "its source named no folds: add a column 'fold', split by patient"
        raise ConfigError(
            f"{prepared.name} has no folds {missing}, only {present}; {hint}"
        )
    fold = prepared.index["fold"][found.rows]
    used = np.isin(fold, [*folds.train, *folds.valid])
    parts = {
        "training folds": folds.train[:-1],
        "selection fold": [folds.selection],
        "validation folds": folds.valid,
    }
    for name, part in parts.items():
        if not np.isin(fold[used], list(part)).any():
            raise ConfigError(
                f"task {task!r}: no labelled record in the {name} {list(part)} of "
                f"{prepared.name}"
            )
    return Question(
        name=task,
        classes=found.classes,
        rows=found.rows[used],
        labels=found.labels[used],
        known=found.known[used],
        fold=fold[used],
    )


def rows_of(questions: Sequence[Question]) -> np.ndarray:
    """The rows of the set that any of the questions needs, ascending."""
    return np.unique(np.concatenate([each.rows for each in questions]))


def answer(
    asked: Question,
    features: np.ndarray,
    folds: Folds,
    *,
    protocol: Protocol = "linear",
    tokens_valid: np.ndarray | None = None,
    seed: int = 0,
) -> Score:
    """Fits the probe to features [n, D] ([n, L, D] for 'attention') and scores it.

    Args:
      tokens_valid: [n, L] bool, tokens that may be attended to; None for all.
      seed: of the attention probe; the linear one has no randomness.

    Raises:
      ValueError: features that are not finite, or labels that cannot be scored.
    """
    train = np.isin(asked.fold, folds.train)
    held_out = asked.fold[train] == folds.selection
    fit = {"known": asked.known[train], "held_out": held_out}
    if protocol == "linear":
        probe = probes.linear_probe(features[train], asked.labels[train], **fit)
        settings = {"l2": probe.l2}
        logits = probe.logits(features[~train])
    else:
        if tokens_valid is None:
            tokens_valid = np.ones(features.shape[:2], bool)
        fit |= {"tokens_valid": tokens_valid[train], "seed": seed}
        probe = probes.attention_probe(features[train], asked.labels[train], **fit)
        settings = {"step": float(probe.step)}
        logits = probe.logits(features[~train], tokens_valid[~train])
    macro = metrics.macro_auroc(
        logits,
        asked.labels[~train],
        asked.known[~train],
        names=asked.classes,
    )
    return Score(
        task=asked.name,
        macro=macro,
        settings=settings,
        selection={f"{key:g}": value for key, value in probe.selection.items()},
    )
