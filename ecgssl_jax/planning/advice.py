"""Whether a program fits, and what to change where it does not."""

import math
from collections.abc import Sequence

from ecgssl_jax.planning.figures import GIB, Figures

STATE = ("parameters", "optimiser", "averages")


def short_verdict(figures: Figures) -> str:
    """'fits', 'too large' or 'memory unknown'."""
    if figures.available is None:
        return "memory unknown"
    return "fits" if figures.fits else "too large"


def verdict(figures: Figures) -> str:
    """As the short one, or what it needs and which setting to change."""
    available = figures.available
    if available is None or figures.fits:
        return short_verdict(figures)
    state = sum(figures.memory.get(kind, 0) for kind in STATE)
    rest = figures.needed - state
    needs = (
        f"needs {figures.needed / GIB:.1f} GiB a device of {available / GIB:.1f}: "
        f"{state / GIB:.1f} of parameters, optimiser and averages, {rest / GIB:.1f} of "
        "the batch and its activations"
    )
    data, fsdp = figures.mesh[:2]
    changes = []
    # So that half of the memory is left for activations.
    factor = _power_of_two(state / (available / 2))
    if factor > 1:
        if data % factor == 0:
            changes.append(
                f"mesh.fsdp={fsdp * factor} and mesh.data={data // factor} divide the "
                "state"
            )
        else:
            changes.append(
                f"{factor} times as many devices on mesh.fsdp (or mesh.tensor)"
            )
    left = available - state / max(factor, 1)
    parts = _power_of_two(rest / left)
    if parts > 1:
        changes.append(_or(_for_activations(figures, parts)))
    advice = f"{needs}; try {' and '.join(changes)}"
    if parts > 1:
        advice += "; then plan again: what a compiler needs does not shrink evenly"
    return advice


def _for_activations(figures: Figures, parts: int) -> list[str]:
    """Ways to so many times less of them, as far as the rows can be divided."""
    data, fsdp, tensor = figures.mesh
    ways = ["model.remat='full'"] if figures.remat != "full" else []
    if figures.batch_size % (data * fsdp * figures.accumulate * parts):
        return [*ways, f"mesh.tensor={tensor * parts}", "a smaller model"]
    return [
        *ways,
        f"optim.accumulate={figures.accumulate * parts}",
        f"{parts} times as many devices",
        f"batch_size={figures.batch_size // parts}",
    ]


def _or(ways: Sequence[str]) -> str:
    """'a, b, or c'."""
    *first, last = ways
    return f"{', '.join(first)}, or {last}"


def _power_of_two(number: float) -> int:
    """The smallest that is at least the number."""
    return 2 ** max(0, math.ceil(math.log2(max(number, 1e-9))))
