"""The tf.data pipeline against a record-at-a-time NumPy loader, samples/s.

  python -m benchmarks.pipeline --records=2000 --batch=256

JEPA batches, cropped to 1,000 out of 5,000 samples, 12 leads, int16, with block
masks: from memory (`cache=host`), from disk with a warm page cache (`cache=none`),
and by `benchmarks.numpy_loader` from the same array in memory. The rounds alternate,
so that a machine whose speed drifts moves all alike; quote the ratio. The loader
draws the same kind of mask by the published interval algorithm. Each runs in a
process of its own; `numpy_kept` is the loader with what our programs set in the C
library (`ecgssl_jax.memory`).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import numpy_loader
from benchmarks.rounds import Contender, alternate
from ecgssl_jax.data import masks
from ecgssl_jax.data.mixture import Mixture
from ecgssl_jax.data.pipeline import Pipeline
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset

_CROP, _PATCH = 1000, 25


def make_pipeline(prepared: PreparedSet, cache: str, batch: int) -> Pipeline:
    """Block masks as published: 15 to 25 % kept, blocks of at least 10 patches of 200."""
    num_patches = _CROP // _PATCH
    return Pipeline(
        mixture=Mixture(sets=(prepared,), rows=(np.arange(len(prepared)),)),
        crop=_CROP,
        cache=cache,  # type: ignore[arg-type]
        masks=masks.build("blocks", num_patches, keep=(0.15, 0.25), min_block=2),
        num_patches=num_patches,
        seed=0,
        batch_size=batch,
    )


def make_loader(prepared: PreparedSet, batch: int, scale: float | None) -> Iterator:
    """The NumPy loader on the same array in memory."""
    return numpy_loader.batches(
        prepared.load(),
        batch,
        0,
        scale=scale,
        crop=_CROP,
        patch_size=_PATCH,
        min_block=2,
    )


def samples_per_second(
    make: Callable[..., Iterator], args: tuple, batch: int, seconds: float
) -> Callable[[], float]:
    """-> a function that takes batches for at least `seconds` and returns their rate."""
    batches = make(*args)

    def measure() -> float:
        start, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            next(batches)
            count += batch
        return count / elapsed

    return measure


def make_batches(prepared: PreparedSet, cache: str, batch: int) -> Iterator:
    """The pipeline's batches, without end."""
    return make_pipeline(prepared, cache, batch).batches(0, 10**9)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = synthetic_source(args.records, rate=500.0)
        prepared = prepare_dataset(source, Path(folder) / "synthetic")

        def contender(make, *settings, keeps_memory=True):
            batches = (make, settings, args.batch, args.seconds)
            return Contender(samples_per_second, batches, keeps_memory)

        plain = (make_loader, prepared, args.batch, None)
        scaled = (make_loader, prepared, args.batch, prepared.scale)
        rates = alternate(
            {
                "host": contender(make_batches, prepared, "host", args.batch),
                "disk": contender(make_batches, prepared, "none", args.batch),
                "numpy": contender(*plain, keeps_memory=False),
                "numpy_kept": contender(*plain),
                "numpy_millivolts": contender(*scaled, keeps_memory=False),
            },
            args.rounds,
        )
    result: dict[str, float] = {
        name: round(statistics.median(values)) for name, values in rates.items()
    }
    for name in ("numpy", "numpy_kept", "numpy_millivolts"):
        pairs = zip(rates["host"], rates[name], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        result[f"host_over_{name}"] = round(ratio, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
