"""The files of a prepared set: shards, index, metadata."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgssl_jax.data import example, prepared
from ecgssl_jax.leads import LEADS

# One record per chunk and no compression: a random read is one copy, and the
# checksum that array_record keeps of every chunk is that of one record.
WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A shard that was written.

    Attributes:
      entry: of the shard in the metadata.
      digests: SHA-256 of every record, one after the other.
      sums: [3, C] int64, count, sum and sum of squares of the valid samples of each
        lead, in int16 steps: exact, so that the statistics do not depend on how the
        records were divided among shards.
    """

    entry: dict[str, Any]
    digests: bytes
    sums: np.ndarray


def tfds_name(name: str) -> str:
    """The name as TFDS allows it: lower case, digits and underscores."""
    cleaned = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return cleaned if cleaned[:1].isalpha() else f"set_{cleaned}"


def shard_file(name: str, shard: int, count: int) -> str:
    """The file name that TFDS expects of a shard."""
    return f"{tfds_name(name)}-train.array_record-{shard:05d}-of-{count:05d}"


def write_shard(
    path: Path,
    scratch: Sequence[tuple[Path, np.ndarray]],
    shape: tuple[int, int],
    columns: Mapping[str, Sequence],
    first_row: int,
) -> Written:
    """Writes one shard and removes the scratch files it came from.

    Args:
      path: of the shard.
      scratch: files of int16 signals, each with the records to take from it.
      shape: (T, C) of a signal.
      columns: the index's columns for the records of this shard.
      first_row: position of the first of them in the set.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    digests, sums = [], np.zeros((3, shape[1]), np.int64)
    writer = array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)
    position = 0
    for file, rows in scratch:
        signals = np.memmap(file, "<i2", "r").reshape(-1, *shape)
        for row in rows:
            features: dict[str, Any] = {"record": [first_row + position]}
            for name, values in columns.items():
                features[name] = _feature(name, values[position])
            message = example.encode(signals[row].tobytes(), features)
            digests.append(hashlib.sha256(message).digest())
            writer.write(message)
            ecg = signals[row, : columns["length"][position]].astype(np.int64)
            counts = np.full(shape[1], len(ecg))
            moments = np.stack([counts, ecg.sum(axis=0), (ecg * ecg).sum(axis=0)])
            sums += moments * columns["lead_valid"][position]
            position += 1
        del signals
        file.unlink()
    writer.close()
    entry = {
        "file": path.name,
        "num_records": position,
        "num_bytes": path.stat().st_size,
    }
    return Written(entry=entry, digests=b"".join(digests), sums=sums)


def describe(written: Sequence[Written], scale: float) -> dict[str, Any]:
    """Statistics of all shards, their entries, and the hash of all records.

    Args:
      scale: millivolts of one int16 step.
    """
    digest = hashlib.sha256()
    for each in written:
        digest.update(each.digests)
    sums = np.sum([each.sums for each in written], axis=0)
    return {
        "statistics": _statistics(sums, scale),
        "shards": [each.entry for each in written],
        "records_sha256": digest.hexdigest(),
    }


def _statistics(sums: np.ndarray, scale: float) -> dict[str, list[float]]:
    """Mean and standard deviation of each lead, millivolts, from `Written.sums`."""
    count, total, squares = sums.astype(np.float64)
    # A lead that no record has: mean 0 and deviation 1 leave its zeros alone.
    mean = total / np.maximum(count, 1)
    variance = squares / np.maximum(count, 1) - mean**2
    std = np.where(variance > 0, np.sqrt(np.maximum(variance, 0)) * scale, 1.0)
    return {"mean": (mean * scale).tolist(), "std": std.tolist()}


def _feature(name: str, value: Any) -> bytes | list[int]:
    if isinstance(value, str):
        return value.encode()
    if name in ("labels", "labels_valid"):
        return value.tobytes()
    return np.atleast_1d(value).tolist()


def columns_sha256(columns: Mapping[str, np.ndarray]) -> str:
    """Of names, types and values, whatever file they are written to."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = np.asarray(columns[name])
        if values.dtype.kind in "OUT":
            digest.update(f"{name} text {len(values)}\n".encode())
            for value in values:
                encoded = str(value).encode()
                digest.update(f"{len(encoded)}\n".encode() + encoded)
        else:
            digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def write_index(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes the columns as Parquet; [N, K] arrays become lists of length K."""
    import pyarrow
    import pyarrow.parquet

    table = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            if values.shape[1] == 0:
                continue  # Parquet has no lists of length zero
            flat = pyarrow.array(values.reshape(-1))
            table[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            table[name] = pyarrow.array(values)
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def write_tfds_metadata(
    directory: Path,
    name: str,
    *,
    length: int,
    num_labels: int,
    shards: Sequence[Mapping[str, Any]],
    description: str,
) -> None:
    """Writes features.json and dataset_info.json, so that TFDS opens the folder."""
    import tensorflow_datasets as tfds
    from etils import epath

    scalar, text = tfds.features.Scalar, tfds.features.Text

    def raw(dtype, *shape):
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    features = tfds.features.FeaturesDict(
        {
            "ecg": raw(np.int16, length, len(LEADS)),
            "lead_valid": tfds.features.Tensor(shape=(len(LEADS),), dtype=np.bool_),
            "length": scalar(np.int32),
            "offset": scalar(np.int32),
            "record": scalar(np.int32),
            "record_id": text(),
            "patient": scalar(np.int32),
            "patient_hash": text(),
            "fold": scalar(np.int32),
            "labels": raw(np.uint8, num_labels),
            "labels_valid": raw(np.uint8, num_labels),
            "text": text(),
            "signal_hash": text(),
            "attributes": text(),
        }
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(directory),
        dataset_name=tfds_name(name),
        split="train",
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[shard["num_records"] for shard in shards],
        num_bytes=sum(shard["num_bytes"] for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=[split],
        version=prepared.VERSION,
        filename_template=template,
        check_data=False,
        description=description,
    )
