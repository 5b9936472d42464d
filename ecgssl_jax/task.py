"""What is trained on what: the contract between what builds a run and the trainer."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ecgssl_jax.evaluation.base import Evaluator
from ecgssl_jax.methods.base import Method
from ecgssl_jax.signals import Statistics
from ecgssl_jax.state import TrainState

Batch = Mapping[str, Any]


@contextlib.contextmanager
def closing(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Closes them at the end, however it comes, if they have a `close`."""
    try:
        yield batches
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to train, on what: all that `train` needs besides the experiment.

    Attributes:
      method: the objective.
      statistics: of the prepared sets.
      example: one global batch, as `materialise` completes it; only its shapes and
        dtypes matter.
      batches: (start, stop, rows) -> an iterator of the batches of those steps, only
        the given rows [b] of each; NumPy arrays. If it has a `close`, that is called
        however the run ends.
      evaluators: name -> evaluator.
      make_views: (rng, batch, statistics) -> the views of `config.views`, as the
        method has them; None where it asks for none.
      start: the random first state -> the one to begin with; None to keep it.
      materialise: completes a batch within the step, such as by fetching its
        signals from `resident`; None where batches are complete.
      resident: () -> arrays that stay on the devices for `materialise`.
      meta: what the parameters belong to, such as the signals' sampling rate; kept
        in every checkpoint, and in run.json.
      tokens: what the tokens of texts stand for; kept in every checkpoint.
    """

    method: Method
    statistics: Statistics
    example: Batch
    batches: Callable[[int, int, np.ndarray], Iterator[Batch]]
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    make_views: Callable[[jax.Array, Batch, Statistics], Any] | None = None
    start: Callable[[TrainState], TrainState] | None = None
    materialise: Callable[[Batch, Any], Batch] | None = None
    resident: Callable[[], Any] | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokens: Mapping[str, Any] = dataclasses.field(default_factory=dict)
