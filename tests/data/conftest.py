"""Small recordings that the quality pass has nothing to say about."""

import functools

import numpy as np
import pytest

from ecgssl_jax.data.readers.source import Source
from ecgssl_jax.data.record import Record
from ecgssl_jax.leads import LEADS


def _make_ecg(seed=0, seconds=10.0, rate=100.0):
    """[T, 12] float32, millivolts: pulses and noise that obey Einthoven."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pulse = np.exp(-0.5 * (((time + rng.uniform(0, 0.8)) % 0.8 - 0.4) / 0.02) ** 2)
    independent = pulse[:, None] * rng.uniform(0.4, 1.5, 8)
    independent += 0.02 * rng.standard_normal((len(time), 8))
    i, ii = independent[:, 0], independent[:, 1]
    limb = [i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2]
    return np.column_stack([*limb, independent[:, 2:]]).astype(np.float32)


def _make_record(seed=0, *, seconds=10.0, rate=100.0, **fields):
    """A Record of `_make_ecg`; fields of Record replace the defaults."""
    defaults = {"id": f"r{seed}", "ecg": _make_ecg(seed, seconds, rate), "leads": LEADS}
    return Record(**{**defaults, "rate": rate, **fields})


def _make_source(readings, labels=(), per_task=3):
    """A Source of Records and (name, RecordError) pairs, in tasks of a few."""
    pairs = [x if isinstance(x, tuple) else (x.id, x) for x in readings]
    parts = [pairs[i : i + per_task] for i in range(0, len(pairs), per_task)]
    return Source(
        description="test",
        tasks=[functools.partial(iter, part) for part in parts],
        num_records=len(pairs),
        rates=(100.0,),
        labels=tuple(labels),
    )


@pytest.fixture(scope="session")
def make_ecg():
    return _make_ecg


@pytest.fixture(scope="session")
def make_record():
    return _make_record


@pytest.fixture(scope="session")
def make_source():
    return _make_source
