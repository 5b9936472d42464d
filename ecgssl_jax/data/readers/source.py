"""What a reader hands to `writing.prepare_dataset`: a source of records."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.errors import UserError

T = TypeVar("T")
# A record by its name, or the reason why it cannot be read.
Reading: TypeAlias = tuple[str, Record | RecordError]
# Reads a few records; picklable, because worker processes call it.
Task: TypeAlias = Callable[[], Iterator[Reading]]

RECORDS_PER_TASK = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Recordings that are yet to be read.

    Attributes:
      description: what they are and where they came from, for the metadata.
      tasks: each reads some of the records; in order, they are the whole source. They
        may be made while they are taken, and are the same when taken again.
      num_records: how many readings all tasks yield together.
      rates: every sampling rate that occurs, Hz; none where nobody asked for them.
      labels: names of the labels, in the order of the label axis.
      label_table: further facts about a label, by its name.
      notes: sentences about it that its user should read before preparing it.
    """

    description: str
    tasks: Iterable[Task]
    num_records: int
    rates: tuple[float, ...]
    labels: tuple[str, ...] = ()
    label_table: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    notes: tuple[str, ...] = ()


class SourceError(UserError, ValueError):
    """A source that cannot be used as a whole, or was described wrongly."""


def split(items: Sequence, size: int = RECORDS_PER_TASK) -> list[Sequence]:
    """Consecutive pieces of at most `size` items."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_parts(items: Iterable[T], size: int = RECORDS_PER_TASK) -> Iterator[list[T]]:
    """Consecutive pieces of at most `size` items, of which one is held at a time."""
    items = iter(items)
    while part := list(itertools.islice(items, size)):
        yield part


def printable(name: str) -> str:
    """A file's name as UTF-8 can hold it; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
