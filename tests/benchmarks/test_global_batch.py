"""Large global batches on eight devices: the same losses, in a sixth of the memory."""

import jax
import numpy as np
import pytest

from benchmarks.global_batch import LOSSES, arrays_of, compiled, temporary
from ecgssl_jax import sharding
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.methods import all_pairs

every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_blocks_take_a_sixth_of_the_memory(name):
    rows = 32_768
    whole = temporary(compiled(LOSSES[name], rows, block=2 * rows))
    # A device's rows of the similarity matrix, at least.
    assert whole > rows * rows / 8 * 4
    assert temporary(compiled(LOSSES[name], rows)) < whole / 6


@every_loss
def test_blocks_on_eight_devices_are_the_whole_on_one(name, monkeypatch):
    rows = 4096
    arrays = arrays_of(rows)
    split = sharding.batch_sharding(sharding.make_mesh(Mesh()))
    found = compiled(LOSSES[name], rows)(*jax.device_put(arrays, split))
    assert rows > all_pairs.BLOCK
    monkeypatch.setattr(all_pairs, "BLOCK", 2 * rows)
    expected = jax.jit(jax.value_and_grad(LOSSES[name], (0, 1)))(*arrays)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
