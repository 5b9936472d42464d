"""What the trainer asks of an evaluator: a plug-in that it runs between steps."""

from collections.abc import Iterator
from typing import Protocol

from ecgssl_jax.state import TrainState


class Evaluator(Protocol):
    """`every` steps, and after the last one, `run` yields (name, value)."""

    @property
    def every(self) -> int: ...

    def run(self, state: TrainState) -> Iterator[tuple[str, float]]: ...
