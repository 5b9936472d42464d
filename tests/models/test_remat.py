"""What is computed again takes the place of what is kept."""

import jax
import numpy as np
import pytest

from ecgssl_jax.models import vit
from ecgssl_jax.models.network import Network
from ecgssl_jax.models.remat import rematerialised
from ecgssl_jax.planning.operations import matrix_flops

X = np.ones((8, 64, 32), np.float32)


def gradient_of(remat):
    network = Network(vit.Blocks(depth=6, num_heads=2, remat=remat, scan=True))
    params = network.init(jax.random.key(0), X)
    return jax.jit(
        jax.grad(lambda params: (network.apply(params, X) ** 2).mean())
    ), params


def test_less_is_kept_and_more_computed():
    memory, flops = [], []
    for remat in ("none", "products", "full"):
        gradient, params = gradient_of(remat)
        traced = gradient.trace(params)
        flops.append(matrix_flops(traced.jaxpr))
        compiled = traced.lower().compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    assert memory[0] > 1.2 * memory[1] > 1.2 * 1.2 * memory[2]
    assert flops[0] < flops[1] < flops[2]


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="expected one of none, products, full"):
        rematerialised(vit.Block, "some")
