"""Prepared data sets: opening them, their index, and reading signals from them.

A prepared set is a TFDS data set in `<root>/<name>/1.0.0/`: array_record shards
of one split, `train`, with `features.json` and `dataset_info.json`. Beside them

    metadata.json   rate, unit, scale, leads, labels, statistics, settings, hashes
    index.parquet   everything but the signals
    quality.csv     what the quality pass found
    vocabulary.model   sub-word vocabulary of the reports, where there are any

so that opening a set reads no signal and needs neither TFDS nor TensorFlow.
"""

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.data import example
from ecgssl_jax.data.columns import ChangedFileError, Columns
from ecgssl_jax.errors import UserError

VERSION = "1.0.0"
METADATA = "metadata.json"
MARKER = f"{VERSION}/{METADATA}"  # what every prepared set holds
INDEX = "index.parquet"
QUALITY = "quality.csv"
VOCABULARY = "vocabulary.model"
# 32 records of 12 x 5000 samples stay in the CPU's cache between the reader and
# the copy; larger requests are slower per record.
_RECORDS_PER_READ = 32


class DamagedSetError(UserError):
    """A prepared set whose files do not match each other or their checksums."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSet:
    """An opened prepared set of N records.

    Attributes:
      name: of the set.
      directory: the version folder.
      rate: sampling rate, Hz.
      scale: millivolts of one int16 step.
      leads: the C = 12 lead names.
      labels: the Y label names.
      mean: [C] float64, millivolts, over valid samples of valid leads.
      std: [C] float64, millivolts, likewise.
      length: T, samples of a stored record; shorter ones are padded with zeros.
      num_records: N.
      label_table: further facts about a label, by its name.
      index: columns of N entries, each read when it is first asked for: record_id,
        patient_hash, signal_hash (equal for equal signals), text, attributes (JSON) as
        objects; patient, fold, length, offset int32; lead_valid [N, C] bool; labels,
        labels_valid [N, Y] uint8.
      metadata: all of metadata.json.
    """

    name: str
    directory: Path
    rate: float
    scale: float
    leads: tuple[str, ...]
    labels: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    length: int
    num_records: int
    label_table: Mapping[str, Mapping[str, Any]]
    index: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]

    def __len__(self) -> int:
        return self.num_records

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The signals of `rows`, in that order.

        Safe to call from several threads.

        Returns:
          [n, T, C] int16, in steps of `scale` millivolts.

        Raises:
          IndexError: a row outside 0..N-1.
          DamagedSetError: a checksum does not match; names file and record.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not (0 <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"{self.name} has rows 0 to {len(self) - 1}: {rows}")
        out = np.empty((len(rows), self.length, len(self.leads)), np.int16)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            (where,) = np.nonzero(shards == shard)
            for start in range(0, len(where), _RECORDS_PER_READ):
                part = where[start : start + _RECORDS_PER_READ]
                self._read_shard(shard, rows[part], part, out)
        return out

    def load(self) -> np.ndarray:
        """All signals: [N, T, C] int16, in steps of `scale` millivolts."""
        return self.read(np.arange(len(self)))

    def _read_shard(self, shard, rows, where, out):
        positions = (rows - self._starts[shard]).tolist()
        reader = self._reader(shard)
        try:
            messages = reader.read(positions)
        except RuntimeError as error:
            self._raise_damage(shard, rows, error)
        count = self.length * len(self.leads)
        for place, row, message in zip(where, rows, messages, strict=True):
            try:
                signal = example.signal_view(message, self._signal_header, count)
            except ValueError as error:
                self._raise_damage(shard, [row], error)
            out[place] = signal.reshape(out.shape[1:])

    def _raise_damage(self, shard, rows, error):
        """Finds the first damaged record among `rows` and raises its error."""
        reader = self._reader(shard)
        for row in rows:
            try:
                reader.read([int(row - self._starts[shard])])
            except RuntimeError as first:
                error = first
                break
        else:
            row = rows[0]
        raise DamagedSetError(
            f"{self._shard_path(shard)}: row {row} (record "
            f"{self.index['record_id'][row]!r}) is damaged: {error}. Prepare the set "
            "again, or restore this file from a copy."
        ) from error

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        lengths = [shard["num_records"] for shard in self.metadata["shards"]]
        return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    @functools.cached_property
    def _signal_header(self) -> bytes:
        return example.signal_header(2 * self.length * len(self.leads))

    @functools.cached_property
    def _readers(self) -> dict[int, Any]:
        return {}

    @functools.cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    def _shard_path(self, shard: int) -> Path:
        return self.directory / self.metadata["shards"][shard]["file"]

    def _reader(self, shard: int):
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

        with self._lock:
            if shard not in self._readers:
                path = self._shard_path(shard)
                reader = array_record_module.ArrayRecordReader(
                    str(path),
                    options="readahead_buffer_size:0",
                    file_reader_buffer_size=32768,
                )
                expected = self.metadata["shards"][shard]["num_records"]
                # A truncated file opens without a word, and empty.
                if reader.num_records() != expected:
                    raise DamagedSetError(
                        f"{path}: {reader.num_records()} records where metadata.json "
                        f"announces {expected}. Prepare the set again, or restore "
                        "this file from a copy."
                    )
                self._readers[shard] = reader
            return self._readers[shard]

    def __getstate__(self):
        # Readers and locks stay with their process.
        return {field.name: getattr(self, field.name) for field in _FIELDS}


_FIELDS = dataclasses.fields(PreparedSet)


def open_prepared(path: str | Path) -> PreparedSet:
    """Opens the prepared set in `<root>/<name>` or in its version folder.

    Raises:
      FileNotFoundError: there is none; names the command that prepares it.
      DamagedSetError: metadata or index missing or changed since the set was
        written, or a shard missing or of another size; its records are checked when
        they are read. The other files, which nothing here reads, are not looked at.
    """
    path = Path(path)
    directory = path if path.name == VERSION else path / VERSION
    if not (directory / METADATA).exists():
        if directory.exists():
            raise DamagedSetError(
                f"{directory} has no {METADATA}: not a prepared set, or a damaged one"
            )
        root = directory.parent
        raise FileNotFoundError(
            f"no prepared data set in {root}. Prepare it with\n"
            f"  python -m ecgssl_jax.prepare SOURCE --output={root}\n"
            "where SOURCE is ptbxl, wfdb, manifest, array or synthetic with its flags "
            "(python -m ecgssl_jax.prepare --help)"
        )
    metadata = read_metadata(directory)
    return PreparedSet(
        name=metadata["name"],
        directory=directory,
        rate=metadata["rate"],
        scale=metadata["scale"],
        leads=tuple(metadata["leads"]),
        labels=tuple(metadata["labels"]),
        mean=np.array(metadata["statistics"]["mean"], np.float64),
        std=np.array(metadata["statistics"]["std"], np.float64),
        length=metadata["length"],
        num_records=metadata["num_records"],
        label_table=metadata["label_table"],
        index=open_index(directory, metadata),
        metadata=metadata,
    )


# Of the metadata, what two sets of the same content may differ in: it is of the files, or
# of the versions of the libraries that wrote them.
_NO_CONTENT = (
    "package_version",
    "shards",
    "findings",
    "index_sha256",
    "quality_sha256",
)
_HASHES = ("content_hash", "metadata_sha256")


def write_metadata(directory: Path, metadata: Mapping[str, Any]) -> None:
    """Writes metadata.json, with the hashes of the files beside it and two more.

    `metadata_sha256` is of metadata.json itself. `content_hash` is equal for two sets
    exactly if they are the same, wherever they were prepared: it covers signals and
    index through `records_sha256` and `columns_sha256`, which the metadata hold.
    """
    hashes = {
        f"{Path(name).stem}_sha256": _file_hash(directory / name)
        for name in (INDEX, QUALITY, VOCABULARY)
        if name != VOCABULARY or (directory / name).exists()
    }
    # Through JSON once, so that tuples and NumPy numbers hash as they load.
    body = json.loads(json.dumps({**metadata, **hashes}))
    body["content_hash"] = _hash_without(body, *_NO_CONTENT, *_HASHES)
    body["metadata_sha256"] = _hash_without(body, "metadata_sha256")
    text = json.dumps(body, indent=1, ensure_ascii=False)
    (directory / METADATA).write_text(text, encoding="utf-8")


def _hash_without(metadata: Mapping[str, Any], *keys: str) -> str:
    body = {key: value for key, value in metadata.items() if key not in keys}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_metadata(directory: Path) -> dict[str, Any]:
    """metadata.json of a version folder, checked against itself and the shards."""
    path = directory / METADATA
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        expected = metadata["metadata_sha256"]
        intact = _hash_without(metadata, "metadata_sha256") == expected
    except KeyError as error:
        raise DamagedSetError(
            f"{path} was written by another version of this package. Prepare the set "
            "again."
        ) from error
    except (ValueError, TypeError) as error:
        raise DamagedSetError(f"{path} is damaged ({error!r})") from error
    if not intact:
        raise DamagedSetError(
            f"{path} was changed after the set was prepared. Prepare the set again."
        )
    for shard in metadata["shards"]:
        file = directory / shard["file"]
        size = file.stat().st_size if file.exists() else None
        if size != shard["num_bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DamagedSetError(
                f"{file} {found}, expected {shard['num_bytes']} bytes. Prepare the set "
                "again, or restore this file from a copy."
            )
    return metadata


def open_index(directory: Path, metadata: Mapping[str, Any]) -> Columns:
    """index.parquet, checked against its hash; see `PreparedSet.index`."""
    path = directory / INDEX
    # Parquet has no lists of length zero.
    empty = np.zeros((metadata["num_records"], 0), np.uint8)
    try:
        return Columns(
            path, metadata["index_sha256"], {"labels": empty, "labels_valid": empty}
        )
    except FileNotFoundError:
        raise DamagedSetError(f"{path} is missing. Prepare the set again.") from None
    except ChangedFileError:
        raise DamagedSetError(
            f"{path} does not match its hash in {METADATA}. Prepare the set again."
        ) from None
