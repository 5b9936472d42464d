"""Every method on the same encoders, records, time and probe: one table.

  python -m benchmarks.methods_table --root=data --output=runs/methods_table

Each run trains for as many steps as fit into `--minutes` by its speed at the start
(measure on an idle machine), on PTB-XL's folds 1-8; then a linear probe on its frozen
features gives the macro AUROC on fold 9, the selection fold. The last checkpoint counts,
not the best one. What is finished is not repeated: the same command goes on after an
interruption, with the steps that were chosen first, and prints what there is.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgssl_jax.runs import training_summary

MEASURED_STEPS = 60
TASKS = ("superdiagnostic", "all")

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


def plan() -> Iterator[tuple[str, str]]:
    """(encoder, method) of every trained row."""
    for method, encoder in itertools.product(METHODS, ENCODERS):
        if method != "JEPA" or ENCODERS[encoder]["name"] == "vit":
            yield encoder, method


def command(encoder: str, method: str, seed: int, steps: int, root: str) -> list[str]:
    """The entry point's arguments for a run of so many steps."""
    file, changes = METHODS[method]
    settings = {
        "model": dict(ENCODERS[encoder]),
        "steps": steps,
        "seed": seed,
        "log_every": 20,
        "checkpoint.every": max(steps // 4, 1),
        "evaluators.probe.every": max(steps // 3, 1),
        **changes,
    }
    flags = [f"--config.{key}={value!r}" for key, value in settings.items()]
    module = [sys.executable, "-m", "ecgssl_jax.main"]
    return [*module, f"--config=configs/{file}.py:ptbxl,root={root}", *flags]


def name_of(*parts: Any) -> str:
    """A folder's name: 'ViT-XS', 'MECLIP, clip', 0 -> 'vit-xs_meclip-clip_0'."""
    return "_".join(str(part).lower().replace(", ", "-") for part in parts)


def choose_steps(
    encoder: str, method: str, minutes: float, root: str, output: Path
) -> int:
    """Steps that take `minutes` by the speed of a short run, chosen once."""
    file = output / f"{name_of(encoder, method)}_steps.json"
    if not file.exists():
        workdir = output / f"{name_of(encoder, method)}_speed"
        measure = command(encoder, method, 0, MEASURED_STEPS, root)
        # Without a probe: its time is not the training's.
        measure += ["--config.evaluators.probe=None", f"--workdir={workdir}"]
        subprocess.run(measure, check=True)
        seconds = training_summary(workdir)
        size = seconds["samples_per_second"]
        batch = json.loads((workdir / "run.json").read_text())["config"]["batch_size"]
        steps = round(60 * minutes * size / batch)
        document = {"steps": steps, "samples_per_second": size, "minutes": minutes}
        file.write_text(json.dumps(document))
    return json.loads(file.read_text())["steps"]


def run(
    encoder: str, method: str, seed: int, minutes: float, root: str, output: Path
) -> None:
    """Trains and evaluates, unless that is done."""
    workdir = output / name_of(encoder, method, seed)
    if (workdir / "results.json").exists():
        return
    steps = choose_steps(encoder, method, minutes, root, output)
    train = command(encoder, method, seed, steps, root)
    subprocess.run([*train, f"--workdir={workdir}"], check=True)
    evaluate = [sys.executable, "-m", "ecgssl_jax.evaluate", f"--workdir={workdir}"]
    evaluate += ["--checkpoint=newest", f"--task={','.join(TASKS)}", "--no-spectrum"]
    subprocess.run(evaluate, check=True)


def scores(output: Path, seeds: Sequence[int]) -> dict[tuple[str, str], dict]:
    """(encoder, row) -> task -> macro AUROC of each seed, of the runs that are done."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for (encoder, method), seed in itertools.product(plan(), seeds):
        file = output / name_of(encoder, method, seed) / "results.json"
        if not file.exists():
            continue
        for result in json.loads(file.read_text())["results"]:
            row = "random" if result["encoder"].startswith("random") else method
            tasks = found.setdefault((encoder, row), {})
            # Every method starts from its own random encoder; the first one's counts.
            tasks.setdefault(result["task"], {}).setdefault(seed, result["macro_auroc"])
    return found


def table(found: Mapping[tuple[str, str], Mapping], seeds: Sequence[int]) -> str:
    """Markdown: a row for each method, for each encoder its tasks; (n) of n seeds."""
    columns = list(itertools.product(ENCODERS, TASKS))
    lines = [
        ["macro AUROC, fold 9", *(f"{encoder} {task}" for encoder, task in columns)],
        ["---"] * (len(columns) + 1),
    ]
    for row in ("random", *METHODS):
        cells = []
        for encoder, task in columns:
            values = list(found.get((encoder, row), {}).get(task, {}).values())
            cell = f"{statistics.mean(values):.3f}"[1:] if values else ""
            if 0 < len(values) < len(seeds):
                cell += f" ({len(values)} seed)"
            cells.append(cell)
        lines.append([row, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default="data", help="folder of the prepared ptbxl")
    parser.add_argument("--output", type=Path, default=Path("runs/methods_table"))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--show", action="store_true", help="print what there is")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.show:
        for seed, (encoder, method) in itertools.product(args.seeds, plan()):
            run(encoder, method, seed, args.minutes, args.root, args.output)
    print(table(scores(args.output, args.seeds), args.seeds))


if __name__ == "__main__":
    main()
