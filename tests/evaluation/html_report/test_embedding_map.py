"""Maps: what is alike lies together, whatever is drawn."""

import dataclasses

import numpy as np
import pytest

from ecgssl_jax.evaluation.html_report.embedding_map import (
    coloured_task,
    heartlands,
    map_picture,
    rarest_classes,
    single_classes,
    two_dimensions,
)
from tests.evaluation.html_report.material import make_material


def clusters(records=90, width=8, apart=8.0):
    rng = np.random.default_rng(0)
    kind = np.arange(records) % 3
    middle = apart * np.eye(3, width)[kind]
    return (middle + rng.normal(size=(records, width))).astype(np.float32), kind


def test_records_that_are_alike_lie_together():
    features, kind = clusters()
    places = two_dimensions(features, seed=0)
    assert places.shape == (90, 2) and np.isfinite(places).all()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (kind[distance.argmin(axis=1)] == kind).all()


def test_a_seed_gives_one_map():
    features, _ = clusters()
    one, again = (two_dimensions(features, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    "features",
    [
        np.zeros((50, 4), np.float32),
        np.ones((5, 4), np.float32) * np.arange(5, dtype=np.float32)[:, None],
        np.arange(50, dtype=np.float32)[:, None],
        np.repeat(np.eye(4, dtype=np.float32), 20, axis=0),
    ],
    ids=["constant", "few", "one dimension", "few different ones"],
)
def test_features_that_make_no_map_have_none(features):
    assert two_dimensions(features, seed=0) is None


def test_only_records_of_one_frequent_class_are_coloured():
    material = make_material()
    asked = coloured_task(material)
    rows = np.arange(len(asked.rows))
    kinds, names = single_classes(asked, rows)
    for row, kind in enumerate(kinds):
        holds = asked.known[row] & (asked.labels[row] == 1)
        if holds.sum() == 1:
            assert names[kind] == asked.classes[int(holds.argmax())]
        else:
            assert kind == -1
    kinds, names = single_classes(asked, rows, most=1)
    assert len(names) == 1 and set(kinds) == {-1, 0}


def test_records_of_several_classes_have_the_colour_of_the_rarest():
    asked = coloured_task(make_material())
    labels = np.zeros((8, 3), np.uint8)
    labels[:7, 0] = labels[:4, 1] = labels[:2, 2] = 1
    asked = dataclasses.replace(
        asked, classes=("a", "b", "c"), labels=labels, known=np.ones((8, 3), bool)
    )
    kinds, names = rarest_classes(asked, np.arange(8))
    # What nearly all have tells nothing.
    assert names == ["b", "c"]
    assert kinds.tolist() == [1, 1, 0, 0, -1, -1, -1, -1]
    # A class whose records all have a rarer one has no dot, and no place in the legend.
    labels[:, 1] = labels[:, 2]
    kinds, names = rarest_classes(asked, np.arange(8))
    assert names == ["c"] and kinds.tolist() == [0, 0, -1, -1, -1, -1, -1, -1]


def test_a_class_is_named_where_it_is_among_its_own():
    features, kind = clusters()
    places = two_dimensions(features, seed=0)
    found = heartlands(places, kind)
    assert set(found) == {0, 1, 2}
    for own, middle in found.items():
        nearest = np.linalg.norm(places - middle, axis=1).argsort()[:10]
        assert (kind[nearest] == own).all()


def test_no_class_by_itself_is_a_map_in_grey():
    material = make_material()
    (asked,) = material.asked
    both = dataclasses.replace(asked, labels=np.ones_like(asked.labels))
    picture = map_picture(dataclasses.replace(material, asked=[both]))
    # The second label is not known of every third record.
    assert picture is not None and "others" in picture.legend[-1].text
    none = dataclasses.replace(asked, labels=np.zeros_like(asked.labels))
    picture = map_picture(dataclasses.replace(material, asked=[none]))
    (only,) = picture.legend
    assert only.text == "others (40)"
