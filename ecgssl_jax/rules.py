"""Tables of (regular expression, value) over the paths of a tree; the first match wins.

Learning rates, weight decay and shardings of parameters are such tables.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from ecgssl_jax.settings import ConfigError


def path_string(path: Sequence[Any]) -> str:
    """A tree path as 'encoder/transformer/block_0/mlp/in/kernel'."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def check_patterns(rules: Sequence[tuple[str, Any]], *, what: str) -> None:
    """Raises ConfigError for a pattern that is no regular expression."""
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"{what}: {pattern!r} is no regular expression: {error}"
            ) from error


def match_rules(rules: Sequence[tuple[str, Any]], tree: Any, *, what: str) -> Any:
    """The value of the first rule whose pattern is found in each leaf's path.

    Raises:
      ConfigError: a leaf that no pattern matches, by its path.
    """

    def value(path, _):
        name = path_string(path)
        for pattern, found in rules:
            if re.search(pattern, name):
                return found
        raise ConfigError(
            f"{what}: no pattern matches {name!r}; found "
            f"{[pattern for pattern, _ in rules]}; end the table with ('.*', ...)"
        )

    return jax.tree_util.tree_map_with_path(value, tree)
