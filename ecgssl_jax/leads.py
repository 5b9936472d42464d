"""The twelve standard leads: their order in every array here, and their names.

Every `[..., C]` axis of this package is in the order of `LEADS` unless a record
says otherwise.
"""

import difflib
from collections.abc import Sequence

import numpy as np

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
NO_LEAD = "-"  # in a list of names, a column to leave out

# Right arm, left arm, left leg, V1-V6 -> the twelve leads, potentials against the
# right leg: Einthoven's, Goldberger's and Wilson's definitions. [12, 9].
LEADS_FROM_ELECTRODES = np.zeros((12, 9))
LEADS_FROM_ELECTRODES[:6, :3] = [
    [-1.0, 1.0, 0.0],
    [-1.0, 0.0, 1.0],
    [0.0, -1.0, 1.0],
    [1.0, -0.5, -0.5],
    [-0.5, 1.0, -0.5],
    [-0.5, -0.5, 1.0],
]
LEADS_FROM_ELECTRODES[6:, :3] = -1.0 / 3.0
LEADS_FROM_ELECTRODES[6:, 3:] = np.eye(6)

_BY_FOLDED_NAME = {lead.lower(): lead for lead in LEADS}
# "D" for derivation: French, Spanish and Portuguese recorders.
_BY_FOLDED_NAME |= dict(zip(("di", "dii", "diii", "d1", "d2", "d3"), 2 * LEADS[:3]))
# Spellings seen in PhysioNet headers, DICOM exports and vendors' files.
_PREFIXES = ("lead ", "lead_", "lead-", "ecg ", "ecg_", "ecg-", "mdc_ecg_lead_")


def canonical_lead(name: str) -> str | None:
    """The standard name of a lead ("AVR", "Lead avr" -> "aVR"), None if unknown."""
    folded = name.strip().lower()
    for prefix in _PREFIXES:
        folded = folded.removeprefix(prefix)
    return _BY_FOLDED_NAME.get(folded)


def unknown_leads(names: Sequence[str]) -> list[str]:
    """The names that are neither a standard lead nor `NO_LEAD`."""
    return [x for x in names if x.strip() != NO_LEAD and canonical_lead(x) is None]


def lead_columns(names: Sequence[str]) -> dict[str, int]:
    """Standard lead -> column of an array whose columns are called `names`.

    Columns with unknown names are left out. Raises ValueError if two columns
    claim the same lead.
    """
    columns: dict[str, int] = {}
    for column, name in enumerate(names):
        lead = canonical_lead(name)
        if lead is None:
            continue
        if lead in columns:
            raise ValueError(
                f"columns {columns[lead]} ({names[columns[lead]]!r}) and {column} "
                f"({name!r}) are both lead {lead}; name each lead once"
            )
        columns[lead] = column
    return columns


def stated_columns(names: Sequence[str]) -> dict[str, int]:
    """As `lead_columns`, of names that someone wrote down as those of the leads.

    Raises ValueError for an unknown name too, and where there is no lead at all.
    """
    unknown = unknown_leads(names)
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), _BY_FOLDED_NAME, n=1)
        hint = f"; did you mean {_BY_FOLDED_NAME[near[0]]}?" if near else "."
        raise ValueError(
            f"{', '.join(map(repr, unknown))}: no standard lead{hint} The leads are "
            f"{', '.join(LEADS)}; write {NO_LEAD} for a column to leave out"
        )
    columns = lead_columns(names)
    if not columns:
        raise ValueError(f"none of {list(names)} is a standard lead")
    return columns
