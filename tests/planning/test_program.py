"""Programs of small models: their memory by kind, and what devices exchange."""

import dataclasses

import jax
import pytest

from ecgssl_jax import config_files
from ecgssl_jax.experiment import Mesh, parse
from ecgssl_jax.planning import program
from ecgssl_jax.planning.devices import find_devices
from ecgssl_jax.planning.program import plan_step
from ecgssl_jax.sharding import bytes_on_a_device
from ecgssl_jax.stand_in import stand_in_task
from ecgssl_jax.step import set_up

VIT = dict(name="vit", width=64, depth=4, num_heads=2, patch_size=20, scan=True)


def experiment_of(config, **settings):
    return parse(config_files.load(f"configs/{config}.py", settings))


def jepa(**settings):
    predictor = {f"method.predictor_{k}": v for k, v in (("width", 32), ("depth", 2))}
    return experiment_of("jepa", model=VIT, **predictor, **settings)


def figures_of(experiment, **mesh):
    return plan_step(experiment, find_devices("here"), Mesh(**mesh))


def parameter_bytes(experiment):
    setup = set_up(experiment, stand_in_task(experiment), jax.devices()[:1])
    return bytes_on_a_device(setup.abstract.params)


@pytest.mark.parametrize("mesh", [dict(data=8), dict(data=1, fsdp=8)])
def test_devices_exchange_parameters_and_nothing_of_the_batch(mesh):
    """Activations stay where their rows are, in a scan of layers too."""
    small, large = (figures_of(jepa(batch_size=size), **mesh) for size in (32, 128))
    assert large.sent == small.sent
    size = parameter_bytes(jepa())
    expected = {8: 2, 1: 3}[mesh["data"]]  # a sum of gradients; gathered twice as well
    assert expected * size * 7 / 8 <= large.sent <= 1.7 * expected * size
    if mesh["data"] == 8:
        assert large.sent == pytest.approx(expected * size * 7 / 8, rel=0.01)


def test_of_a_contrastive_batch_only_embeddings_are_exchanged():
    encoder = dict(name="resnet", blocks=(1, 1), bottleneck=False, features=8)
    small, large = (
        figures_of(experiment_of("simclr", model=encoder, batch_size=size))
        for size in (64, 256)
    )
    rows, width = 2 * (256 - 64), 128
    assert large.sent - small.sent <= 8 * rows * width * 4


VITS = dict(name="vit", preset="s", patch_size=20)
RESNET = dict(name="resnet", preset="18")


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("jepa", VITS),
        ("byol", VITS),
        ("meclip", VITS),
        *((config, RESNET) for config in ("simclr", "byol", "meclip", "clocs")),
        ("supervised", RESNET),
    ],
)
def test_fsdp_divides_parameters_optimiser_and_averages(config, model):
    settings = {"method.num_labels": 71} if config == "supervised" else {}
    experiment = experiment_of(config, model=model, batch_size=64, **settings)
    held = []
    for mesh in (Mesh(), Mesh(data=1, fsdp=8)):
        changed = dataclasses.replace(experiment, mesh=mesh)
        state = set_up(changed, stand_in_task(changed)).abstract
        parts = [state.params, state.optimiser]
        if config in ("jepa", "byol"):
            parts.append(state.extra)
        held.append([bytes_on_a_device(part) for part in parts])
    for whole, divided in zip(*held, strict=True):
        assert divided <= whole / 7


def test_memory_is_that_of_the_compiled_program():
    experiment = jepa(batch_size=64)
    figures = figures_of(experiment, data=8)
    memory = figures.memory
    assert memory["parameters"] == pytest.approx(parameter_bytes(experiment), rel=0.01)
    # Adam's two moments; JEPA's target encoder, which is without a predictor.
    assert memory["optimiser"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert 0.3 < memory["averages"] / memory["parameters"] < 0.95
    signals = 64 / 8 * 500 * 12 * 2
    assert signals < memory["batch"] < 1.1 * signals
    assert memory["activations"] > memory["batch"]
    assert figures.needed == sum(memory.values())
    assert figures.fits and figures.available is None and figures.seconds is None


@pytest.mark.parametrize(
    ("complaint", "activations"),
    [
        ("Ran out of memory: Used 61.50G of 15.75G hbm. Exceeded", 61.5 * 2**30 - 100),
        ("memory required for HLO temporaries (512.0M) exceeds", 512 * 2**20),
        ("something else", 0),
    ],
)
def test_what_the_compiler_says_of_too_little_memory_is_understood(
    complaint, activations
):
    assert program._exceeding(complaint, held=100) == activations


def test_a_program_that_is_too_large_for_the_compiler_has_no_times(monkeypatch):
    def fail(self, *args, **kwargs):
        raise jax.errors.JaxRuntimeError("Used 61.50G of 15.75G hbm")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    figures = figures_of(jepa(batch_size=64), data=8)
    assert not figures.compiled and figures.seconds is None
    assert figures.needed == pytest.approx(61.5 * 2**30, rel=1e-6)
