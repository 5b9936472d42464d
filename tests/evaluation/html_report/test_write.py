"""The whole page: sound, by itself, and the same for the same evaluation."""

import dataclasses
import re

import numpy as np
import pytest
from matplotlib.image import imread

from ecgssl_jax.evaluation.html_report.write import make_sections, write
from ecgssl_jax.evaluation.retrieval import Retrieval
from tests.evaluation.html_report.material import (
    TRAINED,
    make_material,
    without_labels,
)
from tests.evaluation.html_report.parsed import Page

RETRIEVAL = {
    "ECG to report": Retrieval(
        recall={1: 0.25, 5: 0.5},
        chance={1: 0.1, 5: 0.4},
        num_queries=9,
        num_candidates=9,
    )
}


def everything():
    return make_material(
        protocols=("linear", "attention"),
        budgets=("10 %", "100 %"),
        retrieval=RETRIEVAL,
    )


def names(material):
    return [section.name for section in make_sections(material)]


def test_the_page_is_sound_and_fetches_nothing(tmp_path):
    path = write(tmp_path, everything())
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        own = link.startswith("#") and link[1:] in page.ids
        assert (
            own
            or link.startswith(("data:image/png", "results.", "predictions."))
            or link == "report/"
        )
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert "url(" not in re.sub(r"url\(#", "", text)
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert images and all(attrs["alt"] for attrs in images)
    charts = [attrs for tag, attrs in page.tags if attrs.get("role") == "img"]
    assert charts and all(attrs["aria-label"] for attrs in charts)


def test_without_baselines_nothing_is_to_be_compared_with_them():
    material = make_material()
    alone = {k: x for k, x in material.cells.items() if k.encoder == TRAINED}
    leads = [
        make_sections(each)[0].lead
        for each in (material, dataclasses.replace(material, cells=alone))
    ]
    assert "distance from both" in leads[0] and "No baseline" not in leads[0]
    assert "No baseline" in leads[1] and "distance from both" not in leads[1]


def test_figures_lie_beside_it_as_pictures_and_old_ones_go(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "old.png").touch()
    write(tmp_path, everything())
    found = {path.stem for path in (tmp_path / "report").iterdir()}
    assert {"encoders", "roc", "precision", "reliability", "map", "attention"} <= found
    assert {"budgets-linear", "labels-labels", "neighbours-1-0", "training"} <= found
    assert "old" not in found
    for path in (tmp_path / "report").glob("*.png"):
        assert imread(path).ndim == 3


def test_the_same_evaluation_gives_the_same_bytes(tmp_path):
    one, again = (write(tmp_path / name, make_material()) for name in ("a", "b"))
    assert one.read_bytes() == again.read_bytes()


def test_texts_of_data_cannot_act(tmp_path):
    bad = '<script>alert("1")</script>'
    material = make_material(labels=(bad, "'\"&"), name=bad, method={"name": bad})
    record_id = material.prepared.index["record_id"].astype(object)
    record_id[:] = bad
    material.prepared.index["record_id"] = record_id
    document = {**material.document, "notes": [bad], "devices": bad, "command": [bad]}
    material = dataclasses.replace(material, document=document)
    text = write(tmp_path, material).read_text(encoding="utf-8")
    page = Page(text)
    # The button's own.
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "alert(" in text and not any(
        name.startswith("on") for _, attrs in page.tags for name in attrs
    )


def test_sections_are_those_that_there_is_something_to_show_in():
    assert names(everything()) == [
        "results",
        "budgets",
        "labels",
        "curves",
        "embeddings",
        "alike",
        "looks",
        "retrieval",
        "history",
        "notes",
        "reproduce",
    ]
    found = names(make_material(metrics=[]))
    assert not {"budgets", "looks", "retrieval", "history"} & set(found)


def test_a_set_without_labels_has_a_report_of_its_retrieval(tmp_path):
    material = without_labels(retrieval=RETRIEVAL, metrics=[])
    assert names(material) == ["retrieval", "notes", "reproduce"]
    Page(write(tmp_path, material).read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", ["constant features", "one class", "one step"])
def test_what_cannot_be_drawn_is_left_out(tmp_path, case):
    material = make_material()
    (asked,) = material.asked
    if case == "constant features":
        material = dataclasses.replace(material, pooled=np.ones_like(material.pooled))
        assert "embeddings" not in names(material)
    if case == "one step":
        material = dataclasses.replace(material, metrics=[{"step": 1, "loss": None}])
        assert "history" not in names(material)
    if case == "one class":
        one = dataclasses.replace(
            asked,
            classes=asked.classes[:1],
            labels=asked.labels[:, :1],
            known=asked.known[:, :1],
        )
        material = dataclasses.replace(material, asked=[one])
        cells = {
            key: dataclasses.replace(
                cell,
                answers=[
                    dataclasses.replace(x, logits=x.logits[:, :1]) for x in cell.answers
                ],
                labels={"a": cell.labels["a"]},
            )
            for key, cell in material.cells.items()
        }
        material = dataclasses.replace(material, cells=cells)
    Page(write(tmp_path, material).read_text(encoding="utf-8"))
