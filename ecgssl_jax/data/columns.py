"""Columns of a Parquet file as arrays, each read when it is first asked for.

Of millions of records, text is most of an index, and few programs want it.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


class ChangedFileError(Exception):
    """A file that is not the one that its hash was taken of."""


class Columns(Mapping[str, np.ndarray]):
    """The columns of a Parquet file of N rows; lists of fixed length are [N, K].

    The file stays open: what replaces it under its name later is not read. Safe to
    use from several threads, and a copy in another process opens and checks the file
    again. Numbers are arrays that cannot be written to; text is an array of objects,
    in which equal strings are one object.
    """

    def __init__(
        self, path: Path, sha256: str, absent: Mapping[str, np.ndarray] | None = None
    ):
        """Opens the file.

        Args:
          sha256: of its content, hexadecimal.
          absent: columns to give where the file has none of that name.

        Raises:
          FileNotFoundError: there is none.
          ChangedFileError: its content has another hash.
        """
        import pyarrow.parquet

        self._arguments = (path, sha256, absent)
        self._lock = threading.Lock()
        # Not Python's own file: Arrow's threads let go of it, which aborts the process
        # where that happens while the interpreter ends.
        file = pyarrow.OSFile(str(path), "rb")
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ChangedFileError(f"{path} does not match its hash")
        self._file = pyarrow.parquet.ParquetFile(file)
        # Columns that were not asked for yet are None.
        self._columns: dict[str, np.ndarray | None] = {**(absent or {})}
        self._columns.update(dict.fromkeys(self._file.schema_arrow.names))

    def __getitem__(self, name: str) -> np.ndarray:
        import pyarrow

        with self._lock:
            column = self._columns[name]
            if column is None:
                column = self._columns[name] = self._read(name)
                # Decoding takes several times as much as it gives.
                pyarrow.default_memory_pool().release_unused()
            return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __reduce__(self):
        return Columns, self._arguments

    def _read(self, name: str) -> np.ndarray:
        import pyarrow

        table = self._file.read([name], use_threads=False)
        column = table.column(name)
        if pyarrow.types.is_string(column.type):
            # Chunk by chunk: an array of text holds 2 GB at most.
            codes = column.dictionary_encode().unify_dictionaries().combine_chunks()
            distinct = codes.dictionary.to_numpy(zero_copy_only=False)
            return distinct[codes.indices.to_numpy()]
        column = column.combine_chunks()
        if pyarrow.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            return values.reshape(len(column), column.type.list_size)
        return column.to_numpy(zero_copy_only=False)
