"""Training step of JEPA: ours against plain PyTorch, samples/s, interleaved.

  python -m benchmarks.step --preset=xs --batch=32
  python -m benchmarks.step --preset=s --batch=16

Both train the same model on arrays of the same shapes: 12 leads x 5000 samples, 200
patches of 25 samples, 20 % of them context, all others targets; L1, AdamW, EMA. The
rounds alternate, so that a machine whose speed drifts moves both alike; quote the
ratio. Each runs in a process of its own as its users would run it; `torch_kept` is
PyTorch with what our programs set in the C library (`ecgssl_jax.memory`). Needs
PyTorch (`pip install torch`), whose step is compiled on a GPU.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.rounds import Contender, alternate
from ecgssl_jax import assembly
from ecgssl_jax.experiment import parse
from ecgssl_jax.signals import Statistics
from ecgssl_jax.step import set_up
from ecgssl_jax.task import Task

# Weimann & Conrad's predictors: half the width, the encoder's number of heads.
PREDICTORS = {"xs": (96, 8, 4), "s": (192, 8, 6)}


def jax_step(
    preset: str, batch_size: int, dtype: str, gelu: str
) -> Callable[[], object]:
    """-> a function that makes one step and waits for it."""
    width, depth, heads = PREDICTORS[preset]
    experiment = parse(
        dict(
            steps=10_000,
            batch_size=batch_size,
            dtype=dtype,
            data=dict(crop=5000),
            model=dict(preset=preset, patch_size=25, exact_gelu=gelu == "none"),
            masks=dict(kind="random", keep=(0.2, 0.2)),
            method=dict(
                name="jepa",
                predictor_width=width,
                predictor_depth=depth,
                predictor_num_heads=heads,
            ),
        )
    )
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((batch_size, 200)), axis=1).astype(np.int32)
    context, targets = np.sort(order[:, :40]), np.sort(order[:, 40:])
    batch = {
        "ecg": rng.normal(0, 300, (batch_size, 5000, 12)).astype(np.int16),
        "source": np.zeros(batch_size, np.int32),
        "lead_valid": np.ones((batch_size, 12), bool),
        "context": context,
        "context_valid": np.ones_like(context, bool),
        "targets": targets[:, None],
        "targets_valid": np.ones_like(targets[:, None], bool),
    }
    ones = np.ones((1, 12), np.float32)
    task = Task(
        method=assembly.make_method(experiment),
        statistics=Statistics(scale=ones * 1e-3, mean=ones * 0, std=ones * 0.3),
        example=batch,
        batches=lambda *_: iter(()),
    )
    setup = set_up(experiment, task)
    state, batch = setup.first(), setup.put(batch)

    def step():
        nonlocal state
        state, metrics = setup.update(state, batch, None)
        jax.block_until_ready(metrics)

    return step


def torch_step(
    preset: str, batch_size: int, dtype: str, gelu: str
) -> Callable[[], object]:
    """The same for the PyTorch counterpart."""
    import torch

    from benchmarks import torch_jepa

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    step = torch_jepa.make_step(
        preset,
        batch_size,
        threads=len(os.sched_getaffinity(0)),
        device=device,
        dtype=getattr(torch, dtype),
        compile_mode="max-autotune" if device == "cuda" else None,
        gelu=gelu,
    )
    arrays = torch_jepa.make_batch(preset, batch_size, device=device)
    return lambda: step(*arrays).item()


def samples_per_second(
    make_step: Callable[..., Callable[[], object]],
    model: tuple[str, int, str, str],
    steps: int,
) -> Callable[[], float]:
    """-> a function that makes `steps` steps and returns their speed."""
    step, batch_size = make_step(*model), model[1]
    for _ in range(2):
        step()

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return batch_size * steps / (time.perf_counter() - start)

    return measure


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="xs", choices=PREDICTORS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--gelu", default="tanh", choices=("tanh", "none"))
    parser.add_argument("--ours-only", action="store_true")
    args = parser.parse_args()
    model = (args.preset, args.batch, args.dtype, args.gelu)
    ours, theirs = ((step, model, args.steps) for step in (jax_step, torch_step))
    contenders = {"ours": Contender(samples_per_second, ours, keeps_memory=True)}
    if not args.ours_only:
        for name, keeps in (("torch", False), ("torch_kept", True)):
            contenders[name] = Contender(samples_per_second, theirs, keeps_memory=keeps)
    rates = alternate(contenders, args.rounds)
    result: dict[str, object] = {
        name: round(statistics.median(r), 2) for name, r in rates.items()
    }
    for name in [name for name in rates if name != "ours"]:
        pairs = zip(rates["ours"], rates[name], strict=True)
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        result[f"over_{name}"] = round(statistics.median(ratios), 3)
        result[f"over_{name}_range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    print(json.dumps({"preset": args.preset, "batch": args.batch, **result}))


if __name__ == "__main__":
    main()
