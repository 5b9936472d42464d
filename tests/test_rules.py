"""Which rule of a table a path falls under."""

import jax
import pytest

from ecgssl_jax import rules
from ecgssl_jax.settings import ConfigError


def test_first_pattern_found_in_the_path_wins():
    tree = {"a": {"kernel": 0, "bias": 0}, "b": [{"kernel": 0}]}
    table = (("a/.*kernel", 1), ("kernel$", 2), ("", 3))
    found = rules.match_rules(table, tree, what="rules")
    assert found == {"a": {"kernel": 1, "bias": 3}, "b": [{"kernel": 2}]}


def test_path_that_no_pattern_matches_is_an_error_that_names_both():
    tree = {"encoder": {"bias": 0}}
    message = r"config\.rules: no pattern matches 'encoder/bias'; found \['kernel\$'\]"
    with pytest.raises(ConfigError, match=message):
        rules.match_rules([("kernel$", 1)], tree, what="config.rules")


def test_a_path_names_fields_keys_and_indices_alike():
    tree = {"blocks": [{"kernel": 0}]}
    ((path, _),) = jax.tree_util.tree_leaves_with_path(tree)
    assert rules.path_string(path) == "blocks/0/kernel"


def test_a_pattern_that_is_no_regular_expression_is_named():
    table = [("kernel$", 1), ("(bias", 2)]
    with pytest.raises(ConfigError, match=r"here: '\(bias' is no regular expression"):
        rules.check_patterns(table, what="here")
