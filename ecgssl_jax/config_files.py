"""A config from the command line: --config=FILE[:ARGUMENT] --config.KEY=VALUE.

A config file is Python with a function `get_config(argument='')` that returns an
ml_collections.ConfigDict. Flags replace its settings, whether the file names them
or leaves them at their defaults.
"""

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ecgssl_jax.config_argument import literal, override
from ecgssl_jax.settings import ConfigError

_PREFIX = "--config."


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """-> the arguments without the --config.KEY ones, and those as path -> value.

    Both --config.optim.clip_norm=1 and --config.optim.clip_norm 1 are understood.
    Values are Python literals, and text where they are not.

    Raises:
      ConfigError: a key without a value.
    """
    rest, overrides = [], {}
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith(_PREFIX):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix(_PREFIX).partition("=")
        if not equals:
            value = next(arguments, "--")
        if not key or (not equals and value.startswith("--")):
            raise ConfigError(f"{argument}: expected --config.KEY=VALUE")
        overrides[key] = literal(value)
    return rest, overrides


def load(spec: str | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config of 'FILE' or 'FILE:ARGUMENT' as nested dictionaries.

    Without a file it is what the overrides say.

    Raises:
      ConfigError: no such file, nothing in it that makes a config, an argument that
        the file rejects or misses, or an override of what has no settings.
    """
    config = ConfigDict() if spec is None else _made(spec)
    return _plain(override(config, dict(overrides)).to_dict())


def _made(spec: str) -> ConfigDict:
    """What the file's function returns."""
    name, _, argument = spec.partition(":")
    path = Path(name)
    module_spec = importlib.util.spec_from_file_location("config", path)
    if not path.is_file() or module_spec is None or module_spec.loader is None:
        near = sorted(str(p) for p in path.parent.glob("*.py"))
        raise ConfigError(
            f"--config={name}: no such Python file; {path.parent} has "
            f"{', '.join(near) or 'none'}"
        )
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"--config={name}: the file has no function get_config")
    arguments = [argument] if argument else []
    _check_call(get_config, arguments, name)
    try:
        config = get_config(*arguments)
    except ConfigError as error:
        raise ConfigError(f"--config={spec}: {error}") from error
    if not isinstance(config, ConfigDict | Mapping):
        raise ConfigError(
            f"--config={spec}: get_config returned {config!r}; expected an "
            "ml_collections.ConfigDict"
        )
    if not isinstance(config, ConfigDict):
        config = ConfigDict(config)
    return config


def _plain(value: Any) -> Any:
    """Dictionaries for ConfigDicts, also within sequences, where to_dict looks not."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def _check_call(get_config: Callable, arguments: Sequence[str], name: str) -> None:
    """Raises ConfigError unless the function can be called with the arguments."""
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        if arguments:
            raise ConfigError(
                f"--config={name}:{arguments[0]}: the file takes no argument, as its "
                "get_config() has no parameter; settings are changed by "
                "--config.KEY=VALUE"
            ) from error
        raise ConfigError(
            f"--config={name}: the file needs an argument: --config={name}:ARGUMENT, "
            "or a default of get_config's parameter"
        ) from error
