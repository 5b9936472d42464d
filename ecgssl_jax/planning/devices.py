"""The devices of a plan: TPU slices and GPUs that are not here, or those that are."""

import dataclasses
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

import jax

from ecgssl_jax.planning import slices
from ecgssl_jax.planning.chips import GPUS, TPUS, Chip
from ecgssl_jax.settings import ConfigError

HERE = "here"
# What is compiled for in the place of GPUs: the TPU with the most memory.
_STAND_IN = "v5p"
# What JAX calls the chips of TPUs.
_TPU_KINDS = {
    "tpu v4": "v4",
    "tpu v5 lite": "v5e",
    "tpu v5e": "v5e",
    "tpu v5": "v5p",
    "tpu v5p": "v5p",
    "tpu v6 lite": "v6e",
    "tpu v6e": "v6e",
}
_MOST = 4096
_EXAMPLES = "such as v5e:8x8, v5p:4x4x4, h100:64, or here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """What a program is compiled for.

    Attributes:
      name: as the user gave it.
      platform: 'tpu', 'gpu' or 'cpu', for which the program is made.
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
        """In the grid, of the devices in the order of the mesh; None without one."""
        if self.platform != "tpu" or self.stand_in:
            return None
        return [tuple(x.coords) for x in mesh.devices.flat]


def find_devices(name: str) -> Devices:
    """'v5e:4x4' (chips along each axis), 'h100:16', or 'here'.

    Raises:
      ConfigError: an unknown kind, a slice that there is not, or no compiler for it.
    """
    if name == HERE:
        return Devices(
            name=name,
            platform=jax.default_backend(),
            devices=jax.devices(),
            chip=_chip_of(jax.devices()[0]),
        )
    count = count_devices(name)
    kind, _, _ = name.partition(":")
    if kind in TPUS:
        return Devices(name=name, platform="tpu", devices=_slice(name), chip=TPUS[kind])
    return Devices(
        name=name,
        # What is compiled must be a program for the devices that stand in.
        platform="tpu",
        devices=_several(count),
        chip=GPUS[kind],
        stand_in=True,
    )


def count_devices(name: str) -> int:
    """Of what `find_devices` takes, and its errors, without looking for a compiler."""
    if name == HERE:
        return len(jax.devices())
    kind, size = _parsed(name)
    if kind in GPUS:
        return int(size)
    count = slices.chips(name)
    if count is None:
        raise ConfigError(f"--topology: there is no slice {name}; {slices.KNOWN[kind]}")
    return count


def _parsed(name: str) -> tuple[str, str]:
    """-> kind, size."""
    kind, _, size = name.partition(":")
    shape = r"[1-9]\d*(x[1-9]\d*)*" if kind in TPUS else r"[1-9]\d*"
    if kind not in {*TPUS, *GPUS} or not re.fullmatch(shape, size):
        raise ConfigError(
            f"--topology: expected one of {', '.join([*TPUS, *GPUS])} and its size, "
            f"{_EXAMPLES}; found {name!r}"
        )
    count = int(size) if kind in GPUS else 1
    if count > _MOST or count & (count - 1):
        raise ConfigError(
            f"--topology: plans are for 1, 2, 4, 8, ... {_MOST} GPUs, found {count}"
        )
    return kind, size


def _chip_of(device: Any) -> Chip | None:
    """With the memory that JAX has of it, which its maker may sell in several sizes."""
    kind = device.device_kind.lower()
    chip = next((c for gpu, c in GPUS.items() if re.search(rf"\b{gpu}\b", kind)), None)
    if kind in _TPU_KINDS:
        chip = TPUS[_TPU_KINDS[kind]]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return dataclasses.replace(chip, memory=limit) if chip and limit else chip


def _slice(name: str) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--topology: planning for TPUs and GPUs needs the TPUs' compiler: "
            "pip install -c constraints.txt -e '.[tpu]'"
        )
    from jax.experimental import topologies

    # The two cores of a v4 chip are one device to a program.
    more: dict[str, Any] = {}
    if name.startswith("v4:"):
        more["chip_config_name"] = "megacore"
    if slices.chips(name) == 1:
        more["chips_per_host_bounds"] = [1, 1, 1]
    try:
        return topologies.get_topology_desc(name, platform="tpu", **more).devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(
            f"--topology: the TPUs' compiler does not take {name}: {error}"
        ) from error


def _several(count: int) -> Sequence[Any]:
    """As many devices, of a slice as small as possible."""
    sides = [2, 2, 1]
    while math.prod(sides) < count:
        sides[sides.index(min(sides))] *= 2
    sides.sort(key=lambda side: (side == 1, side))
    return _slice(f"{_STAND_IN}:{'x'.join(map(str, sides))}")[:count]
