"""The figures of one program on one mesh: what it holds, computes and exchanges."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

GIB = 2**30
KINDS = ("parameters", "optimiser", "averages", "batch", "activations", "code")
# What a step waits for, and what people call it.
WAITS = {
    "compute": "compute",
    "memory": "memory bandwidth",
    "exchange": "communication",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """Of a step, per device unless said otherwise.

    Attributes:
      topology: name of the devices.
      mesh: (data, fsdp, tensor).
      batch_size: rows of the global batch.
      memory: bytes by kind: 'parameters', 'optimiser', 'averages' (all else that a method
        carries on), 'batch', 'activations' (all that is temporary), 'code'.
      needed: bytes, all in all.
      available: bytes that a program may have; None where not known.
      accumulate, remat: of the config: parts of a batch, and what is computed again.
      compiled: whether the compiler has made the program; where it found it too large,
        memory and FLOPs alone are known.
      flops: of matrix products and convolutions.
      traffic: bytes read from and written to memory.
      collectives: of each kind and number of devices, how often and the bytes sent.
      seconds: 'compute', 'memory', 'exchange', each at full speed; None without figures
        of the chip.
      stand_in: whether they are of a program for other devices.
    """

    topology: str
    mesh: tuple[int, int, int]
    batch_size: int
    memory: Mapping[str, int]
    needed: int
    available: int | None
    accumulate: int = 1
    remat: str = "none"
    compiled: bool = True
    flops: float = 0.0
    traffic: int = 0
    collectives: tuple[Mapping[str, Any], ...] = ()
    seconds: Mapping[str, float] | None = None
    stand_in: bool = False

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        return self.available is None or self.needed <= self.available

    @property
    def sent(self) -> float:
        """Bytes that a device sends to others."""
        return sum(each["sent"] for each in self.collectives)

    @property
    def least_seconds(self) -> float | None:
        """Of a step in which computing, memory and links work all at once."""
        return max(self.seconds.values()) if self.seconds else None

    @property
    def most_seconds(self) -> float | None:
        """Of one in which each waits for the others."""
        return sum(self.seconds.values()) if self.seconds else None

    @property
    def limit(self) -> str | None:
        """What takes the longest."""
        seconds = self.seconds
        return WAITS[max(seconds, key=seconds.__getitem__)] if seconds else None

    @property
    def devices(self) -> int:
        """Of the mesh."""
        return math.prod(self.mesh)

    @property
    def name(self) -> str:
        """Of the mesh: '8x2x1'."""
        return "x".join(map(str, self.mesh))

    def as_json(self) -> dict[str, Any]:
        """All of it, as `from_json` takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Figures":
        """What `as_json` gave."""
        sequences = {name: tuple(values[name]) for name in ("mesh", "collectives")}
        return cls(**{**values, **sequences})
