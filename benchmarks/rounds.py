"""Contenders in processes of their own, measured in turn."""

import dataclasses
import multiprocessing
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
    """
    # A fresh interpreter: threads and allocators of this one stay out of it.
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, contender in contenders.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=_serve, args=(contender, theirs), daemon=True).start()
        theirs.close()
        pipes[name].recv()  # it is ready
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            figure = pipe.recv()
            if number:
                figures[name].append(figure)
    for pipe in pipes.values():
        pipe.send(False)
    return figures


def _serve(contender: Contender, pipe: Connection) -> None:
    if contender.keeps_memory:
        keep_freed_memory()
    measure = contender.make(*contender.args)
    pipe.send(True)
    while pipe.recv():
        pipe.send(measure())
