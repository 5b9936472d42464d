"""What is said of programs that fit, and of those that do not."""

import pytest

from ecgssl_jax.planning.advice import verdict
from ecgssl_jax.planning.figures import Figures

GB = 2**30


def figures(state, activations, available=16, mesh=(16, 1, 1), **more):
    memory = {"parameters": state * GB, "activations": activations * GB}
    return Figures(
        topology="v5e:4x4",
        mesh=mesh,
        batch_size=512,
        memory=memory,
        needed=(state + activations) * GB,
        available=None if available is None else available * GB,
        **more,
    )


def test_what_fits_fits():
    assert verdict(figures(4, 8)) == "fits"
    assert verdict(figures(4, 8, available=None)) == "memory unknown"


def test_a_large_state_is_to_be_divided():
    told = verdict(figures(30, 4))
    assert told.startswith("needs 34.0 GiB a device of 16.0: 30.0 of parameters")
    assert "mesh.fsdp=4 and mesh.data=4" in told and "accumulate" not in told


def test_without_enough_devices_there_must_be_more():
    assert "4 times as many devices on mesh.fsdp" in verdict(
        figures(30, 4, mesh=(2, 1, 1))
    )


def test_what_is_set_already_is_not_advised_again():
    told = verdict(figures(4, 14, accumulate=4, remat="full"))
    assert "optim.accumulate=8" in told and "remat" not in told
    # Twelve devices cannot be divided by eight.
    told = verdict(figures(60, 4, mesh=(12, 1, 1)))
    assert "8 times as many devices on mesh.fsdp" in told


def test_rows_that_cannot_be_divided_are_not_advised_to_be():
    told = verdict(figures(4, 30, mesh=(32, 16, 2), remat="full"))
    assert told.endswith(
        "try mesh.tensor=8, or a smaller model; then plan again: what a compiler needs "
        "does not shrink evenly"
    )


@pytest.mark.parametrize(("activations", "parts"), [(14, 2), (30, 4)])
def test_many_activations_are_to_be_fewer(activations, parts):
    told = verdict(figures(4, activations))
    assert f"optim.accumulate={parts}" in told
    assert f"batch_size={512 // parts}" in told and "mesh.fsdp" not in told
