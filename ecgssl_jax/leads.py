"""The twelve standard leads: their order in every array here, and their names.

Every `[..., C]` axis of this package is in the order of `LEADS` unless a record
says otherwise.
"""

from collections.abc import Sequence

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

_BY_FOLDED_NAME = {lead.lower(): lead for lead in LEADS}
# Spellings seen in PhysioNet headers, DICOM exports and vendors' files.
_PREFIXES = ("lead ", "lead_", "lead-", "ecg ", "ecg_", "ecg-", "mdc_ecg_lead_")


def canonical_lead(name: str) -> str | None:
    """The standard name of a lead ("AVR", "Lead avr" -> "aVR"), None if unknown."""
    folded = name.strip().lower()
    for prefix in _PREFIXES:
        folded = folded.removeprefix(prefix)
    return _BY_FOLDED_NAME.get(folded)


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
