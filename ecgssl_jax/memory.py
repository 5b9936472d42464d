"""How the C library treats freed memory."""

import ctypes

from ecgssl_jax.data.workers import usable_cores

# Parameters of mallopt(3), by their numbers in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has this process keep the memory that it frees, for its next use.

    XLA takes and frees the buffers of a step on CPUs with every step. By default they
    go back to the kernel, which has to clear them again page by page: a sixth of the
    time of a step of small models. To be called before threads start. Does nothing
    where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    # Large blocks, too, come from the heaps, which grow and are not trimmed. One for
    # each core: with a single one, threads wait for each other, a quarter of a small
    # model's step; with more, as by default, larger models were measured slower.
    mallopt(_ARENA_MAX, 1 + usable_cores())
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
