"""The records to train on in this machine's memory, if they fit."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.settings import ConfigError

# The rest stays with the program and TensorFlow's buffers.
_LARGEST_SHARE = 0.9


def load_records(mixture: Mixture) -> np.ndarray:
    """The signals of the R records to train on: [R, T, C] int16, in their order.

    Raises:
      ConfigError: as `check_memory`.
      DamagedSetError: a checksum does not match; names file and record.
    """
    check_memory(mixture)
    return mixture.read(mixture.records)


def check_memory(mixture: Mixture) -> None:
    """Raises ConfigError where the records do not fit into the memory that is free."""
    shape = (len(mixture.records), mixture.length, len(mixture.leads))
    needed, free = 2 * np.prod(shape, dtype=np.int64), available_memory()
    if free is not None and needed > _LARGEST_SHARE * free:
        raise ConfigError(
            f"config.data.cache: 'host' reads {shape[0]} records of {shape[1]} samples "
            f"into memory, {needed / 1e9:.1f} GB, of which {free / 1e9:.1f} GB are "
            "free on this machine; read them on demand with --config.data.cache=none, "
            "or divide them over the accelerators' memory with =device"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take; None where the system does not say.

    Linux's own estimate, or what is left of the limit of a control group that the
    process is in: that of a container, or of a job on a cluster.

    Args:
      root: where /proc and /sys are.
    """
    try:
        memory = (root / "proc/meminfo").read_text()
        found = re.search(r"MemAvailable: *(\d+) kB", memory)
        groups = list(_memory_groups(root))
    except OSError:
        return None
    if found is None:
        return None
    return min([int(found[1]) * 1024, *filter(None, map(_left_in_group, groups))])


def _memory_groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups, old and new, that limit this process."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # A container may see its own group as the root, or not see those above it.
        group = top / path.lstrip("/")
        yield from (group, *(up for up in group.parents if up.is_relative_to(top)))


def _left_in_group(group: Path) -> int | None:
    """Bytes below the group's limit, with those that cached files can give back."""
    for limit, usage, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            most = int((group / limit).read_text())
            used = int((group / usage).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            statistics = dict(line.split() for line in lines)
            kinds = (f"{prefix}active_file", f"{prefix}inactive_file")
            files = sum(int(statistics[kind]) for kind in kinds)
            return max(most - used + files, 1)
        except (OSError, ValueError, KeyError):
            continue  # 'max': no limit
    return None
