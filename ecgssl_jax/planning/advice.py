"""Whether a program fits, and what to change where it does not."""

import math

from ecgssl_jax.planning.figures import Figures

STATE = ("parameters", "optimiser", "averages")
_GIB = 2**30


def verdict(figures: Figures) -> str:
    """'fits', or what it needs and which setting to change."""
    available = figures.available
    if available is None or figures.fits:
        return "fits" if available else "memory unknown"
    state = sum(figures.memory.get(kind, 0) for kind in STATE)
    rest = figures.needed - state
    needs = (
        f"needs {figures.needed / _GIB:.1f} GiB a device of {available / _GIB:.1f}: "
        f"{state / _GIB:.1f} of parameters, optimiser and averages, {rest / _GIB:.1f} of "
        "the batch and its activations"
    )
    data, fsdp = figures.mesh[:2]
    changes = []
    # So that half of the memory is left for activations.
    factor = _power_of_two(state / (available / 2))
    if factor > 1:
        if data >= factor:
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
        changes.append(
            f"optim.accumulate={parts}, model.remat='full', {parts} times as many "
            f"devices, or batch_size={figures.batch_size // parts}"
        )
    return f"{needs}; try {' and '.join(changes) or 'a larger mesh'}"


def _power_of_two(number: float) -> int:
    """The smallest that is at least the number."""
    return 2 ** max(0, math.ceil(math.log2(max(number, 1e-9))))
