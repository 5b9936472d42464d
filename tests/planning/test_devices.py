"""Topologies by name."""

import importlib.util
import itertools

import pytest

from ecgssl_jax import sharding
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.planning import devices, slices
from ecgssl_jax.planning.chips import GPUS, TPUS
from ecgssl_jax.planning.devices import count_devices, find_devices
from ecgssl_jax.settings import ConfigError

with_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPUs' compiler, libtpu",
)


@with_compiler
@pytest.mark.parametrize(
    ("name", "platform", "count"),
    [
        ("v5e:2x4", "tpu", 8),
        ("v4:2x2x1", "tpu", 4),
        ("h100:2", "gpu", 2),
        ("a100:32", "gpu", 32),
    ],
)
def test_a_topology_has_its_devices(name, platform, count):
    found = find_devices(name)
    assert (found.platform, len(found.devices)) == ("tpu", count)
    assert found.stand_in == (platform == "gpu")
    assert count_devices(name) == count
    mesh = sharding.make_mesh(Mesh(), found.devices)
    places = found.places(mesh)
    assert places is None if found.stand_in else len(set(places)) == count


@with_compiler
@pytest.mark.parametrize("name", ["v5p:4x4x4", "v4:4x4x4", "v6e:8x8", "h100:128"])
def test_every_mesh_of_powers_of_two_has_its_place(name):
    found = find_devices(name)
    sizes = [2**power for power in range(8)]
    for data, fsdp in itertools.product(sizes, sizes):
        tensor, rest = divmod(len(found.devices), data * fsdp)
        if tensor and not rest:
            settings = Mesh(data=data, fsdp=fsdp, tensor=tensor)
            mesh = sharding.make_mesh(settings, found.devices)
            assert tuple(mesh.shape.values()) == (data, fsdp, tensor)
            assert len(set(mesh.devices.flat)) == len(found.devices)


@with_compiler
def test_one_chip_is_a_slice():
    assert len(find_devices("v5e:1x1").devices) == 1


def test_tpus_of_several_slices_are_refused():
    class Device:
        platform = "tpu"

        def __init__(self, number):
            self.slice_index = number // 4

    with pytest.raises(ConfigError, match="8 TPUs are of 2 slices; expected one"):
        sharding.make_mesh(Mesh(), [Device(number) for number in range(8)])


@pytest.mark.parametrize(
    ("kind", "limit", "chip", "memory"),
    [
        ("NVIDIA A100-SXM4-40GB", 30e9, GPUS["a100"], 30e9),
        ("NVIDIA H100 80GB HBM3", None, GPUS["h100"], 80e9),
        ("NVIDIA GH200 480GB", None, None, None),
        ("TPU v5 lite", None, TPUS["v5e"], 16 * 2**30),
    ],
)
def test_a_chip_that_is_here_has_the_memory_that_it_says(kind, limit, chip, memory):
    class Device:
        device_kind = kind

        def memory_stats(self):
            return {"bytes_limit": limit} if limit else None

    found = devices._chip_of(Device())
    assert (found and (found.flops, found.memory)) == (chip and (chip.flops, memory))


def test_here_is_this_machine():
    found = find_devices("here")
    assert (found.platform, len(found.devices), found.chip) == ("cpu", 8, None)


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v9:2x2", "h100:0", "h100:2x2", ""])
def test_an_unknown_topology_is_an_error_with_examples(name):
    with pytest.raises(ConfigError, match="such as v5e:8x8"):
        find_devices(name)


@pytest.mark.parametrize(
    "name",
    [
        "v5e:3x5",
        "v5e:4x4x4",
        "v5e:16x32",
        "v5p:4x4",
        "v5p:4x2x2",
        "v5p:4x1x1",
        "v6e:2x6",
        "v4:3x3x3",
    ],
)
def test_a_slice_that_there_is_not_is_named(name):
    for function in (find_devices, count_devices):
        with pytest.raises(ConfigError, match=f"no slice {name}"):
            function(name)


@with_compiler
@pytest.mark.parametrize("name", ["v4:4x4x4", "v5p:2x2x1", "v5p:2x4x4", "v6e:4x8"])
def test_the_compiler_knows_the_slices_that_we_know(name):
    assert len(find_devices(name).devices) == slices.chips(name)


@pytest.mark.parametrize("name", ["h100:12", "h100:8192"])
def test_odd_numbers_of_gpus_are_refused(name):
    with pytest.raises(ConfigError, match="1, 2, 4, 8"):
        find_devices(name)


def test_without_the_compiler_it_is_named(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .* -e '\.\[tpu\]'"):
        find_devices("v5e:2x2")
