"""Labels that are probed together: those of a task."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ecgssl_jax.evaluation.probes import inputs


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Labels whose probes have one setting: those of a task, on the rows it may use.

    Attributes:
      labels: [N, Y] 0 or 1.
      known: [N, Y] or [N, 1] bool; None for all.
      held_out: the rows to select the setting on, as indices or [N] bool. The others
        are fitted meanwhile.
      final: [N] bool, the rows that the selected setting is fitted to in the end; None
        for all. Attention probes are not fitted again.
    """

    labels: Any
    known: Any = None
    held_out: Any = None
    final: Any = None


@dataclasses.dataclass(kw_only=True, eq=False)
class Fit:
    """A group that was checked, and what is found out about it."""

    labels: np.ndarray  # [N, Y] float32
    known: np.ndarray  # [N, Y] bool
    kept: np.ndarray  # [N] bool, to select on
    final: np.ndarray  # [N] bool
    chosen: float = 0.0
    selection: dict[float, float] = dataclasses.field(default_factory=dict)
    stopped: bool = False

    @property
    def fitted(self) -> np.ndarray:
        """[N, Y] bool: the labels to fit while settings are selected."""
        return self.known & ~self.kept[:, None]

    @property
    def fitted_last(self) -> np.ndarray:
        """[N, Y] bool: those to fit in the end."""
        return self.known & self.final[:, None]


def checked(group: Group, records: int) -> Fit:
    """The group's labels as arrays.

    Raises:
      ValueError: shapes that do not match, known labels that are not 0 or 1, or
        nothing left to select on or to fit.
    """
    labels, known = inputs.checked_labels(group.labels, group.known, records)
    kept = np.zeros(records, bool)
    if group.held_out is not None:
        kept = inputs.held_out_mask(group.held_out, records)
    final = np.ones(records, bool) if group.final is None else np.asarray(group.final)
    if final.shape != (records,):
        raise ValueError(f"final is {final.shape} for {records} training rows")
    fit = Fit(labels=labels, known=known, kept=kept, final=final.astype(bool))
    if not (fit.fitted.any() and fit.fitted_last.any()):
        raise ValueError("no training row has a known label")
    return fit


def check_held_out(groups: Sequence[Group], choices: int, of: str) -> None:
    """Raises ValueError if there is a choice `of` something, and nothing to choose on."""
    if choices > 1 and any(group.held_out is None for group in groups):
        raise ValueError(
            f"{choices} {of} and no row is held out to choose one: give some training "
            f"rows as `held_out`, or one of the {of}"
        )
