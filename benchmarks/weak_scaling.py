"""What devices exchange as there are more of them, each with as many rows: on paper.

  python -m benchmarks.weak_scaling --output=docs/scaling

For JEPA on a ViT-L and SimCLR on a ViT-S, on the axes `data` and `fsdp`, compiles the
step for 8, 64, 512 and 4096 chips of TPU v5p and reads what each sends in a step; times
are those of v5p, and of H100 machines of eight. Needs libtpu (the extra
`tpu`); a program takes half a minute to two minutes, and is kept between calls. Writes
OUTPUT.json and OUTPUT.png, and prints a table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ecgssl_jax import plots
from ecgssl_jax.config_files import load
from ecgssl_jax.evaluation.markdown import markdown_table
from ecgssl_jax.output_folder import whole_file
from ecgssl_jax.plan import make_plans
from ecgssl_jax.planning.figures import Figures

SLICES = {8: "2x2x2", 64: "4x4x4", 512: "8x8x8", 4096: "16x16x16"}
MESHES = {"data": "-1x1x1", "fsdp": "1x-1x1"}
ROWS = 32  # of a device
VIT = dict(name="vit", patch_size=25, scan=True)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "JEPA, ViT-L": (
        "jepa",
        {
            "model": dict(VIT, preset="large"),
            "method.predictor_width": 384,
            "method.predictor_depth": 6,
            "method.predictor_num_heads": 6,
        },
    ),
    "SimCLR, ViT-S": ("simclr", {"model": dict(VIT, preset="s")}),
}


def plans_of(model: str, axis: str, devices: int) -> dict[str, Figures]:
    """Of the two kinds of devices, the step with `ROWS` rows on each."""
    config, settings = MODELS[model]
    values = load(
        f"configs/{config}.py",
        {"data.crop": 1000, "batch_size": ROWS * devices, **settings},
    )
    names = [f"v5p:{SLICES[devices]}", f"h100:{devices}"]
    found = make_plans(values, names, MESHES[axis])
    return dict(zip(("v5p", "h100"), found, strict=True))


def row_of(model: str, axis: str, devices: int) -> dict[str, Any]:
    """Figures of one program; times in ms."""
    plans = plans_of(model, axis, devices)
    tpu = plans["v5p"]
    row: dict[str, Any] = dict(
        model=model, axis=axis, devices=devices, sent=tpu.sent, flops=tpu.flops
    )
    for chip, each in plans.items():
        times = each.seconds or {}
        row[chip] = {name: 1e3 * value for name, value in times.items()}
        # With as many rows as this, the exchange takes as long as computing does.
        row[chip]["rows"] = ROWS * times["exchange"] / times["compute"]
    return row


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Bytes sent, and the time that takes against that of computing."""
    figure = Figure(figsize=(10, 3.8), facecolor="white", layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    colours = dict(zip(MODELS, ("#0072b2", "#d55e00"), strict=True))
    lines = {"data": "-", "fsdp": "--"}
    for model, colour in colours.items():
        for axis, line in lines.items():
            part = [x for x in rows if (x["model"], x["axis"]) == (model, axis)]
            devices = [x["devices"] for x in part]
            style: dict[str, Any] = dict(
                color=colour, ls=line, marker="o", ms=3.5, label=f"{model}, {axis}"
            )
            left.plot(devices, [x["sent"] / 1e6 for x in part], **style)
            for axes, chip in ((middle, "v5p"), (right, "h100")):
                axes.plot(devices, [_share(x[chip]) for x in part], **style)
    titles = (
        "MB sent by a device in a step",
        "v5p: links / compute",
        "H100: links / compute",
    )
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("devices", fontsize=8, color="#7d7f86")
        axes.set_xticks(list(SLICES), [str(x) for x in SLICES])
        axes.tick_params(labelsize=8)
        axes.grid(color="#e6e7ea", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (middle, right):
        axes.axhline(1, color="#15171c", lw=1)
    left.legend(frameon=False, fontsize=7.5)
    return figure


def _share(times: dict[str, float]) -> float:
    return times["exchange"] / times["compute"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="without a suffix")
    args = parser.parse_args()
    rows = []
    for model in MODELS:
        for axis in MESHES:
            for devices in SLICES:
                rows.append(row_of(model, axis, devices))
                print(".", end="", flush=True)
    print()
    with whole_file(args.output.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(rows, indent=2) + "\n")
    plots.save(draw(rows), args.output.with_suffix(".png"))
    header = ["model", "axis", "devices", "sent, MB", "TFLOP"]
    header += [
        f"{chip} {part}"
        for chip in ("v5p", "H100")
        for part in ("compute", "memory", "links", "even at")
    ]
    print(markdown_table(header, [_cells(row) for row in rows]))


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["model"], row["axis"], str(row["devices"])]
    cells += [f"{row['sent'] / 1e6:,.0f}", f"{row['flops'] / 1e12:.2f}"]
    for chip in ("v5p", "h100"):
        times = row[chip]
        cells += [f"{times[part]:.1f}" for part in ("compute", "memory", "exchange")]
        cells.append(f"{times['rows']:.0f}")
    return cells


if __name__ == "__main__":
    main()
