"""The mesh from the config, and (pattern, axes) rules -> shardings."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ecgssl_jax.experiment import Mesh
from ecgssl_jax.rules import match_rules, path_string
from ecgssl_jax.settings import ConfigError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))

Rules = Sequence[tuple[str, tuple[str | None, ...]]]

# Axes name the trailing dimensions of an array, so that stacked layers (one more
# dimension in front) follow the same rules. A dimension that an axis does not
# divide stays whole.
DEFAULT_RULES: Rules = (
    (r"qkv/kernel$", ("fsdp", "tensor", None, None)),
    (r"attention/out/kernel$", ("tensor", None, "fsdp")),
    (r"mlp/in/kernel$", ("fsdp", "tensor")),
    (r"mlp/out/kernel$", ("tensor", "fsdp")),
    # As many columns as there are labels, which no axis need divide.
    (r"classifier/out/kernel$", ("fsdp", None)),
    (r"(kernel|token_embedding)$", (None, "fsdp")),
    (r".*", ()),
)


def make_mesh(
    settings: Mesh, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
    """The mesh over all devices, with axes data, fsdp and tensor.

    Neighbours on an axis are neighbours on the links of a TPU slice, as far as that can
    be; GPUs lie in the order of the machines, those of the tensor axis side by side.

    Raises:
      ConfigError: the axes do not multiply to the number of devices, or TPUs of
        several slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(settings, len(devices))
    if devices[0].platform == "tpu":
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        if slices > 1:
            raise ConfigError(
                f"config.mesh: the {len(devices)} TPUs are of {slices} slices; expected "
                "one: a larger slice, or a job for each"
            )
    # Not `jax.make_mesh`, which refuses axes that are a part of a slice's axis, and,
    # from JAX 0.11 on, GPUs of several machines.
    placed = mesh_utils.create_device_mesh(
        sizes, devices, allow_split_physical_axes=True
    )
    return jax.sharding.Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def axis_sizes(settings: Mesh, devices: int) -> tuple[int, ...]:
    """Of so many devices, with what stands for -1.

    Raises:
      ConfigError: the axes do not multiply to the number of devices.
    """
    sizes = [settings.data, settings.fsdp, settings.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(
            f"config.mesh: sizes must be positive, one of them may be -1; found {sizes}"
        )
    if -1 in sizes:
        # If they do not divide, 1, so that what is asked for is more than none.
        sizes[sizes.index(-1)] = max(devices // known, 1)
    if math.prod(sizes) != devices:
        raise ConfigError(
            f"config.mesh: {dict(zip(AXES, sizes, strict=True))} asks for "
            f"{math.prod(sizes)} devices, found {devices}; change the axes, or "
            "set one to -1 to take what is left"
        )
    return tuple(sizes)


def check_batch(
    batch_size: int, axes: Mapping[str, int], *, accumulate: int = 1
) -> None:
    """Raises ConfigError unless a mesh of such axes can split each micro-batch."""
    devices = axes["data"] * axes["fsdp"]
    if batch_size % (devices * accumulate):
        micro = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise ConfigError(
            f"config.batch_size: {batch_size} rows cannot be split{micro} over the "
            f"{devices} devices of the mesh's data and fsdp axes; take a multiple of "
            f"{devices * accumulate}"
        )


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over the data and fsdp axes."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def one_for_each_device(value: bool, mesh: jax.sharding.Mesh) -> jax.Array:
    """[devices] bool: an entry on every device, with the value of its process.

    Split over all axes of the mesh, because of an array that two processes hold copies
    of, each would read its own value.
    """

    def entries(index):
        return np.full(mesh.size, value)[index]

    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    return jax.make_array_from_callback((mesh.size,), sharding, entries)


def tree_shardings(tree: Any, mesh: jax.sharding.Mesh, rules: Rules) -> Any:
    """The sharding of every leaf (arrays or their shapes) by the first rule.

    Optimiser state and EMA networks follow their parameters, because their paths
    end alike.

    Raises:
      ConfigError: a rule with more axes than the array has dimensions, or an array
        without a rule.
    """
    specs = match_rules(
        [(pattern, PartitionSpec(*axes)) for pattern, axes in rules],
        tree,
        what="config.rules",
    )

    def sharding(path, leaf, spec):
        axes = tuple(spec)
        if leaf.ndim < len(axes):
            if leaf.ndim == 0:
                return replicated(mesh)
            raise ConfigError(
                f"config.rules: {path_string(path)} has {leaf.ndim} dimensions, its "
                f"rule {axes} names more"
            )
        sizes = leaf.shape[leaf.ndim - len(axes) :]
        fitting = [
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, sizes, strict=True)
        ]
        return NamedSharding(
            mesh, PartitionSpec(*[None] * (leaf.ndim - len(axes)), *fitting)
        )

    return jax.tree_util.tree_map_with_path(sharding, tree, specs)


def process_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """[b] int64, ascending: the rows of the global batch that this process's devices hold.

    On a TPU slice, where a mesh follows the links from machine to machine and back, they
    are not all in one piece.
    """
    shards = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in shards if index]))


def to_devices(
    batch: Mapping[str, np.ndarray],
    sharding: NamedSharding,
    batch_size: int,
    rows: np.ndarray,
) -> dict[str, jax.Array]:
    """The global arrays [B, ...] of which this process has `rows` [b], ascending."""
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)

    def whole(values: np.ndarray) -> jax.Array:
        def part(index):
            start, stop, _ = index[0].indices(batch_size)
            low = int(np.searchsorted(rows, start))
            return values[low : low + stop - start]

        shape = (batch_size, *values.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return {name: whole(values) for name, values in batch.items()}


def bytes_on_a_device(tree: Any) -> int:
    """Of arrays, or their shapes, with shardings: the part that one device holds."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def whole_share(tree: Any, mesh: jax.sharding.Mesh) -> float:
    """The share of the bytes of a tree that the fsdp and tensor axes do not divide.

    0 where each device holds no more than its part, 1 where it holds all.
    """
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    if parts == 1 or not total:
        return 0.0
    return (bytes_on_a_device(tree) / total - 1 / parts) / (1 - 1 / parts)
