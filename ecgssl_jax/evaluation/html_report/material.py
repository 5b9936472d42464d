"""What a report is made of, and which of many answers its figures show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.html_report.scoreboard import Scoreboard
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.retrieval import Retrieval
from ecgssl_jax.evaluation.split import Split
from ecgssl_jax.evaluation.summary import Cell, Key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """All that is known of an evaluation.

    Attributes:
      name: of the run.
      encoder: the trained one's name, in the cells.
      document: what results.json holds, the figures' standing among it.
      date: such as 2026-01-31.
      prepared, split: the set, and what its folds were for.
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
    def board(self) -> Scoreboard:
        return Scoreboard(cells=self.cells, trained=(self.encoder,))

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
