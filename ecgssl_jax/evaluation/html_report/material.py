"""What a report is made of, and which of many answers its figures show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.provenance import Provenance
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.retrieval import Retrieval
from ecgssl_jax.evaluation.scoring import NO_LABELS
from ecgssl_jax.evaluation.settings import SUPERVISED, Protocol
from ecgssl_jax.evaluation.split import Split
from ecgssl_jax.evaluation.summary import Cell, Key

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
# As people call them.
PROTOCOL_NAMES = {
    "linear": "linear probe",
    "attention": "attention probe",
    "neighbours": "nearest neighbours",
    "finetuned": "fine-tuned",
    "two_stage": "fine-tuned in two stages",
    "predictions": "its own predictions",
    "zero_shot": "zero-shot by texts",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """All that is known of an evaluation.

    Attributes:
      name: of the run.
      encoder: the trained one's name, in the cells.
      document: what results.json holds.
      date: such as 2026-01-31.
      prepared, split: the set, and what its folds were for.
      test: whether the reported folds are test folds.
      provenance: what the pre-training knew of the set.
      asked: the questions, of all folds.
      cells: the answers.
      retrieval: by the name of the direction.
      rows, pooled: [N] of the set and [N, D], features of the trained encoder; None
        where nothing was asked.
      ordered_tokens: whether an encoder's tokens follow each other in time.
      method: its settings, with its name.
      model: likewise.
      crop: samples of the encoder's window.
      metrics: the lines of the training's metrics.jsonl.
      seed: of all that is drawn.
    """

    name: str
    encoder: str
    document: Mapping[str, Any]
    date: str
    prepared: PreparedSet
    split: Split
    test: bool
    provenance: Provenance
    asked: Sequence[Question]
    cells: Mapping[Key, Cell]
    retrieval: Mapping[str, Retrieval]
    rows: np.ndarray | None
    pooled: np.ndarray | None
    ordered_tokens: bool
    method: Mapping[str, Any]
    model: Mapping[str, Any]
    crop: int
    metrics: Sequence[Mapping[str, Any]]
    seed: int

    @property
    def tasks(self) -> list[str]:
        """Those of the cells, in their order."""
        return list(dict.fromkeys(key.task for key in self.cells))

    @property
    def encoders(self) -> list[str]:
        return list(dict.fromkeys(key.encoder for key in self.cells))

    @property
    def protocols(self) -> list[Protocol]:
        found = {key.protocol for key in self.cells}
        return [name for name in PROTOCOLS if name in found]

    @property
    def budgets(self) -> list[str]:
        """From few labels to many."""
        return sorted({key.budget for key in self.cells}, key=budget_size)

    def main(self, task: str, among: Sequence[str] = PROTOCOLS) -> Key | None:
        """The trained encoder's cell that stands for a task, if it has any.

        By the first of these protocols that was run, with the most labels.
        """
        own = [
            key
            for key in self.cells
            if key.task == task
            and key.encoder == self.encoder
            and key.protocol in among
        ]
        if not own:
            return None
        return min(
            own,
            key=lambda key: (among.index(key.protocol), *_descending(key.budget)),
        )

    def others(self, key: Key) -> dict[str, Key]:
        """Encoder -> its cell beside this one, the same but for the encoder."""
        found = {name: key._replace(encoder=name) for name in self.encoders}
        return {
            name: other
            for name, other in found.items()
            if other in self.cells and name != key.encoder
        }

    def question(self, task: str) -> Question:
        """Asked of all folds."""
        return next(each for each in self.asked if each.name == task)

    def reported(self, task: str) -> Question:
        """Asked of the reported folds, in the order of the answers' logits."""
        return self.question(task).only(self.split.report)

    def features(self, rows: np.ndarray) -> np.ndarray:
        """[n, D] float32, of rows of the set that were asked about."""
        assert self.rows is not None and self.pooled is not None
        return np.asarray(self.pooled[np.searchsorted(self.rows, rows)])


def budget_size(budget: str) -> tuple[int, float]:
    """What sorts budgets: none, so many of each class, shares."""
    amount = float(budget.split()[0])
    return (0 if budget == NO_LABELS else 1 if "class" in budget else 2, amount)


def _descending(budget: str) -> tuple[float, float]:
    kind, amount = budget_size(budget)
    return -kind, -amount


# Colour and mark of the encoders beside the trained one, which is a blue dot.
_LOOKS = {
    "log spectrum": ("faint", "diamond"),
    "random encoder": ("orange", "ring"),
    SUPERVISED: ("green", "ring"),
}


def looks(encoders: Sequence[str], trained: str) -> dict[str, tuple[str, str]]:
    """Encoder -> colour and mark, the same in all figures."""
    found = {name: _LOOKS.get(name, ("purple", "ring")) for name in encoders}
    return {**found, trained: ("blue", "dot")}
