import pytest
from ml_collections import ConfigDict

from ecgssl_jax.config_argument import (
    choose_data,
    is_embedded,
    override,
    split_argument,
)
from ecgssl_jax.settings import ConfigError


def test_variant_and_settings_are_told_apart():
    variant, overrides = split_argument("ptbxl,steps=100", ("ptbxl", "mine"))
    assert (variant, overrides) == ("ptbxl", {"steps": 100})
    assert split_argument("", ("ptbxl",)) == ("", {})


def test_values_are_python_literals_or_text():
    _, overrides = split_argument(
        "folds=(1, 2),clip=None,cache=none,optim.warmup=2e-1,root=/data/a-b,method.separate=True"
    )
    assert overrides == {
        "data.folds": (1, 2),
        "data.clip": None,
        "data.cache": "none",
        "optim.warmup": 0.2,
        "data.root": "/data/a-b",
        "method.separate": True,
    }


def test_commas_within_brackets_belong_to_the_value():
    rates = "optim.rates=(('enc',0.0),('.*',1.0)),steps=3"
    _, overrides = split_argument(rates)
    assert overrides == {"optim.rates": (("enc", 0.0), (".*", 1.0)), "steps": 3}


@pytest.mark.parametrize("variant", ["", "ptbxl"])
def test_a_mixture_has_folds_of_its_own(variant):
    argument = """mixture=(
        {'name': 'ptbxl', 'weight': 1, 'folds': (1, 2)},
        {'name': 'mine', 'weight': 2})"""
    _, overrides = split_argument(argument)
    assert not is_embedded(variant, overrides)
    config = ConfigDict({"data": {"folds": (1,)}, "evaluators": {"probe": {}}})
    config = choose_data(config, variant, overrides)
    assert config.data.folds is None
    # The variant says what is probed.
    assert bool(config.evaluators) == (variant == "ptbxl")
    first, second = config.data.mixture
    assert first == {"name": "ptbxl", "weight": 1, "folds": (1, 2)}
    assert second == {"name": "mine", "weight": 2}


@pytest.mark.parametrize("empty", ["()", "[]", "None"])
def test_a_mixture_of_nothing_is_refused(empty):
    _, overrides = split_argument(f"mixture={empty}")
    with pytest.raises(ConfigError, match="mixture names no set"):
        choose_data(ConfigDict(), "", overrides)


def test_a_name_beside_a_mixture_is_refused():
    _, overrides = split_argument("name=mine,mixture=({'name':'a'},{'name':'b'})")
    config = ConfigDict({"data": {"folds": None}, "evaluators": {}})
    with pytest.raises(ConfigError, match="name and mixture each"):
        choose_data(config, "", overrides)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("ptbx", "unknown variant 'ptbx'; did you mean 'ptbxl'"),
        ("ptbxl,mine", "two variants, ptbxl and mine"),
        ("stesp=3", "unknown key 'stesp'; did you mean 'steps'"),
        ("rooot=DIR", "unknown key 'rooot'; did you mean 'root'"),
    ],
)
def test_what_is_not_known_is_named_with_a_near_match(argument, message):
    with pytest.raises(ConfigError, match=message):
        split_argument(argument, ("ptbxl", "mine"))


def test_override_replaces_changes_types_and_adds_what_the_file_left_out():
    config = ConfigDict({"steps": 5, "data": {"clip": None, "folds": (1, 2)}})
    overrides = {"steps": 7, "data.clip": 2.5, "data.folds": None, "mesh.fsdp": 2}
    assert override(config, overrides).to_dict() == {
        "steps": 7,
        "data": {"clip": 2.5, "folds": None},
        "mesh": {"fsdp": 2},
    }


def test_a_path_below_a_value_is_an_error():
    with pytest.raises(ConfigError, match="steps has no settings"):
        override(ConfigDict({"steps": 5}), {"steps.more": 1})
