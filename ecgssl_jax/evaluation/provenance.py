"""What a training knew of the set that it is evaluated on."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.online import selecting_probe
from ecgssl_jax.methods.base import Method
from ecgssl_jax.runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the evaluated set was used for before.

    Attributes:
      learnt: 'signals', and 'reports' or 'labels' where a training read them -> the
        folds that it took them from. Without an entry for what was never read.
      selected_on: its folds whose labels selected the checkpoint.
      changed: whether the set of the same name had other contents then, so that the
        folds are unknown; they are empty here.
    """

    learnt: Mapping[str, tuple[int, ...]]
    selected_on: tuple[int, ...]
    changed: bool


def learnt_from(method: Method) -> tuple[str, ...]:
    """What the method takes of a record: 'signals', and 'reports' or 'labels'."""
    asked = {"reports": method.text, "labels": method.labels}
    return ("signals", *(name for name, shape in asked.items() if shape))


def provenance_of(run: Run, method: Method, prepared: PreparedSet) -> Provenance:
    """What the run's checkpoint knew of this set; sets are told by their contents.

    Of a run that began with another one's encoder, also what that one knew.
    """
    everything = set(prepared.index["fold"].tolist())
    used: list[Mapping[str, Any]] = []
    learnt: dict[str, set[int]] = {}
    for kinds, data in trainings(run, method):
        for then in data.values():
            used.append(then)
            if not _is_same(prepared, then):
                continue
            folds = everything if then["folds"] is None else then["folds"]
            for kind in kinds:
                learnt.setdefault(kind, set()).update(folds)
    selected_on: set[int] = set()
    for then in _selections(run):
        used.append(then)
        if _is_same(prepared, then):
            selected_on.update(then["folds"])
    return Provenance(
        learnt={kind: tuple(sorted(folds)) for kind, folds in learnt.items()},
        selected_on=tuple(sorted(selected_on)),
        changed=any(then["name"] == prepared.name for then in used)
        and not any(_is_same(prepared, then) for then in used),
    )


def selected_on(run: Run) -> dict[str, Any]:
    """The set and folds whose labels selected the run's checkpoint; {} for none."""
    probe = selecting_probe(run.experiment)
    if not run.is_best or probe is None:
        return {}
    name, settings = probe
    return {**run.evaluated[name], "folds": list(settings.valid_folds)}


def _selections(run: Run) -> Iterator[Mapping[str, Any]]:
    """Of the run, and of all that it began with."""
    found = [selected_on(run)]
    before = run.began_with
    while before:
        found.append(before.get("selected_on", {}))
        before = before["began_with"]
    yield from filter(None, found)


def trainings(
    run: Run, method: Method
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Mapping[str, Any]]]]:
    """(what was learnt from, the sets) of the run, and of all that it began with."""
    yield learnt_from(method), run.data
    before = run.began_with
    while before:
        yield tuple(before["learnt_from"]), before["data"]
        before = before["began_with"]


def _is_same(prepared: PreparedSet, then: Mapping[str, Any]) -> bool:
    return then["content_hash"] == prepared.metadata["content_hash"]
