"""Tables, CSV or Parquet, row by row: they may have millions."""

import contextlib
import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecgssl_jax.data.readers.source import SourceError

# Where a row keeps the cells that it has more than there are columns.
BEYOND = "beyond the last column"


def read_columns(path: Path) -> list[str]:
    """The names of a table's columns. Raises SourceError if it cannot be read."""
    with _explained(path):
        if _is_parquet(path):
            import pyarrow.parquet

            return list(pyarrow.parquet.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file).fieldnames or ())


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, one after the other; empty cells are "".

    Raises:
      SourceError: it cannot be read.
    """
    with _explained(path):
        if _is_parquet(path):
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=1024):
                    yield from map(_filled, batch.to_pylist())
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                yield from map(_filled, csv.DictReader(file, restkey=BEYOND))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raises SourceError where reading the table fails."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not UTF-8 ({error}); save it as that, such as with "
            "iconv -f latin1 -t utf-8"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read as a table: {error}") from error


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: "" if is_empty(value) else value for name, value in row.items()}


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))
