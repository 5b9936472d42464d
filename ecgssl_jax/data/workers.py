"""Runs tasks in worker processes that never outlive their parent."""

import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ecgssl_jax.data.publishing import PrepareError


def usable_cores() -> int:
    """Of the machine's cores, those that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_tasks(
    function: Callable[..., Any], arguments: Iterable[tuple], *, workers: int
) -> Iterator[Any]:
    """Yields `function(*arguments[i])` for every i, in order.

    With one worker, or one task, everything runs in this process. Processes are
    spawned, not forked: forking a process that runs JAX or TensorFlow deadlocks.
    At most a few results per worker wait to be taken, and no more of `arguments` are
    looked at.

    Raises:
      PrepareError: a worker process was killed.
    """
    arguments = iter(arguments)
    first = list(itertools.islice(arguments, 2))
    arguments = itertools.chain(first, arguments)
    if workers <= 1 or len(first) <= 1:
        for each in arguments:
            yield function(*each)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_exit_with_parent
    ) as pool:
        pending: list[Future] = []
        try:
            for each in arguments:
                pending.append(pool.submit(function, *each))
                if len(pending) >= 4 * workers:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        except BrokenProcessPool as error:
            raise PrepareError(
                "a worker process was killed, most likely for want of memory; use "
                "fewer workers"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _exit_with_parent() -> None:
    """Ends this process when its parent does, even if that was killed."""
    parent = multiprocessing.parent_process()

    def wait():
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
