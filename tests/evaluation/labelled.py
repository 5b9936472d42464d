"""A labelled set for tests, and features that tell its labels."""

from pathlib import Path

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.leads import LEADS


def labelled_set(num_records=200, seed=0) -> tuple[PreparedSet, np.ndarray]:
    """Two records a patient, folds 1-5; the second label is unknown for a third.

    The features [N, 2] are the labels and noise.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (num_records, 2)).astype(np.uint8)
    valid = np.ones((num_records, 2), np.uint8)
    valid[::3, 1] = 0
    patient = np.arange(num_records, dtype=np.int32) // 2
    index = {
        "record_id": np.array([f"r{number:03d}" for number in range(num_records)]),
        "labels": labels,
        "labels_valid": valid,
        "patient": patient,
        "fold": patient % 5 + 1,
    }
    prepared = PreparedSet(
        name="mine",
        directory=Path("mine"),
        rate=100.0,
        scale=1e-3,
        leads=LEADS,
        labels=("a", "b"),
        mean=np.zeros(12),
        std=np.ones(12),
        length=1000,
        num_records=num_records,
        label_table={},
        index=index,
        metadata={},
    )
    noise = rng.normal(0, 0.5, labels.shape)
    return prepared, (labels + noise).astype(np.float32)
