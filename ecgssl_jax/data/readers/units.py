"""Units of voltage, as headers, tables and flags spell them."""

import re

_MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_UNIT = re.compile(r"^\s*(\d*\.?\d+(?:e[+-]?\d+)?)?\s*([a-zµμ]+)\s*$", re.IGNORECASE)


def millivolts_per_unit(unit: str) -> float:
    """Factor from a unit to millivolts: "mV" is 1, "4.88uV" (a step) is 0.00488.

    Raises:
      ValueError: not a unit of voltage.
    """
    match = _UNIT.match(unit)
    factor = _MILLIVOLTS.get(match[2].lower()) if match else None
    if match is None or factor is None or (match[1] and float(match[1]) == 0):
        raise ValueError(
            f"unit {unit!r} is none of V, mV, uV, nV, with or without a number such as "
            "4.88uV before it"
        )
    return factor * float(match[1] or 1)
