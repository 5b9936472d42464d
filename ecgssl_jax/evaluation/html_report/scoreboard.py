"""The cells of an evaluation's tables, and which of them its figures show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import get_args

from ecgssl_jax.evaluation.html_report.ink import SERIES
from ecgssl_jax.evaluation.scoring import NO_LABELS
from ecgssl_jax.evaluation.settings import SUPERVISED, TUNING, Protocol
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
# Whom a page is about, in the order of preference: of a model that predicts, what it
# says itself is what people will use.
_FIRST = ("predictions", *(name for name in PROTOCOLS if name != "predictions"))
# Colour and mark of the encoders beside a trained one.
_BASELINES = {
    "log spectrum": ("faint", "diamond"),
    "random encoder": ("orange", "ring"),
    SUPERVISED: ("green", "ring"),
}
# Of more encoders than there are colours.
_MARKS = ("dot", "diamond", "ring")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scoreboard:
    """Figures of trained encoders and of baselines.

    Attributes:
      cells: the answers.
      trained: whom they are about; all other encoders are baselines.
      article: before the name of an encoder that others are compared with.
    """

    cells: Mapping[Key, Cell]
    trained: Sequence[str]
    article: str = "the "

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

    @property
    def styles(self) -> dict[str, tuple[str, str]]:
        """Encoder -> colour and mark, the same in all figures."""
        found = {}
        for name in self.encoders:
            if name in self.trained:
                place = self.trained.index(name)
                mark = _MARKS[place // len(SERIES) % len(_MARKS)]
                found[name] = SERIES[place % len(SERIES)], mark
            elif len(self.trained) == 1:
                found[name] = _BASELINES.get(name, ("purple", "ring"))
            else:
                # The colours are taken.
                spectrum = name.startswith("log spectrum")
                found[name] = "faint", "diamond" if spectrum else "ring"
        return found

    def main(self, task: str, among: Sequence[str] = _FIRST) -> Key | None:
        """The first trained encoder's cell that stands for a task, if it has any.

        By the first of these protocols that was run, with the most labels.
        """
        own = [
            key
            for key in self.cells
            if key.task == task
            and key.encoder == self.trained[0]
            and key.protocol in among
        ]
        if not own:
            return None
        return min(
            own,
            key=lambda key: (among.index(key.protocol), *_descending(key.budget)),
        )

    def most_labels(self) -> dict[Key, Cell]:
        """The cells of each protocol and task that learnt from the most labels."""
        found: dict[Key, Cell] = {}
        for key, cell in self.cells.items():
            own = self.main(key.task, (key.protocol,))
            if own is None or key.budget == own.budget:
                found[key] = cell
        return found

    def others(self, key: Key) -> dict[str, Key]:
        """Encoder -> its cell beside this one, the same but for the encoder."""
        found = {name: key._replace(encoder=name) for name in self.encoders}
        return {
            name: other
            for name, other in found.items()
            if other in self.cells and name != key.encoder
        }


def by_what(key: Key) -> str:
    """'by a linear probe, 10 % of the labels'."""
    name = PROTOCOL_NAMES[key.protocol]
    article = {"linear": "a ", "attention": "an "}.get(key.protocol, "")
    verb = "" if key.protocol in TUNING else "by "
    budget = (
        "" if key.budget in ("100 %", NO_LABELS) else f", {budget_name(key.budget)}"
    )
    return f"{verb}{article}{name}{budget}"


def budget_name(budget: str) -> str:
    """As people say it."""
    if budget == NO_LABELS:
        return "without any label"
    if budget == "100 %":
        return "all labels"
    return f"{budget} of the labels" if "%" in budget else f"labels of {budget}"


def budget_size(budget: str) -> tuple[int, float]:
    """What sorts budgets: none, so many of each class, shares."""
    amount = float(budget.split()[0])
    return (0 if budget == NO_LABELS else 1 if "class" in budget else 2, amount)


def _descending(budget: str) -> tuple[float, float]:
    kind, amount = budget_size(budget)
    return -kind, -amount
