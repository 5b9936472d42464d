"""Accelerators: what they compute, hold and exchange, and how long a step takes at best.

Figures are the makers' own, for bfloat16 without sparsity, per chip, which is a device of
JAX. Bandwidths of links are those of one direction.

Sources: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e) and, for the links of one
direction, jax-ml.github.io/scaling-book/tpus; NVIDIA's data sheets of A100, H100, H200 and
B200 (SXM, eight to a machine), and of DGX systems for the network.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ecgssl_jax.planning.program_text import Collective


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device.

    Attributes:
      flops: of bfloat16 matrix products, a second.
      memory: bytes.
      bandwidth: of that memory, bytes a second.
      link: bytes a second to a neighbour, one way.
      network: of a GPU, bytes a second to another machine, one way; None for TPUs, which
        are linked in a grid.
      in_machine: GPUs that `link` joins, all with all.
      ring: of a TPU, the multiples of which an axis of the grid must have for its ends to
        be linked too.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float | None = None
    in_machine: int = 8
    ring: int = 4


_GB = 1e9

TPUS: Mapping[str, Chip] = {
    "v4": Chip(275e12, 32 * 2**30, 1228 * _GB, 45 * _GB),
    "v5e": Chip(197e12, 16 * 2**30, 819 * _GB, 45 * _GB, ring=16),
    "v5p": Chip(459e12, 95 * 2**30, 2765 * _GB, 90 * _GB),
    "v6e": Chip(918e12, 32 * 2**30, 1640 * _GB, 90 * _GB, ring=16),
}
GPUS: Mapping[str, Chip] = {
    "a100": Chip(312e12, 80 * _GB, 2039 * _GB, 300 * _GB, network=25 * _GB),
    "h100": Chip(989e12, 80 * _GB, 3350 * _GB, 450 * _GB, network=50 * _GB),
    "h200": Chip(989e12, 141 * _GB, 4800 * _GB, 450 * _GB, network=50 * _GB),
    "b200": Chip(2250e12, 180 * _GB, 7700 * _GB, 900 * _GB, network=50 * _GB),
}
# Of memory, what the runtime and fragments take.
SPARE = 0.05


def seconds(
    chip: Chip,
    *,
    flops: float,
    traffic: float,
    collectives: Sequence[Collective],
    places: Sequence[Sequence[int]] | None = None,
) -> dict[str, float]:
    """Of a step, by what is waited for: 'compute', 'memory' and 'exchange'.

    Each at the full speed of the device, alone.

    Args:
      flops: of matrix products.
      traffic: bytes read from and written to the device's memory.
      places: of TPUs, the coordinates of each device, in the order of the mesh.
    """
    return {
        "compute": flops / chip.flops,
        "memory": traffic / chip.bandwidth,
        "exchange": sum(_exchange(chip, each, places) for each in collectives),
    }


def _exchange(
    chip: Chip, collective: Collective, places: Sequence[Sequence[int]] | None
) -> float:
    """Seconds of a collective in a step, alone on the links."""
    if collective.pairs:
        slowest = max(
            _among(chip, collective, pair, places) for pair in collective.pairs
        )
        # On TPUs, XLA's rings of permutations turn in both directions at once.
        return slowest / (2 if chip.network is None else 1)
    return _among(chip, collective, collective.members, places)


def _among(
    chip: Chip,
    collective: Collective,
    members: Sequence[int],
    places: Sequence[Sequence[int]] | None,
) -> float:
    """Seconds of a collective among these devices."""
    if chip.network is not None:
        machines = {member // chip.in_machine for member in members}
        if len(machines) == 1:
            return collective.sent / chip.link
        # Those of a group that share a machine share its links to the others.
        sharing = math.ceil(len(members) / len(machines))
        return collective.sent * (1 / chip.link + 1 / (sharing * chip.network))
    if places is None:
        raise ValueError("devices of a grid have places")
    # Along each axis of the grid in which they differ: in both directions where they are a
    # ring; on a line those at the ends have but one neighbour.
    own = zip(*(places[member] for member in members), strict=True)
    links = 0
    for found, of_all in zip(own, zip(*places, strict=True), strict=True):
        count, length = len(set(found)), len(set(of_all))
        if count > 1:
            links += 2 if count == length and length % chip.ring == 0 else 1
    return collective.sent / (chip.link * max(links, 1))
