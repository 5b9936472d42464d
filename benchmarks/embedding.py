"""`embed` of a prepared set against the bare forward pass: samples/s, and its memory.

  python -m benchmarks.embedding --encoder=runs/jepa-ptbxl --source=data/ptbxl

The bare pass encodes one batch again and again, as many records as the set has; `embed`
reads, encodes and writes all of them. Both are timed once everything is compiled, in
rounds that alternate, each in a process of its own; quote the ratio. The memory is the
largest of a process that does nothing but `embed`, libraries included.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks.rounds import Contender, alternate
from ecgssl_jax import embed, recordings
from ecgssl_jax import encoder as encoders
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.evaluation.features import statistics_of

_BATCH = 256  # windows, as `embed` has them


def bare(run: Path, source: Path) -> Callable[[], float]:
    """-> samples/s of one batch that lies on the device, and of nothing else."""
    frozen = encoders.load(run).frozen
    prepared = open_prepared(source)
    tables = statistics_of([prepared])
    crop = frozen.run.experiment.data.crop
    windows = prepared.length // crop
    records = _BATCH // windows
    ecg = prepared.read(np.arange(records))[:, : windows * crop]
    batch = jax.device_put(
        {
            "ecg": ecg.reshape(records * windows, crop, -1),
            "source": np.zeros(records * windows, np.int32),
            "lead_valid": np.ones((records * windows, ecg.shape[-1]), bool),
        }
    )
    rounds = len(prepared) // records

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            jax.block_until_ready(frozen.function(*frozen.parameters, tables, batch))
        return rounds * records / (time.perf_counter() - began)

    return measure


def arguments(run: Path, source: Path, folder: str) -> list[str]:
    """Of `embed`."""
    output = Path(folder) / "embeddings.parquet"
    return ["prepared", f"--encoder={run}", f"--source={source}", f"--output={output}"]


def whole(run: Path, source: Path) -> Callable[[], float]:
    """-> samples/s of `embed`, from its second batch on: the first compiles."""
    marks: list[tuple[float, int]] = []
    batches = recordings.Recordings.batches

    def marked(self):
        for batch in batches(self):
            marks.append((time.perf_counter(), len(batch[0])))
            yield batch

    recordings.Recordings.batches = marked

    def measure() -> float:
        marks.clear()
        with tempfile.TemporaryDirectory() as folder:
            embed.main(arguments(run, source, folder))
            (began, _), *others = marks
            return sum(count for _, count in others) / (time.perf_counter() - began)

    return measure


def peak_gigabytes(run: Path, source: Path) -> float:
    """Of the resident memory of an `embed` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ecgssl_jax.embed"]
        subprocess.run([*command, *arguments(run, source, folder)], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--encoder", required=True, type=Path, help="workdir of the run")
    add("--source", required=True, type=Path, help="the prepared set")
    add("--rounds", type=int, default=3)
    args = parser.parse_args()
    places = (args.encoder, args.source)
    # First: of all children, the largest one counts.
    peak = peak_gigabytes(*places)
    rates = alternate(
        {
            "bare": Contender(bare, places, keeps_memory=True),
            "embed": Contender(whole, places, keeps_memory=True),
        },
        args.rounds,
    )
    pairs = zip(rates["embed"], rates["bare"], strict=True)
    result = {name: round(statistics.median(x)) for name, x in rates.items()}
    share = statistics.median(ours / theirs for ours, theirs in pairs)
    print(json.dumps({**result, "share": round(share, 3), "gigabytes": round(peak, 2)}))


if __name__ == "__main__":
    main()
