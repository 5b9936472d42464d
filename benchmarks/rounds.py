"""Contenders in processes of their own, measured in turn."""

import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from ecgssl_jax.memory import keep_freed_memory


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is measured: `make(*args)` gives a function that measures once.

    Both are called in a process that holds nothing else, with the C library's own
    treatment of freed memory or, as in our programs, with `keeps_memory`.
    """

    make: Callable[..., Callable[[], float]]
    args: tuple[Any, ...]
    keeps_memory: bool


def alternate(
    contenders: Mapping[str, Contender], rounds: int
) -> dict[str, list[float]]:
    """Each one's figures of `rounds` rounds, after one that does not count.

    In a round every contender measures once while the others wait, so that a machine
    whose speed drifts moves all alike.

    Raises:
      RuntimeError: a contender failed; its own error is printed before.
    """
    # Otherwise the first process that holds a GPU takes most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # A fresh interpreter: threads and allocators of this one stay out of it.
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, contender in contenders.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(contender, theirs), daemon=True).start()
        theirs.close()
        _receive(name, pipes[name])  # it is ready
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            figure = _receive(name, pipe)
            if number:
                figures[name].append(figure)
    for pipe in pipes.values():
        pipe.send(False)
    return figures


def _receive(name: str, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"{name} ended early; its error is above") from None


def _serve(contender: Contender, pipe: Connection) -> None:
    if contender.keeps_memory:
        keep_freed_memory()
    measure = contender.make(*contender.args)
    pipe.send(True)
    while pipe.recv():
        pipe.send(measure())
