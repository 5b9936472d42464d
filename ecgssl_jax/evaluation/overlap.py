"""Records of the evaluated set that a training saw in another set.

Folds tell what a training saw of the set itself. Archives are copies of each other,
though, in part: so records are told by the hashes of their signals, and patients by
theirs.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.data.prepared import DamagedSetError, PreparedSet, open_prepared
from ecgssl_jax.evaluation.provenance import trainings
from ecgssl_jax.methods.base import Method
from ecgssl_jax.runs import Run

# Equal for equal content as it is stored: samples, rate, resolution, missing leads.
SIGNALS = "signal_hash"


# What two sets must have in common for equal recordings to have equal hashes.
_STORED = ("rate", "length", "scale")
_ALL = "records and patients"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """With one set that was trained on.

    Attributes:
      name: of that set.
      records: reported ones whose signals are in it.
      patients: reported ones who are in it.
      unknown: what is not known, and why; empty where all is.
    """

    name: str
    records: int = 0
    patients: int = 0
    unknown: str = ""

    @property
    def is_known(self) -> bool:
        """Whether something is shared for certain."""
        return bool(self.records or self.patients)


def overlaps_of(
    trained: Mapping[str, Mapping[str, Any]],
    prepared: PreparedSet,
    rows: np.ndarray,
    root: Path,
) -> Iterator[Overlap]:
    """Of each set that was trained on, what it has of these records.

    Of the set itself, what its other folds have: patients whose records are partly in no
    fold, and copies.

    Args:
      trained: a run's `data`: name -> what it says of a set.
      rows: [n] of the evaluated set.
      root: folder of the prepared sets.
    """
    for name, then in trained.items():
        if then["content_hash"] == prepared.metadata["content_hash"]:
            yield from _of_other_folds(name, then["folds"], prepared, rows)
            continue
        try:
            other = open_prepared(root / name)
        except (FileNotFoundError, DamagedSetError):
            yield Overlap(name=name, unknown=f"{_ALL}: it is not in {root}")
            continue
        if other.metadata["content_hash"] != then["content_hash"]:
            yield Overlap(
                name=name, unknown=f"{_ALL}: in {root} it has other contents now"
            )
        elif SIGNALS not in other.index or SIGNALS not in prepared.index:
            yield Overlap(
                name=name,
                unknown=f"{_ALL}: they were not both prepared with hashes of the signals; "
                "prepare them again",
            )
        else:
            seen = np.arange(len(other))
            if then["folds"] is not None:
                seen = np.flatnonzero(np.isin(other.index["fold"], then["folds"]))
            shared = {
                hashes: _shared(prepared.index[hashes][rows], other.index[hashes][seen])
                for hashes in (SIGNALS, "patient_hash")
            }
            yield Overlap(
                name=name,
                records=len(shared[SIGNALS]),
                patients=len(set(shared["patient_hash"])),
                unknown=_incomparable(prepared, other),
            )


def _of_other_folds(
    name: str, folds: Sequence[int] | None, prepared: PreparedSet, rows: np.ndarray
) -> Iterator[Overlap]:
    fold = prepared.index["fold"]
    trained_on = set(np.unique(fold).tolist() if folds is None else folds)
    others = sorted(trained_on - set(fold[rows].tolist()))
    seen = np.flatnonzero(np.isin(fold, others))
    counted = Overlap(
        name=f"other folds of {name}",
        records=_count_shared(prepared, SIGNALS, rows, seen),
        patients=_count_shared(prepared, "patient_hash", rows, seen, distinct=True),
    )
    if counted.is_known:
        yield counted


def _count_shared(
    prepared: PreparedSet,
    hashes: str,
    rows: np.ndarray,
    seen: np.ndarray,
    *,
    distinct: bool = False,
) -> int:
    if hashes not in prepared.index:
        return 0
    found = _shared(prepared.index[hashes][rows], prepared.index[hashes][seen])
    return len(set(found) if distinct else found)


def _incomparable(prepared: PreparedSet, other: PreparedSet) -> str:
    """What the hashes of two sets cannot tell: they are equal for equal content alone."""
    reasons = []
    if any(prepared.metadata[key] != other.metadata[key] for key in _STORED):
        reasons.append(
            "records: they were prepared with other --rate, --seconds or --scale, so "
            "that equal recordings have other hashes"
        )
    salted = (each.metadata["settings"].get("salt") for each in (prepared, other))
    if prepared.name != other.name or any(salted):
        reasons.append(
            "patients: sets of other names or salts hash them each by itself"
        )
    return "; ".join(reasons)


def _shared(own: np.ndarray, seen: np.ndarray) -> list[str]:
    """Those of `own` that were seen."""
    known = set(seen)
    return [each for each in own if each in known]


def note(found: Overlap) -> str:
    """What it means for the figures; empty where nothing is shared, for certain."""
    text = []
    if found.is_known:
        text.append(
            f"The pre-training saw {found.records} of these records and {found.patients} "
            f"of these patients in {found.name}: what it makes of them says nothing of new "
            "ones."
        )
    if found.unknown:
        saw = "" if found.is_known else f"The pre-training saw {found.name}. "
        some = "more" if found.is_known else "some"
        text.append(
            f"{saw}Whether {found.name} has {some} of these could not be checked for "
            f"{found.unknown}."
        )
    return " ".join(text)


def overlaps(
    run: Run,
    method: Method,
    prepared: PreparedSet,
    folds: Sequence[int],
    root: Path,
) -> list[Overlap]:
    """What the run, and those that it began with, saw of these folds in other sets."""
    rows = np.flatnonzero(np.isin(prepared.index["fold"], folds))
    found = [
        each
        for _, trained in trainings(run, method)
        for each in overlaps_of(trained, prepared, rows, root)
    ]
    return list(dict.fromkeys(found))


def notes(found: Sequence[Overlap]) -> list[str]:
    """What they mean for the figures."""
    texts = map(note, found)
    return [text for text in dict.fromkeys(texts) if text]
