"""The slices of TPUs that there are, by their names."""

import math
import re

KINDS = ("v4", "v5e", "v5p", "v6e")
# Of the kinds whose chips lie in a plane; the others' fill a cuboid.
_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_LONGEST = 24


def chips(name: str) -> int | None:
    """Of 'v5e:4x4', its chips along each axis, how many; None if there is none such."""
    kind, _, shape = name.partition(":")
    if kind in ("v5e", "v6e"):
        known = shape in _PLANES
    else:
        sides = (
            [int(x) for x in shape.split("x")]
            if re.fullmatch(r"\d+(x\d+){2}", shape)
            else []
        )
        known = (
            kind in KINDS
            and sides == sorted(sides, key=_place)
            and all(
                0 < side <= _LONGEST and (side in (1, 2) or side % 4 == 0)
                for side in sides
            )
            and sides[:2] >= [2, 2]
        )
    return math.prod(map(int, shape.split("x"))) if known else None


def _place(side: int) -> tuple[bool, int]:
    """Sides grow, but for those of one chip, which come last."""
    return side == 1, side
