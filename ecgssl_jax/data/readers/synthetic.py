"""The synthetic set as a source."""

import functools
from collections.abc import Iterator, Sequence

from ecgssl_jax.data.readers.source import Reading, Source, SourceError, split
from ecgssl_jax.data.synthetic import LABELS, synthetic_record
from ecgssl_jax.data.synthetic_signal import check_rate


def synthetic_source(num_records: int, *, seed: int = 0, rate: float = 100.0) -> Source:
    """`num_records` synthetic ECGs of 10 s at `rate` Hz, the same for equal seeds.

    Raises:
      SourceError: a negative number or seed, or a rate that cannot be made.
    """
    if num_records < 0:
        raise SourceError(f"{num_records} synthetic records; expected 0 or more")
    if seed < 0:
        raise SourceError(f"a seed of {seed}; expected 0 or more")
    try:
        check_rate(rate)
    except ValueError as error:
        raise SourceError(str(error)) from error
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
