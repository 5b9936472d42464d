"""What a pre-training knew of the set that it is evaluated on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.online import selecting_probe
from ecgssl_jax.methods.base import Method
from ecgssl_jax.runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the evaluated set was used for before.

    Attributes:
      trained_on: its folds that the pre-training took records from.
      selected_on: its folds whose labels selected the checkpoint.
      learnt_from: what the method takes of a record: 'signals', and 'reports' or
        'labels'.
      changed: whether the set of the same name had other contents then, so that the
        folds are unknown; they are empty here.
    """

    trained_on: tuple[int, ...]
    selected_on: tuple[int, ...]
    learnt_from: tuple[str, ...]
    changed: bool


def provenance_of(run: Run, method: Method, prepared: PreparedSet) -> Provenance:
    """What the run's checkpoint knew of this set; sets are told by their contents."""
    used = list(run.data.values())
    everything = set(prepared.index["fold"].tolist())
    trained_on: set[int] = set()
    for then in used:
        if _is_same(prepared, then):
            trained_on |= everything if then["folds"] is None else set(then["folds"])
    selected_on: tuple[int, ...] = ()
    probe = selecting_probe(run.experiment)
    if run.is_best and probe is not None:
        name, settings = probe
        used.append(run.evaluated[name])
        if _is_same(prepared, used[-1]):
            selected_on = settings.valid_folds
    asked = {"reports": method.text, "labels": method.labels}
    return Provenance(
        trained_on=tuple(sorted(trained_on)),
        selected_on=selected_on,
        learnt_from=("signals", *(name for name, shape in asked.items() if shape)),
        changed=any(then["name"] == prepared.name for then in used)
        and not any(_is_same(prepared, then) for then in used),
    )


def _is_same(prepared: PreparedSet, then: Mapping[str, Any]) -> bool:
    return then["content_hash"] == prepared.metadata["content_hash"]
