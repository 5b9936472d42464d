"""Whole recordings as windows: those of the converter, of any length."""

import functools

import numpy as np
import pytest

from ecgssl_jax.data.readers.source import Source
from ecgssl_jax.data.record import Record, RecordError
from ecgssl_jax.data.whole import read_whole, whole_window
from ecgssl_jax.leads import LEADS

ROOM = {"rate": 100.0, "at_least": 250, "scale": 0.001}


def record(samples: int, rate: float = 100.0, id: str = "r") -> Record:
    noise = np.random.default_rng(0).normal(scale=0.3, size=(samples, 6))
    return Record(id=id, ecg=noise.astype(np.float32), rate=rate, leads=LEADS[6:])


@pytest.mark.parametrize("samples", [125, 249, 250, 251, 1000, 1001, 12_345])
def test_a_window_holds_all_samples(samples):
    found = whole_window(record(samples), **ROOM)
    assert found.length == samples and len(found.ecg) >= max(samples, 250)
    expected = np.rint(1000 * record(samples).ecg)
    np.testing.assert_allclose(found.ecg[:samples, 6:], expected, atol=1)
    assert found.lead_valid.tolist() == [False] * 6 + [True] * 6


@pytest.mark.parametrize("rate", [125.0, 257.0, 500.0])
def test_other_rates_have_as_many_seconds(rate):
    found = whole_window(record(round(10 * rate), rate), **ROOM)
    assert found.length == 1000


def test_less_than_half_of_the_room_is_refused():
    with pytest.raises(RecordError, match=r"r: too short: 1.20 s"):
        whole_window(record(120), **ROOM)


def read(ids):
    for id in ids:
        found = RecordError("lost") if id == "b" else record(300, id=id)
        yield id, record(30, id="c") if id == "c" else found


def test_sources_are_read_in_order_with_the_reasons_of_what_is_refused():
    tasks = [functools.partial(read, ids) for ids in ("ab", "cd")]
    source = Source(description="", tasks=tasks, num_records=4, rates=(100.0,))
    found = dict(read_whole(source, **ROOM, workers=1))
    assert list(found) == ["a", "b", "c", "d"]
    assert str(found["b"]) == "lost" and "too short" in str(found["c"])
    assert found["a"].length == found["d"].length == 300
