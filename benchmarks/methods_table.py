"""Every method on the same encoders, records, time and probe: one table.

  python -m benchmarks.methods_table --root=data --output=runs/methods_table

Each run trains for as many steps as fit into `--minutes` by its speed at the start
(on an idle machine), on PTB-XL's folds 1-8; then a linear probe on its frozen
features gives the macro AUROC on fold 9, the selection fold. The last checkpoint counts,
not the best one. What is finished is not repeated: the same command goes on after an
interruption, with the steps that were chosen first, and prints what there is.

`--measure` only chooses the steps of every run. After it, the runs themselves may share
the machine: with other work they take longer and train as many steps. On two cores, two
at a time are done sooner, each on one of them:

  taskset -c 0 python -m benchmarks.methods_table --root=data --seeds 0
  taskset -c 1 python -m benchmarks.methods_table --root=data --seeds 1

`--results=benchmarks/methods_table --show` prints the figures that come with the project.

More samples, on a GPU: ten times as many as those steps had, in batches four times as
large, from the GPU's memory:

  python -m benchmarks.methods_table --root=data --seeds 0 --cache=device \\
      --steps-of=benchmarks/methods_table --times=10 --batch-times=4 \\
      --output=runs/ten_times
"""

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.evaluation.markdown import markdown_table, mean_figure
from ecgssl_jax.runs import training_summary

MEASURED_STEPS = 60
TASKS = ("superdiagnostic", "all")
DIRECTIONS = ("ECG to report", "report to ECG")  # of the retrieval

# What `config.model` is for each encoder; the methods' own settings are their configs'.
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "ViT-XS": dict(name="vit", preset="xs", patch_size=20),
    "ResNet1D-18": dict(name="resnet", preset="18"),
}
# Row -> config file and changes to it.
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "JEPA": ("jepa", {}),
    "SimCLR": ("simclr", {}),
    "BYOL": ("byol", {}),
    "CLOCS": ("clocs", {}),
    **{
        f"MECLIP, {mode}": ("meclip", {"method.mode": mode})
        for mode in ("clip", "exclude", "positive", "multi_positive")
    },
    "supervised": ("supervised", {}),
}
# Further changes for runs that see no more than their minutes come to.
SHORT: Mapping[str, Mapping[str, Any]] = {
    # The config's momentum is one for longer runs: the encoder that is kept, an average,
    # would lag by a third of so short a one.
    "JEPA": {"method.ema": (0.99, 0.999)},
}


def plan() -> Iterator[tuple[str, str]]:
    """(encoder, method) of every trained row."""
    for method, encoder in itertools.product(METHODS, ENCODERS):
        if method != "JEPA" or ENCODERS[encoder]["name"] == "vit":
            yield encoder, method


def command(
    encoder: str,
    method: str,
    seed: int,
    steps: int,
    root: str,
    more: Mapping[str, Any] | None = None,
) -> list[str]:
    """The entry point's arguments for a run of so many steps, with `more` settings."""
    file, changes = METHODS[method]
    settings = {
        "model": dict(ENCODERS[encoder]),
        "steps": steps,
        "seed": seed,
        "log_every": 20,
        "checkpoint.every": max(steps // 4, 1),
        "evaluators.probe.every": max(steps // 3, 1),
        **changes,
        **(more or {}),
    }
    flags = [f"--config.{key}={value!r}" for key, value in settings.items()]
    module = [sys.executable, "-m", "ecgssl_jax.main"]
    return [*module, f"--config=configs/{file}.py:ptbxl,root={root}", *flags]


def name_of(*parts: Any) -> str:
    """A folder's name: 'ViT-XS', 'MECLIP, clip', 0 -> 'vit-xs_meclip-clip_0'."""
    return "_".join(str(part).lower().replace(", ", "-") for part in parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders:
    """Where things are.

    Attributes:
      root: of the prepared set.
      workdirs: of the runs; needed until they are done.
      steps: one small file for each number of steps.
      results: one small file for each run that is done.
    """

    root: str
    workdirs: Path
    steps: Path
    results: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How much more a run sees than its minutes come to.

    Attributes:
      times: as many samples.
      batch_times: as large batches, so that as many fewer steps see them.
      cache: `config.data.cache`.
    """

    times: float = 1.0
    batch_times: int = 1
    cache: str = "host"

    def settings(self, method: str, batch_size: int) -> dict[str, Any]:
        """Of the config, for a row whose batches without scale have `batch_size`."""
        return {
            "batch_size": batch_size * self.batch_times,
            "data.cache": self.cache,
            **(SHORT.get(method, {}) if self.times <= 1 else {}),
        }


def choose_steps(
    encoder: str, method: str, minutes: float, folders: Folders
) -> dict[str, Any]:
    """Steps that take `minutes` by the speed of a short run, chosen once.

    Rows of one config file, such as the modes of MECLIP, take the same number.
    """
    config, _ = METHODS[method]
    file = folders.steps / f"{name_of(encoder, config)}_steps.json"
    if not file.exists():
        workdir = folders.workdirs / f"{name_of(encoder, config)}_speed"
        measure = command(encoder, method, 0, MEASURED_STEPS, folders.root)
        # Without a probe: its time is not the training's.
        measure += ["--config.evaluators.probe=None", f"--workdir={workdir}"]
        subprocess.run(measure, check=True)
        speed = training_summary(workdir)["samples_per_second"]
        batch = json.loads((workdir / "run.json").read_text())["config"]["batch_size"]
        chosen = {
            "steps": round(60 * minutes * speed / batch),
            "batch_size": batch,
            "samples_per_second": round(speed, 1),
            "minutes": minutes,
        }
        write(file, chosen)
    return json.loads(file.read_text())


def run(
    encoder: str,
    method: str,
    seed: int,
    minutes: float,
    folders: Folders,
    scale: Scale,
) -> None:
    """Trains, evaluates and keeps the figures, unless that is done."""
    file = folders.results / f"{name_of(encoder, method, seed)}.json"
    if file.exists():
        print(f"{method}: taken from {file}; delete it to train again")
        return
    chosen = choose_steps(encoder, method, minutes, folders)
    steps = round(chosen["steps"] * scale.times / scale.batch_times)
    workdir = folders.workdirs / name_of(encoder, method, seed)
    more = scale.settings(method, chosen["batch_size"])
    train = command(encoder, method, seed, steps, folders.root, more)
    subprocess.run([*train, f"--workdir={workdir}"], check=True)
    evaluate = [sys.executable, "-m", "ecgssl_jax.evaluate", f"--workdir={workdir}"]
    evaluate += ["--checkpoint=newest", f"--config.tasks={','.join(TASKS)}"]
    evaluate += ["--config.baselines=random encoder", f"--config.seeds={seed}"]
    evaluate += ["--config.report=False"]
    subprocess.run(evaluate, check=True)
    write(file, kept(json.loads((workdir / "evaluation/results.json").read_text())))


def kept(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's results.json, what the tables show and what made it."""
    figures = ("encoder", "seed", "task", "macro_auroc", "probe")
    parts = ("step", "training", "retrieval", "versions", "devices", "git_revision")
    results = [
        {key: each[key] for key in figures}
        for each in document["results"]
        if each["protocol"] == "linear"
    ]
    return {"results": results, **{key: document[key] for key in parts}}


def write(file: Path, document: Mapping[str, Any]) -> None:
    """As JSON, in one step: what is there is whole."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(file)


def done(results: Path, seeds: Sequence[int]) -> dict[tuple[str, str, int], dict]:
    """(encoder, method, seed) -> what is kept of the runs that are done."""
    runs = {}
    for (encoder, method), seed in itertools.product(plan(), seeds):
        file = results / f"{name_of(encoder, method, seed)}.json"
        if file.exists():
            runs[encoder, method, seed] = json.loads(file.read_text())
    return runs


def scores(runs: Mapping[tuple[str, str, int], dict]) -> dict[tuple[str, str], dict]:
    """(encoder, row) -> task -> macro AUROCs: of each seed, or of each random encoder."""
    found: dict[tuple[str, str], dict[str, dict[Any, float]]] = {}
    for (encoder, method, seed), document in runs.items():
        for result in document["results"]:
            value = result["macro_auroc"]
            row, which = method, seed
            if result["encoder"].startswith("random"):
                # Methods that draw parameters alike begin with the same encoder; up to
                # rounding it has one figure.
                row, which = "random", (seed, round(value, 4))
            tasks = found.setdefault((encoder, row), {})
            tasks.setdefault(result["task"], {})[which] = value
    return found


def table(found: Mapping[tuple[str, str], Mapping], seeds: Sequence[int]) -> str:
    """Markdown: a row for each method, for each encoder its tasks.

    Mean and standard deviation of the seeds, or what is there and how many seeds.
    """
    encoders = [encoder for encoder in ENCODERS if (encoder, "random") in found]
    columns = list(itertools.product(encoders, TASKS))
    header = ["macro AUROC, fold 9", *(" ".join(column) for column in columns)]
    rows = []
    for row in ("random", *METHODS):
        cells = []
        for encoder, task in columns:
            values = list(found.get((encoder, row), {}).get(task, {}).values())
            cell = mean_figure(values) if values else ""
            if 0 < len(values) < len(seeds):
                cell += f" ({len(values)} seed)"
            cells.append(cell)
        rows.append([row, *cells])
    return markdown_table(header, rows)


def retrieval_table(runs: Mapping[tuple[str, str, int], dict]) -> str:
    """Markdown: recall of reports and ECGs, mean and deviation of the seeds.

    Empty without a run that learns from reports.
    """
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (encoder, method, _), document in runs.items():
        for direction, each in document["retrieval"].items():
            if direction not in DIRECTIONS:
                continue
            cells = rows.setdefault((encoder, method), {})
            for depth, recall in each["recall"].items():
                cells.setdefault(f"{direction} @{depth}", []).append(recall)
                chance = rows.setdefault((encoder, "a random order"), {})
                chance[f"{direction} @{depth}"] = [each["chance"][depth]]
    if not rows:
        return ""
    columns = list(next(iter(rows.values())))
    body = [
        [*names, *(mean_figure(rows[names][column]) for column in columns)]
        for names in itertools.product(ENCODERS, ("a random order", *METHODS))
        if names in rows
    ]
    return markdown_table(["recall, fold 9", "", *columns], body)


def budget_table(folder: Path) -> str:
    """Markdown: what each config's minutes came to."""
    rows = []
    for encoder, config in dict.fromkeys((e, METHODS[m][0]) for e, m in plan()):
        file = folder / f"{name_of(encoder, config)}_steps.json"
        if file.exists():
            chosen = json.loads(file.read_text())
            numbers = (chosen["steps"], chosen["batch_size"])
            speed = f"{chosen['samples_per_second']:.0f}"
            rows.append([encoder, config, *map(str, numbers), speed])
    return markdown_table(["encoder", "config", "steps", "batch", "samples/s"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", default="data", help="folder of the prepared ptbxl")
    add("--output", type=Path, default=Path("runs/methods_table"), help="of the runs")
    add("--results", type=Path, help="of what is done; default: OUTPUT/results")
    add("--minutes", type=float, default=15.0)
    add("--steps-of", type=Path, help="folder of the steps; default: the results'")
    add("--times", type=float, default=1.0, help="as many samples")
    add("--batch-times", type=int, default=1, help="as large batches")
    add("--cache", default=Scale.cache, choices=("none", "host", "device"))
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="to run")
    add("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    add("--measure", action="store_true", help="choose the steps only")
    add("--show", action="store_true", help="print what there is")
    args = parser.parse_args()
    results = args.results or args.output / "results"
    folders = Folders(
        root=args.root,
        workdirs=args.output,
        steps=args.steps_of or results,
        results=results,
    )
    scale = Scale(times=args.times, batch_times=args.batch_times, cache=args.cache)
    for folder in (folders.workdirs, folders.steps, folders.results):
        folder.mkdir(parents=True, exist_ok=True)
    if args.measure:
        for encoder, method in plan():
            choose_steps(encoder, method, args.minutes, folders)
    elif not args.show:
        for seed, (encoder, method) in itertools.product(args.seeds, plan()):
            if method in args.methods and encoder in args.encoders:
                run(encoder, method, seed, args.minutes, folders, scale)
    runs = done(results, args.seeds)
    print(table(scores(runs), args.seeds))
    print(f"\n{retrieval_table(runs)}\n\n{budget_table(folders.steps)}")


if __name__ == "__main__":
    main()
