"""The slices of TPUs that there are, by their names."""

import math
import re
from collections.abc import Sequence

_PLANAR, _SOLID = ("v5e", "v6e"), ("v4", "v5p")  # in a plane, and filling a cuboid
_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_LONGEST = 24
# What slices there are of each kind, for messages.
KNOWN = {
    **dict.fromkeys(_PLANAR, f"its slices are {', '.join(_PLANES)}"),
    **dict.fromkeys(
        _SOLID,
        f"its slices have three sides of 1, 2, 4, 8, 12, ... {_LONGEST}, from short to "
        "long, such as 2x2x1 or 4x4x8",
    ),
}


def chips(name: str) -> int | None:
    """How many chips a slice such as 'v5e:4x4' has; None if there is no such slice."""
    kind, _, shape = name.partition(":")
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        return None
    sides = [int(side) for side in shape.split("x")]
    if kind in _PLANAR:
        known = shape in _PLANES
    else:
        known = kind in _SOLID and _is_cuboid(sides)
    return math.prod(sides) if known else None


def _is_cuboid(sides: Sequence[int]) -> bool:
    """Whether they are written as slices are: from short to long, but 1 comes last."""
    if len(sides) != 3 or min(sides[:2]) < 2 or max(sides) > _LONGEST:
        return False
    if any(side not in (1, 2) and (side % 4 or not side) for side in sides):
        return False
    first, second, third = sides
    return first <= second and (second <= third or third == 1)
