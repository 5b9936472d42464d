"""Counted operations against what can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.experiment import parse
from ecgssl_jax.planning.operations import matrix_flops
from ecgssl_jax.platforms import planned_for
from ecgssl_jax.stand_in import stand_in_task
from ecgssl_jax.step import set_up

B, T, P, LEADS = 4, 1000, 25, 12
N, K, L = 40, 8, 32  # patches of a crop, of the context, and targets
D, DEPTH, PREDICTOR_D, PREDICTOR_DEPTH = 96, 3, 48, 2


def flops(function, *shapes):
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return matrix_flops(jax.make_jaxpr(function)(*arrays))


def test_products_loops_and_branches():
    product = 2 * 3 * 4 * 5
    assert flops(jnp.matmul, (3, 4), (4, 5)) == product
    assert flops(jnp.matmul, (7, 3, 4), (7, 4, 5)) == 7 * product
    square = 2 * 4**3

    def powers(x, w):
        return jax.lax.scan(lambda y, _: (y @ w, None), x, length=6)[0]

    assert flops(powers, (4, 4), (4, 4)) == 6 * square

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    assert flops(either, (4, 4)) == 2 * square


def test_a_convolution_and_its_gradients():
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (2,), ((3, 3),), dimension_numbers=("NWC", "WIO", "NWC")
        )

    shapes = (2, 64, 12), (7, 12, 16)
    forward = 2 * (7 * 12) * (2 * 32 * 16)
    assert flops(convolve, *shapes) == forward
    both = flops(jax.grad(lambda x, w: convolve(x, w).sum(), (0, 1)), *shapes)
    assert both == pytest.approx(3 * forward, rel=0.12)  # by what is padded


def test_what_a_device_of_a_shard_map_does_counts_for_all():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    product = jax.shard_map(
        lambda x, w: x @ w,
        mesh=mesh,
        in_specs=(rows, jax.sharding.PartitionSpec()),
        out_specs=rows,
    )
    assert flops(product, (16, 4), (4, 5)) == 2 * 16 * 4 * 5


def blocks(tokens, width, depth):
    """Of a forward pass of transformer blocks on one row."""
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def step_flops(**model):
    experiment = parse(
        dict(
            steps=10,
            batch_size=B,
            data=dict(crop=T),
            model=dict(width=D, depth=DEPTH, num_heads=3, patch_size=P) | model,
            masks=dict(kind="random", keep=(K / N, K / N)),
            method=dict(
                name="jepa",
                predictor_width=PREDICTOR_D,
                predictor_depth=PREDICTOR_DEPTH,
                predictor_num_heads=2,
            ),
            mesh=dict(data=1),
        )
    )
    with planned_for("tpu"):
        task = stand_in_task(experiment)
        setup = set_up(experiment, task, jax.devices()[:1])
        return matrix_flops(setup.update.trace(setup.abstract, setup.batch, None).jaxpr)


@pytest.mark.parametrize("scan", [False, True])
def test_a_step_of_jepa_by_its_closed_form(scan):
    embedding = 2 * P * LEADS * D
    target = N * embedding + blocks(N, D, DEPTH)
    # What has parameters before it is run forward once and backward twice.
    online = 2 * K * embedding + 3 * blocks(K, D, DEPTH)
    predictor = 3 * blocks(N, PREDICTOR_D, PREDICTOR_DEPTH)
    predictor += 3 * 2 * (K + L) * D * PREDICTOR_D
    expected = B * (target + online + predictor)
    assert step_flops(scan=scan) == pytest.approx(expected, rel=0.05)


def test_computing_again_is_counted():
    none, products, full = (
        step_flops(remat=remat) for remat in ("none", "products", "full")
    )
    again = B * (blocks(K, D, DEPTH) + blocks(N, PREDICTOR_D, PREDICTOR_DEPTH))
    # The last product of a block needs no second time: no gradient asks for its result.
    assert full - none == pytest.approx(again, rel=0.4)
    assert none < products < full
    assert np.isfinite(full)
