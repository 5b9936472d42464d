"""Prepared sets in the memory of the accelerators, and batches cut from it there.

The records are divided over the mesh's data and fsdp axes. A batch says which row
and which start each of its crops has; every device cuts those crops that lie in its
own part, and the crops, never the set, travel to the devices that train on them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ecgssl_jax.data.mixture import Mixture

_PARTS = ("data", "fsdp")


def load_records(mixture: Mixture, mesh: Mesh) -> jax.Array:
    """The signals of the R records to train on, over the mesh: [R', T * C] int16.

    Every process reads only what its own devices hold. R' is R filled up with zeros
    to a multiple of the devices.
    """
    records = mixture.records
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    padded = -(-len(records) // parts) * parts
    # Flat, because accelerators pad the last axis, of 12 leads, to 128.
    width = mixture.length * len(mixture.leads)

    # The devices of a tensor axis hold the same part.
    @functools.lru_cache(maxsize=1)
    def read(start: int, stop: int) -> np.ndarray:
        part = np.zeros((stop - start, width), np.int16)
        wanted = records[start:stop]
        part[: len(wanted)] = mixture.read(wanted).reshape(len(wanted), width)
        return part

    def part(index) -> np.ndarray:
        return read(*index[0].indices(padded)[:2])

    sharding = NamedSharding(mesh, PartitionSpec(_PARTS))
    return jax.make_array_from_callback((padded, width), sharding, part)


def make_materialise(
    mesh: Mesh, *, crop: int, leads: int
) -> Callable[[Mapping[str, jax.Array], Any], dict[str, jax.Array]]:
    """(batch, set) -> the batch with `ecg` [B, T, C] int16 for `row` and `start`.

    Args:
      crop: T, samples.
      leads: C.
    """
    spec = PartitionSpec(_PARTS)

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec
    )
    def exchange(signals, row, start):
        # [B] of the global batch: a few numbers, of which all devices know all.
        row, start = (
            jax.lax.all_gather(x, _PARTS, axis=0, tiled=True) for x in (row, start)
        )
        held = len(signals)
        place = row - jax.lax.axis_index(_PARTS) * held
        mine = (place >= 0) & (place < held)

        def cut(place, start):
            at = (place, start * leads)
            return jax.lax.dynamic_slice(signals, at, (1, crop * leads))[0]

        crops = jax.vmap(cut)(jnp.clip(place, 0, held - 1), start)
        crops = jnp.where(mine[:, None], crops, 0)
        # Each crop is zero everywhere but with its owner: the sum is the crop.
        crops = jax.lax.psum_scatter(crops, _PARTS, tiled=True)
        return crops.reshape(-1, crop, leads)

    def materialise(batch, signals):
        batch = dict(batch)
        row, start = batch.pop("row"), batch.pop("start")
        return {**batch, "ecg": exchange(signals, row, start)}

    return materialise
