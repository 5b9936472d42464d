"""The step of an experiment, compiled for devices that need not be here."""

import collections
import dataclasses
import re
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from ecgssl_jax.experiment import Experiment, Mesh
from ecgssl_jax.planning import chips
from ecgssl_jax.planning.devices import Devices
from ecgssl_jax.planning.figures import Figures
from ecgssl_jax.planning.operations import matrix_flops
from ecgssl_jax.planning.program_text import collectives, memory_traffic
from ecgssl_jax.platforms import planned_for, platform
from ecgssl_jax.sharding import bytes_on_a_device
from ecgssl_jax.stand_in import stand_in_task
from ecgssl_jax.step import Setup, set_up

# Of the compiler's complaints: "Used 61.09G of 15.75G hbm", of all, and "memory required
# for HLO temporaries (19.38G)", beside the arguments.
_USED = re.compile(r"Used ([0-9.]+)([KMGT]?) of")
_TEMPORARIES = re.compile(r"HLO temporaries \(([0-9.]+)([KMGT]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan_step(experiment: Experiment, devices: Devices, mesh: Mesh) -> Figures:
    """The figures of the step on these devices; may be called in any thread.

    Raises:
      ConfigError: a config that cannot be run on this mesh.
    """
    experiment = dataclasses.replace(experiment, mesh=mesh)
    with planned_for(devices.platform):
        setup = set_up(experiment, stand_in_task(experiment), devices.devices)
        traced = setup.update.trace(setup.abstract, setup.batch, None)
        lowered = traced.lower()
    flops = step_flops(experiment, setup.mesh, traced.jaxpr) / setup.mesh.size
    chip = devices.chip
    known: dict[str, Any] = dict(
        topology=devices.name,
        mesh=tuple(setup.mesh.shape.values()),
        batch_size=experiment.batch_size,
        available=chip and round(chip.memory * (1 - chips.SPARE)),
        accumulate=experiment.optim.accumulate,
        remat=experiment.model.get("remat", "none"),
        flops=flops,
        stand_in=devices.stand_in,
    )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = _held(setup)
        memory["activations"] = _exceeding(str(error), sum(memory.values()))
        if not memory["activations"]:
            raise
        needed = sum(memory.values())
        return Figures(**known, memory=memory, needed=needed, compiled=False)
    text = compiled.as_text()
    found, traffic = collectives(text), memory_traffic(text)
    memory = memory_by_kind(setup, compiled.memory_analysis())
    return Figures(
        **known,
        memory=memory,
        needed=sum(memory.values()),
        traffic=traffic,
        collectives=_summary(found),
        seconds=chip
        and chips.seconds(
            chip,
            flops=flops,
            traffic=traffic,
            collectives=found,
            places=devices.places(setup.mesh),
        ),
    )


def step_flops(
    experiment: Experiment, mesh: jax.sharding.Mesh, traced: ClosedJaxpr
) -> float:
    """FLOPs of a step, of all devices together.

    Args:
      traced: the step, for the devices that are here.
    """
    if platform() != "gpu":
        return matrix_flops(traced)
    # Attention may be cuDNN's there, in which no product is to be seen.
    with planned_for("tpu"):
        setup = set_up(experiment, stand_in_task(experiment), list(mesh.devices.flat))
        return matrix_flops(setup.update.trace(setup.abstract, setup.batch, None).jaxpr)


def _exceeding(complaint: str, held: int) -> int:
    """Bytes of activations, of a program that does not fit; 0 if it says none."""
    if used := _USED.search(complaint):
        return max(0, _bytes(used) - held)
    temporaries = _TEMPORARIES.search(complaint)
    return _bytes(temporaries) if temporaries else 0


def _bytes(found: re.Match[str]) -> int:
    return round(float(found[1]) * _UNITS[found[2]])


def memory_by_kind(setup: Setup, stats: Any) -> dict[str, int]:
    """Bytes on a device, as `Figures.memory` has them.

    What arrays are padded with is divided among the arguments.

    Args:
      stats: of the compiled step, `memory_analysis()`.
    """
    held = _held(setup)
    padded = stats.argument_size_in_bytes / max(sum(held.values()), 1)
    result = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        **{name: round(size * padded) for name, size in held.items()},
        "activations": stats.temp_size_in_bytes + result,
        "code": stats.generated_code_size_in_bytes,
    }


def _held(setup: Setup) -> dict[str, int]:
    """Bytes of the arguments by kind."""
    state = setup.abstract
    return {
        "parameters": bytes_on_a_device(state.params),
        "optimiser": bytes_on_a_device(state.optimiser),
        "averages": bytes_on_a_device(state.extra),
        "batch": bytes_on_a_device(setup.batch),
    }


def _summary(found: list[Any]) -> tuple[dict[str, Any], ...]:
    """Of each kind and number of devices, the most bytes first."""
    times: collections.Counter[tuple[str, int]] = collections.Counter()
    sent: collections.Counter[tuple[str, int]] = collections.Counter()
    for each in found:
        times[each.kind, each.devices] += each.times
        sent[each.kind, each.devices] += each.sent
    return tuple(
        dict(kind=kind, devices=devices, times=times[kind, devices], sent=round(size))
        for (kind, devices), size in sent.most_common()
    )
