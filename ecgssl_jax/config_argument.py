"""The argument of a config file: --config=configs/jepa.py:ptbxl,steps=100,root=DIR.

One item is the name of a variant, out of the file's VARIANTS; all others are
KEY=VALUE and replace settings. A key with dots is a path, such as optim.warmup. In an
experiment's config, a key that the first level does not have means one of
`config.data`: root, crop.
"""

import ast
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from ecgssl_jax.experiment import EMBEDDED, Data, Experiment
from ecgssl_jax.settings import ConfigError, near


def experiment_path(key: str) -> str:
    """Where an experiment's config has this key; raises ConfigError if nowhere."""
    top = [field.name for field in dataclasses.fields(Experiment)]
    data = [field.name for field in dataclasses.fields(Data)]
    first = key.partition(".")[0]
    if first in top:
        return key
    if key in data:
        return f"data.{key}"
    raise ConfigError(f"config argument: unknown key {key!r}{near(first, top + data)}")


def split_argument(
    argument: str,
    variants: Sequence[str] = (),
    *,
    path_of: Callable[[str], str] = experiment_path,
) -> tuple[str, dict[str, Any]]:
    """-> the variant ('' for none), and the overrides: path -> value.

    Values are Python literals, and text where they are not: 1e-3, (1,2), None, 'a'.

    Args:
      path_of: key -> path, which may raise ConfigError; `str` for the key itself.

    Raises:
      ConfigError: an unknown variant, or two, or a key that no config has.
    """
    variant, overrides = "", {}
    for item in filter(None, map(str.strip, _items(argument))):
        key, equals, value = item.partition("=")
        if equals:
            overrides[path_of(key.strip())] = literal(value.strip())
            continue
        if item not in variants:
            known = near(item, variants) if variants else "; it has none"
            raise ConfigError(
                f"config argument {argument!r}: unknown variant {item!r}{known}; "
                "settings are written KEY=VALUE, such as the name of a prepared set: "
                f"name={item}"
            )
        if variant:
            raise ConfigError(
                f"config argument {argument!r}: two variants, {variant} and {item}"
            )
        variant = item
    return variant, overrides


def _items(argument: str) -> Iterator[str]:
    """Splits at commas; those within brackets belong to a value."""
    depth, first = 0, 0
    for place, character in enumerate(argument):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield argument[first:place]
            first = place + 1
    yield argument[first:]


def override(config: ConfigDict, overrides: dict[str, Any]) -> ConfigDict:
    """Sets each path of `overrides` in the config, and returns it.

    Keys that the file left out are added; `experiment.parse` checks them all.
    """
    for path, value in overrides.items():
        *parents, last = path.split(".")
        node = config
        for parent in parents:
            if parent not in node:
                node[parent] = ConfigDict()
            node = node[parent]
            if not isinstance(node, ConfigDict):
                raise ConfigError(f"config argument: {path}: {parent} has no settings")
        # A setting may change its type, such as from None to a number.
        with node.ignore_type():
            node[last] = value
    return config


def is_embedded(variant: str, overrides: dict[str, Any]) -> bool:
    """Whether an argument asks for no other data than the embedded set."""
    other = overrides.get("data.name", EMBEDDED) != EMBEDDED
    return not (variant or other or "data.mixture" in overrides)


def choose_data(
    config: ConfigDict, variant: str, overrides: dict[str, Any]
) -> ConfigDict:
    """Suits a config for the embedded set to the one that is asked for.

    The variant 'ptbxl' is probed by its superclasses. A set of one's own may have
    neither folds nor labels: it is trained on as a whole, without evaluators.
    So with a mixture. `overrides` come last.
    """
    if "data.mixture" in overrides and "data.name" in overrides:
        raise ConfigError(
            "config argument: name and mixture each say what to train on; give one"
        )
    if overrides.get("data.mixture", True) in ((), [], None):
        raise ConfigError("config argument: mixture names no set")
    if variant == "ptbxl":
        config.data.name = "ptbxl"
        config.evaluators.probe.update(data="ptbxl", task="superdiagnostic")
    elif not is_embedded(variant, overrides):
        config.data.folds = None
        config.evaluators = {}
    if "data.mixture" in overrides:
        config.data.folds = None  # Each of its sets has folds of its own.
    return override(config, overrides)


def literal(text: str) -> Any:
    """A Python literal as its value (also true and false), else the text."""
    # None is written so: 'none' is a cache.
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
