"""What the reported records are, to a training: how far its figures can be believed."""

import dataclasses
from typing import Literal

from ecgssl_jax.evaluation.provenance import Provenance
from ecgssl_jax.evaluation.split import Split, shown


@dataclasses.dataclass(frozen=True)
class Standing:
    """Of an evaluation's figures.

    Attributes:
      kind: 'caution' where they are flattering, or no valid ones.
      title: in a few words.
      why: a sentence.
    """

    kind: Literal["caution", "neutral", "test"]
    title: str
    why: str


def standing_of(
    split: Split,
    provenance: Provenance,
    *,
    test: bool,
    texts: bool,
    copies: bool = False,
) -> Standing:
    """By what the training and the selection knew of the reported folds.

    Args:
      test: whether these are test folds.
      texts: whether figures depend on reports, as those of a retrieval do.
      copies: whether the training saw some of the records or patients in another set.
    """
    fold = shown(split.report)
    report = set(split.report)
    if report & set(provenance.learnt.get("labels", ())):
        return Standing(
            "caution",
            "No valid figures",
            f"The training has seen the labels of fold {fold}, which are reported here.",
        )
    if texts and report & set(provenance.learnt.get("reports", ())):
        return Standing(
            "caution",
            "No valid figures of texts",
            f"The training has read the reports of fold {fold}: what it finds by texts "
            "there says nothing of new ones.",
        )
    seen = [
        kind
        for kind in ("signals", "reports")
        if report & set(provenance.learnt.get(kind, ()))
    ]
    if seen:
        return Standing(
            "caution",
            "Seen without labels",
            f"The training has seen the {' and '.join(seen)} of fold {fold}: figures of "
            "new records may be lower.",
        )
    if provenance.changed:
        return Standing(
            "caution",
            "Of unknown standing",
            "The set has changed since the training: which of these records it knew is "
            "unknown.",
        )
    if copies:
        return Standing(
            "caution",
            "Partly known records",
            "The training saw some of these records or patients in another set; the "
            "notes say how many.",
        )
    if report & set(provenance.selected_on):
        return Standing(
            "caution",
            "Selection fold, no test figures",
            f"The checkpoint was chosen by an online probe on fold {fold}, which gives "
            "these figures. They flatter it a little.",
        )
    if report == {-1}:
        return Standing(
            "neutral",
            "All records",
            "The set has no folds; nothing was kept from anything.",
        )
    if test:
        return Standing(
            "test",
            "Test folds",
            f"Fold {fold}, which selected neither the checkpoint nor a probe's settings.",
        )
    return Standing(
        "neutral",
        "Validation folds, no test figures",
        f"Fold {fold}, which did not select the checkpoint. The test folds were not read.",
    )
