"""Ends a process that waits for what does not come, and says for what."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

# EX_TEMPFAIL of sysexits.h: it may go well another time. Launchers start such jobs anew.
TRY_AGAIN = 75

_LOOK = 1.0  # seconds between two looks


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    # Whatever it waits for holds a regular exit up as well.
    os._exit(TRY_AGAIN)


@dataclasses.dataclass(frozen=True, eq=False)
class _Wait:
    """One time of waiting; told from others by being the same object."""

    reason: str


class Watchdog:
    """Of one thread, which tells what it is about to wait for.

    The time in which the whole process is stopped, as by Ctrl-Z, does not count.

    Args:
      seconds: of waiting for one thing, after which `end` is called; 0 for any.
      end: takes a message; by default it ends the process with code 75.
    """

    def __init__(
        self,
        seconds: float,
        *,
        end: Callable[[str], None] = _end,
        look: float = _LOOK,
    ):
        self._seconds, self._end, self._look = seconds, end, look
        self._wait: _Wait | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    @contextlib.contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Within, it waits for what the reason says: 'no batch came'."""
        self._wait = _Wait(reason)
        try:
            yield
        finally:
            self._wait = None

    def _watch(self) -> None:
        last, watched, waited = time.monotonic(), None, 0.0
        while not self._over.wait(self._look):
            now = time.monotonic()
            passed, last = min(now - last, 2 * self._look), now
            if self._wait is not watched:
                watched, waited = self._wait, 0.0
                continue
            waited += passed
            if watched is not None and waited > self._seconds:
                self._end(
                    f"{watched.reason} in {self._seconds:g} s; the same command continues from "
                    "the last checkpoint. Where that is no wonder, raise "
                    "config.stall_seconds, or set it to 0"
                )
                return
