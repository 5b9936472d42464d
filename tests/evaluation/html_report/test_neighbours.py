"""Neighbours against brute force, and what is said of them."""

import numpy as np
import pytest

from ecgssl_jax.evaluation.html_report.neighbours import (
    found_neighbours,
    nearest,
    neighbour_gallery,
)
from tests.evaluation.html_report.material import SPLIT, make_material


def test_the_nearest_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(3, 5)), 4 + 3 * rng.normal(size=(40, 5))
    order, cosines = nearest(
        queries.astype(np.float32), candidates.astype(np.float32), 3
    )
    mean, std = candidates.mean(axis=0), candidates.std(axis=0)
    for row, query in enumerate((queries - mean) / std):
        found = []
        for number, other in enumerate((candidates - mean) / std):
            norms = np.linalg.norm(query) * np.linalg.norm(other)
            found.append((-(query @ other) / norms, number))
        expected = sorted(found)[:3]
        assert order[row].tolist() == [number for _, number in expected]
        assert cosines[row] == pytest.approx([-x for x, _ in expected], abs=1e-5)


def test_features_that_do_not_differ_have_neighbours_all_the_same():
    order, cosines = nearest(np.ones((1, 4)), np.ones((2, 4)), 3)
    assert order.shape == (1, 2) and (cosines == 0).all()


def test_queries_are_reported_and_their_neighbours_fitted():
    material = make_material()
    (asked,) = material.asked
    fold = material.prepared.index["fold"]
    found = found_neighbours(material, asked)
    assert len(found) == 2
    for each in found:
        assert fold[each.query] in SPLIT.report
        assert np.isin(fold[each.nearest], SPLIT.fitted).all()
        assert (np.diff(each.cosines) <= 0).all()
    again = found_neighbours(material, asked)
    assert [x.query for x in again] == [x.query for x in found]


def test_slips_are_small_pictures_with_records_and_labels():
    gallery = neighbour_gallery(make_material(labels=("<b>", "b")))
    for about, slips in gallery.rows:
        assert len(slips) == 4 and about.startswith("Record <b>r")
        for slip in slips:
            assert slip.png.startswith(b"\x89PNG") and len(slip.png) < 40_000
            assert "<b>" not in slip.body.replace("<b>r", "")
    words = " ".join(slip.label for _, slips in gallery.rows for slip in slips)
    assert "the query; labels: <b>" in words and "cosine" in words
