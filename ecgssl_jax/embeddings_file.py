"""Embeddings as a file, written batch by batch: Parquet or NumPy's npz.

Both hold `record_id` and `embedding` [N, ...] float32 (and `valid` [N, ...] bool, of
tokens); Parquet has fixed-size lists, nested as the axes are, and further columns.
"""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ecgssl_jax.errors import UserError
from ecgssl_jax.output_folder import whole_file

ENDINGS = (".parquet", ".npz")

# Column -> its values, of one batch: arrays, or sequences of strings and numbers.
Columns = Mapping[str, np.ndarray | Sequence[Any]]


class Writer(Protocol):
    """Takes batches of rows; all have the same columns, of the same shapes."""

    def write(self, columns: Columns) -> None: ...


class _Shapes:
    """Refuses what no column can hold: rows of other axes than those before."""

    def __init__(self):
        self._shapes: dict[str, tuple[int, ...]] = {}

    def check(self, columns: Columns) -> None:
        for name, values in columns.items():
            if isinstance(values, np.ndarray):
                before = self._shapes.setdefault(name, values.shape[1:])
                if before != values.shape[1:]:
                    raise UserError(
                        f"column {name!r}: rows of shape {values.shape[1:]} after rows "
                        f"of {before}; recordings of different lengths have as many "
                        "tokens as they have windows, which is no table: write "
                        "--features=pooled, or prepare them as a set"
                    )


def check_ending(path: Path) -> None:
    """Raises UserError for a file of another kind."""
    if path.suffix not in ENDINGS:
        raise UserError(
            f"--output={path}: expected a file that ends with {' or '.join(ENDINGS)}"
        )


@contextlib.contextmanager
def open_writer(path: Path) -> Iterator[Writer]:
    """A writer of the file `path`, which is there once the context ends well."""
    check_ending(path)
    kind = _parquet if path.suffix == ".parquet" else _npz
    with whole_file(path) as partial, kind(partial) as writer:
        yield writer


class _Parquet:
    def __init__(self, path: Path):
        self._path = path
        self._file = None
        self._shapes = _Shapes()

    def write(self, columns: Columns) -> None:
        import pyarrow
        import pyarrow.parquet

        self._shapes.check(columns)
        table = pyarrow.table({k: _arrow(values) for k, values in columns.items()})
        if self._file is None:
            # Floats of features do not compress; what does is small.
            self._file = pyarrow.parquet.ParquetWriter(
                self._path, table.schema, compression="NONE", use_dictionary=False
            )
        self._file.write_table(table)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[_Parquet]:
    with contextlib.closing(_Parquet(path)) as writer:
        yield writer


def _arrow(values: np.ndarray | Sequence[Any]) -> Any:
    """A column of Arrow: axes but the first are fixed-size lists."""
    import pyarrow

    if not isinstance(values, np.ndarray):
        return pyarrow.array(values)
    array = pyarrow.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pyarrow.FixedSizeListArray.from_arrays(array, size)
    return array


class _Npz:
    """Each column grows in a file of its own until all are put together."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._shapes = _Shapes()
        self._lists: dict[str, list[Any]] = {}
        self._arrays: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}

    def write(self, columns: Columns) -> None:
        self._shapes.check(columns)
        for name, values in columns.items():
            if not isinstance(values, np.ndarray):
                self._lists.setdefault(name, []).extend(values)
                continue
            with (self._folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(values).data)
            *_, rows = self._arrays.get(name, (0,))
            entry = values.dtype, values.shape[1:], rows + len(values)
            self._arrays[name] = entry

    def finish(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, values in self._lists.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, np.asarray(values))
            for name, (dtype, shape, rows) in self._arrays.items():
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (rows, *shape),
                }
                with (
                    archive.open(f"{name}.npy", "w", force_zip64=True) as entry,
                    (self._folder / name).open("rb") as values,
                ):
                    np.lib.format.write_array_header_2_0(entry, header)
                    shutil.copyfileobj(values, entry, 2**20)


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[_Npz]:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        writer = _Npz(Path(folder))
        yield writer
        writer.finish(path)
