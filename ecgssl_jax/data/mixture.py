"""Several prepared sets as one, and which of them each row of a run comes from.

The records are numbered through: those of the second set follow those of the first.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.settings import ConfigError

# Rows after which the sequence of sources repeats; a set's share is a multiple of
# one in so many.
_PERIOD = 2**16
# Records read at a time into a common array.
_RECORDS_PER_READ = 4096


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """The records that a run is trained on, of S prepared sets, N in all.

    Attributes:
      sets: of one sampling rate and the same leads.
      rows: of each set, [R_s] int64: those to train on.
      weights: of each set, its share of the batches' rows, in any unit.
    """

    sets: tuple[PreparedSet, ...]
    rows: tuple[np.ndarray, ...]
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        first, *others = self.sets
        for other in others:
            if other.rate != first.rate:
                raise ConfigError(
                    f"config.data.mixture: {first.name} has {first.rate:g} Hz, "
                    f"{other.name} {other.rate:g} Hz; prepare one of them with the "
                    "other's --rate"
                )
            if other.leads != first.leads:
                raise ConfigError(
                    f"config.data.mixture: {first.name} has the leads {first.leads}, "
                    f"{other.name} {other.leads}"
                )

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @property
    def rate(self) -> float:
        """Sampling rate, Hz."""
        return self.sets[0].rate

    @property
    def leads(self) -> tuple[str, ...]:
        """The C lead names."""
        return self.sets[0].leads

    @property
    def length(self) -> int:
        """T, samples of the longest stored record."""
        return max(prepared.length for prepared in self.sets)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each set, the share of the batches' rows; they add up to 1."""
        counts = _slot_counts(self.weights)
        return tuple(counts / counts.sum())

    @functools.cached_property
    def first(self) -> np.ndarray:
        """[S] int64: the number of each set's first record."""
        return np.cumsum([0, *map(len, self.sets[:-1])])

    @functools.cached_property
    def records(self) -> np.ndarray:
        """[R] int64: numbers of the records to train on, set after set."""
        pairs = zip(self.first, self.rows, strict=True)
        return np.concatenate([first + rows for first, rows in pairs])

    @functools.cached_property
    def patients(self) -> np.ndarray:
        """[N] int32: numbers of the patients; no two sets share one."""
        found, start = [], 0
        for prepared in self.sets:
            patients = prepared.index["patient"]
            found.append(patients + start)
            start += int(patients.max(initial=-1)) + 1
        return np.concatenate(found).astype(np.int32)

    def column(self, name: str) -> np.ndarray:
        """A column of the sets' indices, of N entries."""
        return np.concatenate([prepared.index[name] for prepared in self.sets])

    def read(self, records: np.ndarray) -> np.ndarray:
        """The signals of these records, in their order.

        Safe to call from several threads.

        Returns:
          [n, T, C] int16, in steps of each set's `scale`; zeros after the records of
          sets that store fewer samples than others.

        Raises:
          DamagedSetError: a checksum does not match; names file and record.
        """
        if len(self.sets) == 1:
            return self.sets[0].read(records)
        out = np.zeros((len(records), self.length, len(self.leads)), np.int16)
        sources = np.searchsorted(self.first, records, side="right") - 1
        for source, prepared in enumerate(self.sets):
            where = np.flatnonzero(sources == source)
            for start in range(0, len(where), _RECORDS_PER_READ):
                part = where[start : start + _RECORDS_PER_READ]
                signals = prepared.read(records[part] - self.first[source])
                out[part, : prepared.length] = signals
        return out


def even_slots(weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """One period of the sequence that says which source each row comes from.

    The slots of each source are laid out at even distances, so that any stretch of
    rows, and each batch, holds nearly its share of each: a low-discrepancy sequence.

    Returns:
      source [P] int32, and rank [P] int64: how many slots before it in the period
      belong to the same source.
    """
    if len(weights) == 1:
        return np.zeros(1, np.int32), np.zeros(1, np.int64)
    counts = _slot_counts(weights)
    sources = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((ranks + 0.5) / counts[sources], kind="stable")
    return sources[order], ranks[order]


def _slot_counts(weights: Sequence[float]) -> np.ndarray:
    """[S] int64: of one period, the slots of each source, at least one."""
    shares = np.asarray(weights) / sum(weights)
    return np.maximum(np.rint(shares * _PERIOD), 1).astype(int)


def select_records(
    prepared: PreparedSet,
    folds: tuple[int, ...] | None,
    *,
    path: str = "config.data.folds",
) -> np.ndarray:
    """Rows of the set in these folds, None for all: [R] int64.

    Raises:
      ConfigError: a fold that the set does not have.
    """
    if folds is None:
        return np.arange(len(prepared))
    fold = prepared.index["fold"]
    present = np.unique(fold).tolist()
    missing = sorted(set(folds) - set(present))
    if missing:
        raise ConfigError(
            f"{path}: {prepared.name} has no fold {missing}, only {present} (-1 "
            "stands for none)"
        )
    rows = np.flatnonzero(np.isin(fold, folds))
    if not len(rows):
        raise ConfigError(f"{path}: {folds} holds no record of {prepared.name}")
    return rows


def check_crop(prepared: PreparedSet, crop: int) -> None:
    """Raises ConfigError unless the stored records are as long as the crop."""
    if not 1 <= crop <= prepared.length:
        raise ConfigError(
            f"config.data.crop: {crop} samples, but the records of {prepared.name} are "
            f"stored with {prepared.length} ({prepared.rate:g} Hz); lower the crop or "
            "prepare the set with longer windows (--seconds)"
        )
