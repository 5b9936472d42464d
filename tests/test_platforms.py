"""Programs for another platform than this machine's."""

import jax.numpy as jnp

from ecgssl_jax.models.encoders import compute_dtype
from ecgssl_jax.platforms import planned_for, platform


def test_this_machine_s_unless_another_is_planned_for():
    assert platform() == "cpu"
    with planned_for("tpu"):
        assert platform() == "tpu"
        assert compute_dtype("auto") == jnp.bfloat16
    assert platform() == "cpu" and compute_dtype("auto") == jnp.float32
