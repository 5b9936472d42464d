"""Mappings to dataclasses: what is accepted, and messages with the full key path."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict

from ecgssl_jax.settings import ConfigError, build, changes, near


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    kind: Literal["one", "two"] = "one"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    name: str = "x"
    flag: bool = False
    inner: Inner = Inner()
    pair: tuple[float, float] = (0.0, 1.0)
    table: tuple[tuple[str, float], ...] = ()
    clip: float | None = None
    free: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be positive, found {self.steps}")


def _build(**values):
    return build(Outer, {"steps": 3, **values}, "config.outer")


def test_values_take_their_place_and_the_rest_its_default():
    found = _build(inner=dict(kind="two"), pair=[2, 0.5], table=[["a", 1]], clip=3)
    assert found == Outer(
        steps=3,
        inner=Inner(kind="two"),
        pair=(2.0, 0.5),
        table=(("a", 1.0),),
        clip=3.0,
    )


def test_whole_numbers_become_floats_where_floats_are_asked_for():
    found = _build(inner=dict(rate=2), pair=(0, 1), clip=1)
    for value in (found.inner.rate, *found.pair, found.clip):
        assert isinstance(value, float)


def test_config_dict_is_read_like_a_mapping():
    config = ConfigDict(dict(steps=2, inner=dict(rate=0.5), pair=(1.0, 2.0)))
    config.inner.kind = "two"
    expected = Outer(steps=2, inner=Inner(rate=0.5, kind="two"), pair=(1.0, 2.0))
    assert build(Outer, config.to_dict(), "config") == expected


def test_optional_value_may_be_none():
    assert _build(clip=None).clip is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            dict(stepss=1),
            r"^config\.outer: unknown key 'stepss'; did you mean 'steps'\?",
        ),
        (dict(zzz=1), r"^config\.outer: unknown key 'zzz'; known are clip, flag, free"),
        (
            dict(inner=dict(rat=1)),
            r"^config\.outer\.inner: unknown key 'rat'; did you mean 'rate'\?",
        ),
        (
            dict(steps="3"),
            r"^config\.outer\.steps: expected int, found '3' \(str\)",
        ),
        (
            dict(steps=True),
            r"^config\.outer\.steps: expected int, found True \(bool\)",
        ),
        (
            dict(steps=1.0),
            r"^config\.outer\.steps: expected int, found 1\.0 \(float\)",
        ),
        (
            dict(flag=1),
            r"^config\.outer\.flag: expected bool, found 1 \(int\)",
        ),
        (
            dict(inner=dict(rate="fast")),
            r"^config\.outer\.inner\.rate: expected float, found 'fast' \(str\)",
        ),
        (
            dict(inner=dict(rate=False)),
            r"^config\.outer\.inner\.rate: expected float, found False \(bool\)",
        ),
        (
            dict(inner=3),
            r"^config\.outer\.inner: expected a mapping, such as {'rate': ...}, found 3",
        ),
        (
            dict(inner=dict(kind="three")),
            r"^config\.outer\.inner\.kind: expected 'one' or 'two', found 'three'",
        ),
        (
            dict(pair=(1.0,)),
            r"^config\.outer\.pair: expected 2 values, found \(1\.0,\)",
        ),
        (
            dict(pair=(1.0, 2.0, 3.0)),
            r"^config\.outer\.pair: expected 2 values",
        ),
        (
            dict(pair=(1.0, "2")),
            r"^config\.outer\.pair\[1\]: expected float, found '2'",
        ),
        (
            dict(pair="12"),
            r"^config\.outer\.pair: expected a sequence, such as .*, found '12'",
        ),
        (
            dict(table=[("a", 1.0), ("b", None)]),
            r"^config\.outer\.table\[1\]\[1\]: expected float, found None",
        ),
        (dict(clip="no"), r"^config\.outer\.clip: expected float.*found 'no'"),
        (dict(free=[1]), r"^config\.outer\.free: expected a mapping, found \[1\]"),
        (dict(steps=0), r"^config\.outer: steps must be positive, found 0"),
    ],
)
def test_wrong_value_is_an_error_with_its_full_key(values, message):
    with pytest.raises(ConfigError, match=message):
        _build(**values)


def test_missing_key_is_an_error_with_its_full_key():
    with pytest.raises(ConfigError, match=r"^config\.outer\.steps is missing"):
        build(Outer, {}, "config.outer")


def test_near_suggests_a_name_only_where_one_is_close():
    assert near("widht", ["width", "depth"]) == "; did you mean 'width'?"
    assert near("avr", ["aVR", "V1"]) == "; did you mean 'aVR'?"
    assert near("foo", ["width", "depth"]) == "; known are depth, width"
    assert near(None, ["width"]) == "; known are width"


def test_changes_name_every_setting_that_differs():
    before = {"steps": 3, "optim": {"rate": [1, 2], "clip": None}, "gone": 1}
    after = {"steps": 4, "optim": {"rate": (1, 2), "clip": 1.0}, "new": "x"}
    assert list(changes(before, after)) == [
        "config.steps: 3 -> 4",
        "config.optim.clip: None -> 1.0",
        "config.gone: 1 -> None",
        "config.new: None -> 'x'",
    ]


def test_a_config_has_not_changed_by_being_read_from_json():
    config = {"table": ((1, 2), (3, 4)), "inner": {"pair": (0.1, None)}}
    assert list(changes(json.loads(json.dumps(config)), config)) == []


def test_lists_and_tuples_are_the_same_at_any_depth():
    view = (("random_resized_crop", 1.0, {"scale": (0.5, 1.0)}),)
    saved = json.loads(json.dumps({"views": (view, view)}))
    assert not list(changes(saved, {"views": (view, view)}))
    other = (("random_resized_crop", 1.0, {"scale": (0.4, 1.0)}),)
    assert list(changes(saved, {"views": (view, other)}))
