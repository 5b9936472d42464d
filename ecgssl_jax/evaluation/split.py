"""Which folds fit a probe, select its settings, and give the figure."""

import dataclasses
from collections.abc import Sequence

from ecgssl_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """No fold has two parts.

    Attributes:
      fit: folds that probes are fitted to.
      select: that select their settings.
      report: that give the figures.
      refit: whether a probe is fitted to both, `fit` and `select`, once its settings
        are selected.
    """

    fit: tuple[int, ...]
    select: tuple[int, ...]
    report: tuple[int, ...]
    refit: bool

    def __post_init__(self):
        parts = {"fit": self.fit, "select": self.select, "report": self.report}
        for name, part in parts.items():
            if not part:
                raise ConfigError(f"there is no fold to {name}")
        twice = [
            fold
            for fold in self.folds
            if sum(fold in part for part in parts.values()) > 1
        ]
        if twice:
            shown = ", ".join(f"to {name} {list(part)}" for name, part in parts.items())
            raise ConfigError(
                f"folds {twice} have two parts: folds {shown}. A probe must not be "
                "evaluated on what it was made with"
            )

    @property
    def folds(self) -> tuple[int, ...]:
        """All of them, ascending."""
        return tuple(sorted({*self.fit, *self.select, *self.report}))

    @property
    def fitted(self) -> tuple[int, ...]:
        """Those that a probe is fitted to in the end."""
        return self.fit + self.select if self.refit else self.fit


def validation_split(train: Sequence[int], valid: Sequence[int]) -> Split:
    """Figures of the validation folds: the last training fold selects.

    So the validation folds select nothing of the probe; what they selected before, such
    as the checkpoint, is for the report to say.
    """
    if len(set(train)) < 2:
        raise ConfigError(
            f"training folds {list(train)}: at least two are needed, since the last one "
            "selects the probe's settings"
        )
    *fit, select = train
    return Split(fit=tuple(fit), select=(select,), report=tuple(valid), refit=True)


def final_split(
    train: Sequence[int], valid: Sequence[int], test: Sequence[int]
) -> Split:
    """Figures of the test folds: the validation folds select."""
    return Split(fit=tuple(train), select=tuple(valid), report=tuple(test), refit=False)


def shown(folds: Sequence[int]) -> str:
    """'1-8', '3, 5', '-1 (none)'."""
    ordered = sorted(folds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}-{ordered[-1]}"
    return ", ".join("-1 (none)" if fold == -1 else str(fold) for fold in ordered)
