"""Labels that are probed together: those of a task."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Labels whose probes have one strength: those of a task, on the rows it may use.

    Attributes:
      labels: [N, Y] 0 or 1.
      known: [N, Y] or [N, 1] bool; None for all.
      held_out: the rows to select the strength on, as indices or [N] bool.
      refit: whether the chosen strength is then fitted to these rows as well.
    """

    labels: Any
    known: Any = None
    held_out: Any = None
    refit: bool = True


@dataclasses.dataclass(kw_only=True, eq=False)
class Fit:
    """A group that was checked, and what is found out about it."""

    labels: np.ndarray  # [N, Y] float32
    known: np.ndarray  # [N, Y] bool
    kept: np.ndarray  # [N] bool, to select on
    refit: bool
    chosen: float = 0.0
    selection: dict[float, float] = dataclasses.field(default_factory=dict)
    stopped: bool = False

    @property
    def fitted(self) -> np.ndarray:
        """[N, Y] bool: the labels to fit."""
        return self.known & ~self.kept[:, None]
