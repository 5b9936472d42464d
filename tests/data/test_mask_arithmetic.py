"""Uniform numbers to integers."""

import numpy as np

from ecgssl_jax.data import mask_arithmetic


def test_integers_are_exact_to_the_resolution_of_float32():
    steps = np.arange(2**24, dtype=np.int64)
    uniforms = (steps / 2**24).astype(np.float32)
    for count in (3, 7, 50, 187):
        found = mask_arithmetic.integers(uniforms, 5, 4 + count, np)
        np.testing.assert_array_equal(found, 5 + (steps * count >> 24))


def test_integers_never_reach_the_excluded_end():
    largest = np.nextafter(np.float32(1), np.float32(0), dtype=np.float32)
    counts = np.arange(1, 100_000)
    found = mask_arithmetic.integers(np.full(len(counts), largest), 0, counts - 1, np)
    np.testing.assert_array_equal(found, counts - 1)
