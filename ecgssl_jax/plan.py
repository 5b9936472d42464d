"""Whether a model fits devices that are not here, and what a step will cost there.

    python -m ecgssl_jax.plan --config=configs/jepa.py --topology=v5e:4x4
    python -m ecgssl_jax.plan --config=configs/jepa.py --topology=v5p:4x4x4,h100:64 \
        --meshes=64x1x1,8x8x1,1x64x1 --config.batch_size=4096

The step of the config is compiled for the TPUs of each topology, for every mesh of sizes
DATAxFSDPxTENSOR, without data and without a TPU (pip install -e '.[tpu]'). For GPUs
(a100, h100, h200, b200 and their number) as many TPUs stand in: those figures are
estimates. 'here' compiles for the devices of this machine. Times are of chips at full
speed, so that steps take longer than 'at best'. Prints tables, and with --output writes
them to plan.json and plan.png. Settings of the config are replaced by
--config.KEY=VALUE.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import re
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ecgssl_jax import config_files, plots, sharding
from ecgssl_jax.build_method import make_method
from ecgssl_jax.data.workers import usable_cores
from ecgssl_jax.errors import exit_with_message
from ecgssl_jax.evaluation.markdown import markdown_table
from ecgssl_jax.experiment import Experiment, Mesh
from ecgssl_jax.output_folder import check_writable, whole_file
from ecgssl_jax.planning.advice import STATE, short_verdict, verdict
from ecgssl_jax.planning.devices import HERE, Devices, count_devices, find_devices
from ecgssl_jax.planning.figures import GIB, Figures
from ecgssl_jax.planning.kept import kept
from ecgssl_jax.planning.picture import draw
from ecgssl_jax.planning.program import plan_step
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.stand_in import parse_without_data

_SHORT = 1e-3  # seconds


def make_parser() -> argparse.ArgumentParser:
    """The command line, without --config.KEY."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgssl_jax.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, help="a file of configs/, or FILE:ARGUMENT")
    add(
        "--topology",
        required=True,
        help="what to plan for, such as v5e:8x8 or v5p:4x4x4,h100:64",
    )
    add("--meshes", help="such as 64x1x1,8x8x1; default: the config's")
    add("--output", type=Path, help="folder of plan.json and plan.png")
    add("--no-cache", action="store_true", help="compile again what was compiled")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Prints the plans, and writes them where that is asked for."""
    with exit_with_message("plan"):
        rest, overrides = config_files.split_overrides(
            sys.argv[1:] if argv is None else argv
        )
        args = make_parser().parse_args(rest)
        if args.output:
            check_writable(args.output)
        config = config_files.load(args.config, overrides)
        plans = make_plans(
            config, args.topology.split(","), args.meshes, cache=not args.no_cache
        )
        print(describe(plans))
        if (config.get("data") or {}).get("cache") == "device":
            print(
                "\nNot counted: the memory of the data set and the exchange of its crops, "
                "with data.cache='device' (docs/scaling.md)."
            )
        if args.output:
            _write(plans, args.config, args.output)


def make_plans(
    config: dict[str, Any],
    topologies: Sequence[str],
    meshes: str | None = None,
    *,
    cache: bool = True,
) -> list[Figures]:
    """Of every mesh on every topology; what is not kept is compiled side by side.

    Args:
      meshes: 'DATAxFSDPxTENSOR,...'; a size may be -1. None for the config's.

    Raises:
      ConfigError: a config, topology or mesh that there cannot be.
    """
    experiment = parse_without_data(config)
    wanted = [experiment.mesh]
    if meshes is not None:
        wanted = list(dict.fromkeys(map(_mesh, meshes.split(","))))
    names = list(dict.fromkeys(topologies))
    for name, mesh in itertools.product(names, wanted):
        _check(experiment, name, mesh)  # all of them, before one takes minutes
    method = make_method(experiment)
    described = {"experiment": dataclasses.asdict(experiment)}
    # The compiler's library is opened by one thread.
    finding, cached = threading.Lock(), functools.cache(find_devices)

    def find(name: str) -> Devices:
        with finding:
            return cached(name)

    def figures(name: str, mesh: Mesh) -> Figures:
        def make() -> Figures:
            return plan_step(experiment, find(name), mesh)

        # What is here may be something else next time.
        if name == HERE or not cache:
            return make()
        place = {"topology": name, "mesh": dataclasses.asdict(mesh)}
        return kept({**described, **place}, make, method)

    with ThreadPoolExecutor(usable_cores()) as pool:
        pairs = zip(*itertools.product(names, wanted), strict=True)
        return list(pool.map(figures, *pairs))


def _check(experiment: Experiment, name: str, mesh: Mesh) -> None:
    """Raises ConfigError unless there is such a topology, which takes mesh and batch."""
    count = count_devices(name)
    try:
        sizes = sharding.axis_sizes(mesh, count)
        axes: dict[str, int] = dict(zip(sharding.AXES, sizes, strict=True))
        accumulate = experiment.optim.accumulate
        sharding.check_batch(experiment.batch_size, axes, accumulate=accumulate)
    except ConfigError as error:
        raise ConfigError(f"on {name}: {error}") from error


def _mesh(text: str) -> Mesh:
    found = re.fullmatch(r"(-1|[1-9]\d*)x(-1|[1-9]\d*)x(-1|[1-9]\d*)", text)
    if not found:
        raise ConfigError(
            f"--meshes: expected sizes of data, fsdp and tensor, such as 8x4x1, found "
            f"{text!r}"
        )
    data, fsdp, tensor = map(int, found.groups())
    return Mesh(data=data, fsdp=fsdp, tensor=tensor)


def describe(plans: Sequence[Figures]) -> str:
    """A table, and what to change where something does not fit."""
    header = ["topology", "mesh", "GiB a device", "of them state", "of", "sent, MB"]
    header += ["step at best, ms", "samples/s", "limited by", "verdict"]
    lines = [markdown_table(header, [_row(each) for each in plans])]
    for each in plans:
        if not each.fits:
            lines.append(f"{each.topology} {each.name} {verdict(each)}")
        elif not each.compiled:
            lines.append(
                f"{each.topology} {each.name} fits, but is larger than the devices that "
                "stand in: what it moves is not known"
            )
    first = plans[0]
    samples = first.flops * first.devices / first.batch_size
    lines.append(
        f"{samples / 1e9:.3g} GFLOP a sample, in batches of {first.batch_size}. State: "
        "parameters, optimiser and averages. The first time is of computing, memory and "
        "links that work all at once, the second of each waiting for the others."
    )
    if any((each.most_seconds or 1) < _SHORT for each in plans):
        lines.append(
            "Steps of less than a millisecond are decided by the time in which kernels "
            "and exchanges start, which is not counted."
        )
    if any(each.stand_in for each in plans):
        lines.append(
            "Figures for GPUs are estimates: of the program for as many TPUs, at the "
            "speeds of the GPUs."
        )
    return "\n\n".join(lines)


def _row(figures: Figures) -> list[str]:
    row = [figures.topology, figures.name, f"{figures.needed / GIB:.2f}"]
    state = sum(figures.memory.get(kind, 0) for kind in STATE) / GIB
    row.append(f"{state:.2f}")
    row.append(f"{figures.available / GIB:.1f}" if figures.available else "")
    row.append(f"{figures.sent / 1e6:.0f}" if figures.compiled else "")
    least, most = figures.least_seconds, figures.most_seconds
    if least and most:
        row.append(f"{1e3 * least:.3g} to {1e3 * most:.3g}")
        rates = (figures.batch_size / seconds for seconds in (most, least))
        row.append(" to ".join(f"{rate:,.0f}" for rate in rates))
    else:
        row += ["", ""]
    return [*row, figures.limit or "", short_verdict(figures)]


def _write(plans: Sequence[Figures], name: str, folder: Path) -> None:
    values = [{**each.as_json(), "verdict": verdict(each)} for each in plans]
    with whole_file(folder / "plan.json") as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n")
    plots.save(draw(plans, title=name), folder / "plan.png")
    print(f"\nwrote {folder / 'plan.json'} and {folder / 'plan.png'}")


if __name__ == "__main__":
    main()
