"""The devices of a plan: TPU slices and GPUs that are not here, or those that are."""

import dataclasses
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from ecgssl_jax.planning.chips import GPUS, TPUS, Chip
from ecgssl_jax.settings import ConfigError

HERE = "here"
# What is compiled for in the place of GPUs: a TPU with as much memory.
_STAND_IN = "v5p"
_MOST = 4096
_EXAMPLES = "such as v5e:8x8, v5p:4x4x4, h100:64, or here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """What a program is compiled for.

    Attributes:
      name: as the user gave it.
      platform: 'tpu', 'gpu' or 'cpu', of which the program is made.
      devices: as many as there are, in no order.
      chip: their figures; None where they are not known.
      stand_in: whether the program that is compiled is that of other devices, of which
        there are as many.
    """

    name: str
    platform: str
    devices: Sequence[Any]
    chip: Chip | None
    stand_in: bool = False

    def places(self, mesh: jax.sharding.Mesh) -> list[tuple[int, ...]] | None:
        """In the torus, of the devices in the order of the mesh; None without one."""
        if self.platform != "tpu":
            return None
        return [(*x.coords, x.core_on_chip) for x in mesh.devices.flat]


def find_devices(name: str) -> Devices:
    """'v5e:4x4' (chips along each axis), 'h100:16', or 'here'.

    Raises:
      ConfigError: an unknown kind, a slice that there is not, or no compiler for it.
    """
    if name == HERE:
        kind = jax.devices()[0].device_kind.lower()
        return Devices(
            name=name,
            platform=jax.default_backend(),
            devices=jax.devices(),
            chip=next((chip for gpu, chip in GPUS.items() if gpu in kind), None),
        )
    kind, _, size = name.partition(":")
    if kind in TPUS and re.fullmatch(r"\d+(x\d+)*", size):
        return Devices(name=name, platform="tpu", devices=_slice(name), chip=TPUS[kind])
    if kind in GPUS and re.fullmatch(r"[1-9]\d*", size):
        return Devices(
            name=name,
            platform="gpu",
            devices=_several(int(size)),
            chip=GPUS[kind],
            stand_in=True,
        )
    raise ConfigError(
        f"--topology: expected one of {', '.join([*TPUS, *GPUS])} and its size, "
        f"{_EXAMPLES}; found {name!r}"
    )


def _slice(name: str) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--topology: planning for TPUs and GPUs needs the TPUs' compiler: "
            "pip install -c constraints.txt -e '.[tpu]'"
        )
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(name, platform="tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"--topology: there is no slice {name} ({error}); {_EXAMPLES}"
        ) from error


def _several(count: int) -> Sequence[Any]:
    """As many devices, of a slice as small as possible."""
    if count > _MOST or count & (count - 1):
        raise ConfigError(
            f"--topology: plans are for 1, 2, 4, 8, ... {_MOST} GPUs, found {count}"
        )
    sides = [2, 2, 1]
    while math.prod(sides) < count:
        sides[sides.index(min(sides))] *= 2
    sides.sort(key=lambda side: (side == 1, side))
    return _slice(f"{_STAND_IN}:{'x'.join(map(str, sides))}")[:count]
