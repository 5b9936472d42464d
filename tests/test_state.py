"""The first state: its values, and where its arrays lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax import sharding
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.methods import jepa
from ecgssl_jax.models import vit
from ecgssl_jax.optim import Settings, make_optimiser
from ecgssl_jax.signals import Statistics
from ecgssl_jax.state import abstract_state, make_init

pytestmark = pytest.mark.skipif(
    jax.device_count() != 8, reason="needs the eight host devices of conftest.py"
)

B, T, C = 8, 24, 2


class _Linear:
    """The smallest method: one kernel, and an average of it."""

    def init(self, rng, batch):
        assert batch["ecg"].dtype == jnp.float32
        kernel = jax.random.normal(rng, (batch["ecg"].shape[-1], 4))
        return {"kernel": kernel}, {"average": {"kernel": jnp.copy(kernel)}}


def _batch():
    return dict(
        ecg=np.zeros((B, T, C), np.int16),
        source=np.zeros(B, np.int32),
        lead_valid=np.ones((B, C), bool),
        length=np.full(B, T, np.int32),
    )


def _statistics():
    return Statistics(
        scale=np.full((1, C), 0.001, np.float32),
        mean=np.full((1, C), 0.1, np.float32),
        std=np.full((1, C), 0.5, np.float32),
    )


def _init(method):
    return make_init(method, make_optimiser(Settings(), 10), _statistics(), clip=5.0)


def test_first_state_is_at_step_zero_and_healthy():
    state = jax.jit(_init(_Linear()))(jax.random.key(3), _batch())
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert state.healthy
    kernel = jax.random.normal(jax.random.key(3), (C, 4))
    np.testing.assert_allclose(state.params["kernel"], kernel, rtol=1e-6)
    np.testing.assert_array_equal(
        state.extra["average"]["kernel"], state.params["kernel"]
    )
    np.testing.assert_array_equal(state.statistics.std, _statistics().std)


def test_state_holds_arrays_only():
    """A Python number would be another type after the first step: a compilation."""
    state = jax.eval_shape(_init(_Linear()), jax.random.key(0), _batch())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert not leaf.weak_type, jax.tree_util.keystr(path)


def test_arrays_are_made_where_the_abstract_state_says():
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=4))
    init = _init(_Linear())
    abstract = abstract_state(init, _batch(), mesh, sharding.DEFAULT_RULES)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    state = jax.jit(init, out_shardings=shardings)(jax.random.key(0), _batch())
    assert state.params["kernel"].addressable_shards[0].data.shape == (C, 1)
    for found, expected in zip(
        jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True
    ):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert found.sharding.is_equivalent_to(expected.sharding, found.ndim)


def test_moments_and_target_encoder_lie_where_their_parameters_do():
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    encoder = vit.ViT(width=8, depth=1, num_heads=2, patch_size=4)
    settings = jepa.Settings(
        predictor_width=8, predictor_depth=1, predictor_num_heads=2
    )
    init = _init(jepa.build(settings, encoder, steps=10, masks={"kind": "random"}))
    state = abstract_state(init, _batch(), mesh, sharding.DEFAULT_RULES)

    def specs(tree):
        return jax.tree.map(lambda x: x.sharding.spec, tree)

    assert specs(state.optimiser[1].mu) == specs(state.params)
    assert specs(state.optimiser[1].nu) == specs(state.params)
    assert specs(state.extra["target_encoder"]) == specs(state.params["encoder"])
    split = [axis for spec in jax.tree.leaves(specs(state.params)) for axis in spec]
    assert "fsdp" in split and "tensor" in split
    for leaf in jax.tree.leaves((state.step, state.healthy, state.statistics)):
        assert leaf.sharding.is_fully_replicated
