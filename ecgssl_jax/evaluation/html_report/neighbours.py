"""Records and those that the encoder finds most like them, on ECG paper."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecgssl_jax.evaluation.html_report.chart import shortened
from ecgssl_jax.evaluation.html_report.embedding_map import (
    coloured_task,
    single_classes,
)
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.html_report.page import Gallery, Slip, escape, png
from ecgssl_jax.evaluation.probes.inputs import standardisation
from ecgssl_jax.evaluation.questions import Question
from ecgssl_jax.evaluation.split import shown
from ecgssl_jax.paper import ecg_paper

_QUERIES, _NEAREST = 4, 3
_LEADS = ("II", "V2", "V5")
_SECONDS = 3.0
_DPI = 120
_NAME = 40  # letters of a record's name; more lose their middle


class Found(NamedTuple):
    """What is nearest to one record.

    Attributes:
      query: row of the set.
      nearest: [k] int, rows of the set, the nearest first.
      cosines: [k], of the standardised features.
    """

    query: int
    nearest: np.ndarray
    cosines: np.ndarray


def nearest(
    queries: np.ndarray, candidates: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """-> [n, k] int, places among the candidates, and their cosines.

    Of features that are standardised by the candidates', as in the protocol
    `neighbours`; k is `count`, or all candidates.

    Args:
      queries, candidates: [n, D] and [m, D] float32.
    """
    mean, scale = standardisation(candidates)
    queries, candidates = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        for x in ((queries - mean) * scale, (candidates - mean) * scale)
    )
    cosine = queries @ candidates.T
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosine, order, axis=1)


def found_neighbours(material: Material, asked: Question) -> list[Found]:
    """Of a reported record of each of some classes, drawn by the seed.

    Args:
      asked: of all folds.
    """
    reported = asked.only(material.split.report)
    fitted = asked.only(material.split.fitted)
    kinds, names = single_classes(reported, np.arange(len(reported.rows)), _QUERIES)
    rng = np.random.default_rng(material.seed)
    places = [int(rng.choice(np.flatnonzero(kinds == k))) for k in range(len(names))]
    if not places:
        # No record has just one class.
        count = min(_QUERIES, len(reported.rows))
        places = rng.choice(len(reported.rows), count, replace=False).tolist()
    rows = reported.rows[places]
    order, cosines = nearest(
        material.features(rows), material.features(fitted.rows), _NEAREST
    )
    return [
        Found(int(row), fitted.rows[own], near)
        for row, own, near in zip(rows, order, cosines, strict=True)
    ]


def neighbour_gallery(material: Material) -> Gallery | None:
    if material.pooled is None:
        return None
    asked = material.question(coloured_task(material).name)
    found = found_neighbours(material, asked)
    leads = _shown_leads(material)
    part = ", ".join(leads)
    seconds = min(_SECONDS, material.prepared.length / material.prepared.rate)
    return Gallery(
        name="neighbours",
        title=f"Nearest neighbours: {asked.name}",
        caption=(
            f"Records of fold {shown(material.split.report)}, drawn at random, framed in "
            f"blue; beside each the records of fold {shown(material.split.fitted)} whose "
            "pooled features are nearest, by the cosine of standardised features. Leads "
            f"{part}, the first {seconds:g} seconds, 0.2 s and 0.5 mV to a large square. "
            "Labels that both have are green."
        ),
        rows=[_row(material, asked, each, leads) for each in found],
    )


def _row(
    material: Material, asked: Question, found: Found, leads: Sequence[str]
) -> tuple[str, list[Slip]]:
    own = _labels(asked, found.query)
    slips = [_slip(material, asked, found.query, leads, own, None)]
    for row, cosine in zip(found.nearest, found.cosines, strict=True):
        slips.append(_slip(material, asked, int(row), leads, own, float(cosine)))
    record = material.prepared.index["record_id"][found.query]
    return f"Record <b>{escape(record)}</b>: {escape(', '.join(own) or 'none')}", slips


def _labels(asked: Question, row: int) -> list[str]:
    place = np.searchsorted(asked.rows, row)
    holds = asked.known[place] & (asked.labels[place] == 1)
    return [name for name, own in zip(asked.classes, holds, strict=True) if own]


def _slip(
    material: Material,
    asked: Question,
    row: int,
    leads: Sequence[str],
    wanted: Sequence[str],
    cosine: float | None,
) -> Slip:
    record = str(material.prepared.index["record_id"][row])
    labels = _labels(asked, row)
    chips = "".join(
        f'<span class="chip{" same" if label in wanted else ""}">{escape(label)}</span>'
        for label in labels
    )
    what = "the query" if cosine is None else f"cosine {cosine:.2f}"
    body = (
        f"<b>{escape(shortened(record, _NAME))}</b> <span>{what}</span>"
        f'<div class="chips">{chips or "<span>no label</span>"}</div>'
    )
    said = f"ECG of record {record}, {what}; labels: {', '.join(labels) or 'none'}"
    return Slip(png=draw_paper(material, row, leads), label=said, body=body)


def _shown_leads(material: Material) -> tuple[str, ...]:
    return (
        tuple(x for x in _LEADS if x in material.prepared.leads)
        or (material.prepared.leads[:3])
    )


def draw_paper(material: Material, row: int, leads: Sequence[str]) -> bytes:
    """PNG of some leads of a record of the set, its beginning."""
    prepared = material.prepared
    ecg = millivolts(material, row)[: round(_SECONDS * prepared.rate)]
    columns = [prepared.leads.index(lead) for lead in leads]
    figure = ecg_paper(
        ecg[:, columns],
        rate=prepared.rate,
        leads=leads,
        lead_valid=prepared.index["lead_valid"][row][columns],
        fine=False,
    )
    return png(figure, dpi=_DPI)


def millivolts(material: Material, row: int) -> np.ndarray:
    """[T, C] float32 of a record of the set; NaN beyond its end."""
    prepared = material.prepared
    ecg = prepared.read([row])[0].astype(np.float32) * np.float32(prepared.scale)
    ecg[prepared.index["length"][row] :] = np.nan
    return ecg
