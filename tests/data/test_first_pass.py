"""The first pass: which windows of the parts are duplicates of others."""

from pathlib import Path

import numpy as np

from ecgssl_jax.data.convert import DIGEST_BYTES
from ecgssl_jax.data.first_pass import Part, drop_duplicates


def _part(windows):
    """A part of (record, offset, content) each."""
    names, offsets, contents = zip(*windows, strict=True) if windows else ((), (), ())
    columns = {"record_id": np.array(names, object), "offset": np.array(offsets)}
    digests = b"".join(bytes([content]) * DIGEST_BYTES for content in contents)
    return Part(scratch=Path("scratch"), columns=columns, digests=digests)


def test_the_first_of_equal_windows_is_kept_and_named():
    parts = [
        _part([("a", 0, 7), ("a", 1000, 0), ("b", 0, 5)]),
        _part([]),
        _part([("c", 0, 0), ("c", 1000, 7)]),
        _part([("d", 0, 7), ("d", 1000, 3)]),
    ]
    kept = drop_duplicates(parts)
    assert [rows.tolist() for rows in kept] == [[0, 1, 2], [], [], [1]]
    found = [
        (each.record, each.offset, each.finding, each.decision, each.detail)
        for part in parts
        for each in part.findings
    ]
    assert found == [
        ("c", 0, "duplicate", "reject", "same samples as a at offset 1000"),
        ("c", 1000, "duplicate", "reject", "same samples as a"),
        ("d", 0, "duplicate", "reject", "same samples as a"),
    ]
    assert [len(part.findings) for part in parts] == [0, 0, 2, 1]


def test_no_windows_are_no_duplicates():
    assert [len(rows) for rows in drop_duplicates([_part([]), _part([])])] == [0, 0]
