"""SimCLR, BYOL and MECLIP against figures of the published implementations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecgssl_jax.methods.byol import byol_loss
from ecgssl_jax.methods.meclip import clip_loss
from ecgssl_jax.methods.simclr import nt_xent_loss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses_and_schedules.npz")
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE)


def assert_golden(dtype, function, inputs, loss, gradients, factor=1.0):
    """`factor` times the loss, and its gradients if named, are those of the file."""
    with jax.enable_x64(dtype == "float64"):
        arrays = [jnp.asarray(GOLDEN[name], dtype) for name in inputs]
        found = jax.value_and_grad(function, argnums=tuple(range(len(arrays))))(*arrays)
    value, found = jax.tree.map(lambda x: factor * np.asarray(x), found)
    tolerance = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(value, GOLDEN[loss], **tolerance)
    if gradients:
        for gradient, name in zip(found, gradients, strict=True):
            np.testing.assert_allclose(gradient, GOLDEN[name], **tolerance)


@both_precisions
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_half_of_the_published_sum_of_directions(dtype, temperature):
    def loss(z):
        return nt_xent_loss(*jnp.split(z, 2), temperature=temperature)

    assert_golden(
        dtype,
        loss,
        ["simclr/z"],
        f"simclr/loss_t{temperature}",
        [f"simclr/grad_t{temperature}"],
        factor=2,
    )


@both_precisions
@pytest.mark.parametrize(
    ("distance", "name"), [("euclidean", "euclidean"), ("cosine", "paper")]
)
def test_byol_is_the_published_sum_over_both_pairs(dtype, distance, name):
    def loss(q1, q2):
        z1, z2 = (jnp.asarray(GOLDEN[f"byol/z{n}"], dtype) for n in (1, 2))
        return byol_loss(q1, q2, z1, z2, distance=distance)

    gradients = [f"byol/{name}/grad_q{n}" for n in (1, 2)]
    known = gradients if name == "euclidean" else []
    assert_golden(dtype, loss, ["byol/q1", "byol/q2"], f"byol/{name}/loss", known)


@both_precisions
@pytest.mark.parametrize("mode", ["clip", "exclude", "positive"])
def test_meclip_is_half_of_the_published_sum_of_directions(dtype, mode):
    def loss(ecg, text):
        ids = GOLDEN["meclip/text_ids"]
        return clip_loss(ecg, text, ids, temperature=0.1, mode=mode)

    assert_golden(
        dtype,
        loss,
        ["meclip/ecg", "meclip/text"],
        f"meclip/{mode}/loss",
        [f"meclip/{mode}/grad_ecg", f"meclip/{mode}/grad_text"],
        factor=2,
    )
