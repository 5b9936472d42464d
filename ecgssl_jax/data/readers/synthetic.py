"""The synthetic set as a source."""

import functools
from collections.abc import Iterator, Sequence

from ecgssl_jax.data.readers.source import Reading, Source, split
from ecgssl_jax.data.synthetic import LABELS, synthetic_record


def synthetic_source(num_records: int, *, seed: int = 0, rate: float = 100.0) -> Source:
    """`num_records` synthetic ECGs of 10 s at `rate` Hz, the same for equal seeds."""
    return Source(
        description=f"synthetic ECGs, {num_records} records, seed {seed}",
        tasks=[
            functools.partial(_read, numbers, seed, rate)
            for numbers in split(range(num_records))
        ],
        num_records=num_records,
        rates=(float(rate),),
        labels=LABELS,
    )


def _read(numbers: Sequence[int], seed: int, rate: float) -> Iterator[Reading]:
    for number in numbers:
        record = synthetic_record(number, seed=seed, rate=rate)
        yield record.id, record
