"""Contrastive losses over a global batch of 32,768 on eight devices: their memory.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.global_batch

For every loss, the temporary memory of a device, by the compiled program of loss and
gradient: with blocks of columns, and with all columns of a device's rows at once. Then
runs the former. --rows takes another batch.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax import sharding
from ecgssl_jax.experiment import Mesh
from ecgssl_jax.methods import all_pairs
from ecgssl_jax.methods.clocs import clocs_loss
from ecgssl_jax.methods.meclip import clip_loss
from ecgssl_jax.methods.simclr import nt_xent_loss

Loss = Callable[[Any, Any, Any], jax.Array]
LOSSES: dict[str, Loss] = {
    "NT-Xent": lambda x, y, ids: nt_xent_loss(x, y, temperature=0.1),
    "CLOCS": lambda x, y, ids: clocs_loss(
        x, y, ids, temperature=0.1, valid=jnp.ones(len(ids), bool)
    ),
}
for _mode in ("clip", "exclude", "positive", "multi_positive"):
    LOSSES[f"MECLIP {_mode}"] = lambda x, y, ids, mode=_mode: clip_loss(
        x, y, ids, temperature=0.1, mode=mode
    )


def arrays_of(rows: int, width: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two embeddings of every row, and ids of which each occurs four times or so."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, rows, width)).astype(np.float32)
    return x[0], x[1], rng.integers(0, rows // 4, rows).astype(np.int32)


def compiled(loss: Loss, rows: int, *, block: int | None = None) -> Any:
    """Loss and gradient on all devices, their rows over the data axis.

    Args:
      block: columns at a time; None as it is.
    """
    split = sharding.batch_sharding(sharding.make_mesh(Mesh()))
    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split) for x in arrays_of(rows)
    ]
    usual = all_pairs.BLOCK
    all_pairs.BLOCK = usual if block is None else block
    try:
        # A new function, or the one traced with other blocks would be found again.
        function = jax.value_and_grad(lambda *arrays: loss(*arrays), (0, 1))
        return jax.jit(function).lower(*shapes).compile()
    finally:
        all_pairs.BLOCK = usual


def temporary(program: Any) -> int:
    """Bytes on a device."""
    return program.memory_analysis().temp_size_in_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32_768)
    args = parser.parse_args()
    split = sharding.batch_sharding(sharding.make_mesh(Mesh()))
    arrays = jax.device_put(arrays_of(args.rows), split)
    print(f"{args.rows} rows on {jax.device_count()} devices")
    for name, loss in LOSSES.items():
        blocks = compiled(loss, args.rows)
        whole = temporary(compiled(loss, args.rows, block=2 * args.rows))
        small = temporary(blocks)
        start = time.perf_counter()
        value, _ = jax.block_until_ready(blocks(*arrays))
        print(
            f"{name:22} {small / 2**20:6.0f} MB instead of {whole / 2**20:6.0f}: a "
            f"{whole / small:.1f}th; loss {float(value):.4f} in "
            f"{time.perf_counter() - start:.0f} s"
        )


if __name__ == "__main__":
    main()
