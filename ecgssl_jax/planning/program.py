"""The step of an experiment, compiled for devices that need not be here."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax

from ecgssl_jax.experiment import Experiment, Mesh
from ecgssl_jax.planning import chips
from ecgssl_jax.planning.devices import Devices
from ecgssl_jax.planning.figures import Figures
from ecgssl_jax.planning.operations import matrix_flops
from ecgssl_jax.planning.program_text import collectives, memory_traffic
from ecgssl_jax.platforms import planned_for
from ecgssl_jax.stand_in import stand_in_task
from ecgssl_jax.step import set_up

# Of the compiler's complaint: "Used 61.09G of 15.75G hbm".
_USED = re.compile(r"Used ([0-9.]+)([KMGT]?) of")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def lower(
    experiment: Experiment, devices: Devices, mesh: Mesh
) -> Callable[[], Figures]:
    """Traces the step; -> a function, to be called in any thread, that compiles it.

    Raises:
      ConfigError: a config that cannot be run on this mesh.
    """
    experiment = dataclasses.replace(experiment, mesh=mesh)
    with planned_for(devices.platform):
        setup = set_up(experiment, stand_in_task(experiment), devices.devices)
        traced = setup.update.trace(setup.abstract, setup.batch, None)
        lowered = traced.lower()
    flops = matrix_flops(traced.jaxpr) / setup.mesh.size
    chip = devices.chip
    known: dict[str, Any] = dict(
        topology=devices.name,
        mesh=tuple(setup.mesh.shape.values()),
        batch_size=experiment.batch_size,
        available=chip and round(chip.memory * (1 - chips.SPARE)),
        flops=flops,
        stand_in=devices.stand_in,
    )

    def compile_it() -> Figures:
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            used = _USED.search(str(error))
            if "RESOURCE_EXHAUSTED" not in str(error) or not used:
                raise
            needed = round(float(used[1]) * _UNITS[used[2]])
            memory = _held(setup.abstract, setup.batch)
            memory["activations"] = max(0, needed - sum(memory.values()))
            return Figures(**known, memory=memory, needed=needed)
        text = compiled.as_text()
        found, traffic = collectives(text), memory_traffic(text)
        memory = _memory(setup.abstract, setup.batch, compiled.memory_analysis())
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

    return compile_it


def bytes_on_a_device(tree: Any) -> int:
    """Of abstract arrays with shardings, the part that one device holds."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def _memory(state: Any, batch: Any, stats: Any) -> dict[str, int]:
    """Bytes by kind. What arrays are padded with is divided among the arguments."""
    held = _held(state, batch)
    padded = stats.argument_size_in_bytes / max(sum(held.values()), 1)
    result = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        **{name: round(size * padded) for name, size in held.items()},
        "activations": stats.temp_size_in_bytes + result,
        "code": stats.generated_code_size_in_bytes,
    }


def _held(state: Any, batch: Any) -> dict[str, int]:
    """Bytes of the arguments by kind."""
    return {
        "parameters": bytes_on_a_device(state.params),
        "optimiser": bytes_on_a_device(state.optimiser),
        "averages": bytes_on_a_device(state.extra),
        "batch": bytes_on_a_device(batch),
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
