"""How fast the step of a config is on the devices that are here, and what it takes.

    python -m ecgssl_jax.benchmark --config=configs/jepa.py
    python -m ecgssl_jax.benchmark --config=configs/simclr.py --data --config.batch_size=256

Times the step alone, on one made-up batch that lies on the devices, so that no data are
needed; with --data also the whole of a run, its batches of the config's own data. Says
how much of the speed of a large matrix product that is, what memory the step takes, and
how much of its time the exchange between devices needs. Settings of the config are
replaced by --config.KEY=VALUE. Launchers run it in several processes with
--module=ecgssl_jax.benchmark.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ecgssl_jax import config_files, processes, reporting, sharding
from ecgssl_jax.assembly import make_task
from ecgssl_jax.config_completion import complete
from ecgssl_jax.errors import exit_with_message
from ecgssl_jax.experiment import Experiment, parse
from ecgssl_jax.memory import keep_freed_memory
from ecgssl_jax.models.encoders import compute_dtype
from ecgssl_jax.output_folder import check_writable, whole_file
from ecgssl_jax.planning.program import memory_by_kind, step_flops
from ecgssl_jax.planning.program_text import collectives, total_sent
from ecgssl_jax.platforms import platform
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.stand_in import parse_without_data, stand_in_task
from ecgssl_jax.step import set_up
from ecgssl_jax.task import Task, closing

_WARM_UP = 3
# Sizes of what is measured beside the step: large enough for full speed.
_MATRIX = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
_EXCHANGED = {"cpu": 2**22, "gpu": 2**26, "tpu": 2**26}  # numbers of float32


def make_parser() -> argparse.ArgumentParser:
    """The command line, without --config.KEY."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="a file of configs/, or FILE:ARGUMENT")
    add("--steps", type=int, default=10, help="of a round; default 10")
    add("--rounds", type=int, default=5, help="that are timed; default 5")
    add("--data", action="store_true", help="also with batches of the config's data")
    add("--output", type=Path, help="a JSON file of the figures")
    processes.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Prints the figures, and writes them where that is asked for."""
    keep_freed_memory()
    with exit_with_message("benchmark"):
        rest, overrides = config_files.split_overrides(
            sys.argv[1:] if argv is None else argv
        )
        args = make_parser().parse_args(rest)
        if min(args.steps, args.rounds) < 1:
            raise ConfigError("--steps and --rounds: expected at least 1")
        if args.output:
            check_writable(args.output.parent)
        processes.initialise(args.coordinator, args.num_processes, args.process_id)
        config = config_files.load(args.config, overrides)
        if args.data:
            experiment = parse(complete(config))
            tasks = {"step": stand_in_task(experiment), "run": make_task(experiment)}
        else:
            experiment = parse_without_data(config)
            tasks = {"step": stand_in_task(experiment)}
        figures = measure(experiment, tasks["step"], args.steps, args.rounds)
        if args.data:
            rates = rates_of_a_run(experiment, tasks["run"], args.steps, args.rounds)
            figures["samples_per_second_with_data"] = rates
        if processes.is_first():
            print(describe(figures))
            if args.output:
                with whole_file(args.output) as partial:
                    partial.write_text(json.dumps(figures, indent=2) + "\n")


def measure(
    experiment: Experiment, task: Task, steps: int, rounds: int
) -> dict[str, Any]:
    """The figures of the step on one batch that is on the devices.

    Args:
      task: whose batches are complete.
    """
    setup = set_up(experiment, task)
    batch = setup.put(next(task.batches(0, 1, setup.rows)))
    traced = setup.update.trace(setup.abstract, setup.batch, None)
    compiled = traced.lower().compile()
    stepped = _Stepping(compiled, setup.first(), itertools.repeat(batch), None)
    stepped(_WARM_UP)
    times = [stepped(steps) / steps for _ in range(rounds)]
    seconds = statistics.median(times)
    devices = setup.mesh.size
    flops = step_flops(experiment, setup.mesh, traced.jaxpr)
    found = collectives(compiled.as_text())
    figures: dict[str, Any] = {
        **reporting.describe_run(),
        "mesh": dict(setup.mesh.shape),
        "batch_size": experiment.batch_size,
        "seconds": times,
        "samples_per_second": experiment.batch_size / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "matrix_flops_per_second": matrix_speed(setup.mesh, experiment.dtype),
        "memory": memory_by_kind(setup, compiled.memory_analysis()),
        "memory_peak": _memory_peak(),
        "sent": total_sent(found),
    }
    if devices > 1:
        figures["sent_per_second"] = exchange_speed(setup.mesh)
    return figures


def rates_of_a_run(
    experiment: Experiment, task: Task, steps: int, rounds: int
) -> list[float]:
    """Samples/s of training steps with all that brings their batches."""
    setup = set_up(experiment, task)
    resident = None if task.resident is None else task.resident()
    count = _WARM_UP + steps * rounds
    with closing(task.batches(0, count, setup.rows)) as local:
        batches = map(setup.put, local)
        stepped = _Stepping(setup.update, setup.first(), batches, resident)
        stepped(_WARM_UP)
        size = experiment.batch_size * steps
        return [size / stepped(steps) for _ in range(rounds)]


@dataclasses.dataclass
class _Stepping:
    """Makes steps as a run does, reading the metrics of each after the next began."""

    update: Callable[..., Any]
    state: Any
    batches: Iterator[Any]
    resident: Any

    def __call__(self, steps: int) -> float:
        """-> seconds of that many steps."""
        start = time.perf_counter()
        pending = None
        for _ in range(steps):
            self.state, metrics = self.update(
                self.state, next(self.batches), self.resident
            )
            if pending is not None:
                jax.block_until_ready(pending)
            pending = metrics
        jax.block_until_ready(self.state)
        return time.perf_counter() - start


def matrix_speed(mesh: jax.sharding.Mesh, dtype: str) -> float:
    """FLOP/s of products of large matrices in that precision, on all devices at once."""
    size = _MATRIX[platform()]
    each = NamedSharding(mesh, PartitionSpec(sharding.AXES))
    shape = (mesh.size, size, size)

    def ones():
        return jnp.ones(shape, compute_dtype(dtype))

    x = jax.jit(ones, out_shardings=each)()
    product = jax.jit(lambda x: x @ x, out_shardings=each)
    return 2.0 * mesh.size * size**3 / _fastest(lambda: product(x))


def exchange_speed(mesh: jax.sharding.Mesh) -> float:
    """Bytes a second that a device sends in a sum of a large array over all of them."""
    size = _EXCHANGED[platform()]
    each = NamedSharding(mesh, PartitionSpec(sharding.AXES))
    x = jax.jit(lambda: jnp.ones((mesh.size, size)), out_shardings=each)()
    total = jax.jit(lambda x: x.sum(axis=0), out_shardings=sharding.replicated(mesh))
    sent = 2 * (mesh.size - 1) / mesh.size * size * 4
    return sent / _fastest(lambda: total(x))


def _fastest(function: Callable[[], Any], tries: int = 5) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def _memory_peak() -> int | None:
    """Bytes of the fullest device of this process, where they are counted."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return max(peaks, default=None)


def describe(figures: dict[str, Any]) -> str:
    """The figures for people."""
    times = figures["seconds"]
    seconds = statistics.median(times)
    memory = {name: size / 2**30 for name, size in figures["memory"].items()}
    parts = ", ".join(f"{name} {size:.3g}" for name, size in memory.items() if size)
    lines = {
        "devices": f"{figures['devices']}, mesh {figures['mesh']}",
        "step": (
            f"{1e3 * seconds:.3g} ms ({_range([1e3 * x for x in times])}) for "
            f"{figures['batch_size']} rows: {figures['samples_per_second']:,.0f} samples/s"
        ),
        "products": (
            f"{figures['flops'] / 1e9:.3g} GFLOP a step, "
            f"{figures['flops_per_second'] / 1e12:.3g} TFLOP/s: "
            f"{figures['flops_per_second'] / figures['matrix_flops_per_second']:.0%} of "
            f"the {figures['matrix_flops_per_second'] / 1e12:.3g} of a large product here"
        ),
        "memory": f"{sum(memory.values()):.3g} GiB a device: {parts}",
    }
    if figures["memory_peak"]:
        lines["memory"] += f"; {figures['memory_peak'] / 2**30:.3g} at most so far"
    if "sent_per_second" in figures:
        share = figures["sent"] / figures["sent_per_second"] / seconds
        lines["exchange"] = (
            f"{figures['sent'] / 1e6:.3g} MB sent by each device in a step; alone that "
            f"takes about {share:.0%} of its time"
        )
    if rates := figures.get("samples_per_second_with_data"):
        rate = statistics.median(rates)
        lines["with data"] = (
            f"{rate:,.0f} samples/s ({_range(rates)}), "
            f"{rate / figures['samples_per_second']:.0%} of the step alone"
        )
    return "\n".join(f"{name:<10} {line}" for name, line in lines.items())


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


if __name__ == "__main__":
    main()
