"""From nested mappings (a config) to frozen dataclasses, with errors that help."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from ecgssl_jax.errors import UserError

T = TypeVar("T")


class ConfigError(UserError, ValueError):
    """A config that cannot be run; says which key, what was found, what to change."""


def near(name: Any, known: Sequence[str]) -> str:
    """'; did you mean ...?' if a known name is close, else the known names."""
    small = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), list(small), n=1)
    if close:
        return f"; did you mean {small[close[0]]!r}?"
    return f"; known are {', '.join(sorted(known))}"


def build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    """The dataclass `cls` with the fields that `values` gives.

    Args:
      cls: a dataclass; its annotations say which values are right.
      values: field name -> value; fields left out keep their defaults.
      path: where these values stand, for messages: 'config.optim'.

    Raises:
      ConfigError: an unknown key, a missing one, or a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise ConfigError(f"{path}: unknown key {key!r}{near(key, list(fields))}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ConfigError(f"{path}.{name} is missing; it has no default")
    kwargs = {
        key: convert(hints[key], value, f"{path}.{key}")
        for key, value in values.items()
    }
    try:
        return cls(**kwargs)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def changes(before: Any, after: Any, path: str = "config") -> Iterator[str]:
    """Yields 'PATH: OLD -> NEW' for every setting that differs; lists are tuples.

    Lists of one length differ by their items.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            yield from changes(before.get(key), after.get(key), f"{path}.{key}")
    elif _same_length(before, after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from changes(*pair, f"{path}[{number}]")
    elif _as_lists(before) != _as_lists(after):
        yield f"{path}: {before!r} -> {after!r}"


def _same_length(before: Any, after: Any) -> bool:
    both = all(isinstance(each, tuple | list) for each in (before, after))
    return both and len(before) == len(after)


def _as_lists(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_lists(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type; raises ConfigError where it is of another."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            first = dataclasses.fields(hint)[0].name
            raise _wrong(path, value, f"a mapping, such as {{{first!r}: ...}}")
        return build(hint, value, path)  # type: ignore[type-var]
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is Literal:
        if value not in args:
            raise _wrong(path, value, " or ".join(map(repr, args)))
        return value
    if origin is tuple:
        return _convert_tuple(args, value, path)
    if origin in (Mapping, dict, typing.get_origin(Mapping[str, Any])):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "a mapping")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(path, value, hint.__name__)
    return value


def _convert_union(options: Sequence[Any], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return convert(option, value, path)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _convert_tuple(args: Sequence[Any], value: Any, path: str) -> tuple:
    if isinstance(value, str) or not isinstance(value, Sequence):
        example = "('a',) or ('a', 'b')" if args[0] is str else "(1,) or (0.5, 1.0)"
        raise _wrong(path, value, f"a sequence, such as {example}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(convert(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if len(value) != len(args):
        raise _wrong(path, value, f"{len(args)} values")
    return tuple(
        convert(hint, v, f"{path}[{i}]")
        for i, (hint, v) in enumerate(zip(args, value, strict=True))
    )


def _wrong(path: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        f"{path}: expected {expected}, found {value!r} ({type(value).__name__})"
    )
