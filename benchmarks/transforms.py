"""What each transform costs: milliseconds a batch, compiled, in a step of its own.

  python -m benchmarks.transforms --batch=128 --seconds=10 --rate=100
  python -m benchmarks.transforms --share --batch=32

The smallest of many runs, that of a plain copy of the batch is the first line, and a
whole recipe of two views the last. Powerline noise needs a rate above 120 Hz; below,
frequencies that fit it are taken. With --share, what the views of configs/simclr.py and
that recipe are of SimCLR's loss and gradient instead, for two encoders.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from configs import simclr as simclr_config
from ecgssl_jax.leads import LEADS
from ecgssl_jax.methods import simclr
from ecgssl_jax.models.encoders import make_encoder
from ecgssl_jax.signals.views import TRANSFORMS, build_views, make_views

# Those of a contrastive pair, as published for ECGs, and what a recording suffers.
RECIPE = (
    ("random_resized_crop", 1.0),
    ("time_out", 0.5),
    ("amplitude_scaling", 0.5),
    ("baseline_wander", 0.5),
    ("emg_noise", 0.5),
    ("gaussian_noise", 0.5),
)


def milliseconds(f: Callable, *args: object, runs: int) -> tuple[float, float]:
    """Fastest and median run of a compiled function."""
    jax.block_until_ready(f(*args))
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), statistics.median(times)


def print_shares(batch: int, seconds: float, rate: float) -> None:
    """Prints the views' time beside that of the loss and its gradient."""
    shape = (batch, round(seconds * rate), len(LEADS))
    ecg, rng = jax.random.normal(jax.random.key(0), shape), jax.random.key(1)
    lead_valid = jnp.ones((batch, len(LEADS)), bool)
    recipes = {"configs/simclr.py": simclr_config.VIEW, "six transforms": RECIPE}
    times = {}
    for name, recipe in recipes.items():
        run = functools.partial(make_views, build_views([recipe, recipe]), rate=rate)
        times[name], _ = milliseconds(jax.jit(run), rng, ecg, lead_valid, None, runs=20)
    models = {
        "ViT-S": dict(name="vit", preset="s", patch_size=round(0.2 * rate)),
        "ResNet1D-34": dict(name="resnet", preset="34"),
    }
    for encoder, settings in models.items():
        module = make_encoder(settings, dtype=jnp.float32)
        method = simclr.build(simclr.Settings(), module, steps=1, masks=None)
        params, extra = jax.jit(method.init)(rng, {"ecg": ecg})
        inputs = {"ecg": ecg, "views": ({"ecg": ecg}, {"ecg": ecg[::-1]})}
        step = jax.jit(jax.grad(method.loss, has_aux=True))
        best, _ = milliseconds(step, params, extra, inputs, rng, runs=3)
        for name, views in times.items():
            share = views / (views + best)
            print(
                f"{encoder}, batch {batch}: step {best:.0f} ms, two views of {name} "
                f"{views:.1f} ms, {share:.1%} of both",
                flush=True,
            )


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="Hz")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--lengths", action="store_true", help="records of any length")
    parser.add_argument(
        "--share", action="store_true", help="of the training step instead"
    )
    args = parser.parse_args(argv)
    if args.share:
        print_shares(args.batch, args.seconds, args.rate)
        return

    samples = round(args.seconds * args.rate)
    rng, shape = jax.random.key(0), (args.batch, samples, len(LEADS))
    ecg = jax.random.normal(rng, shape)
    lead_valid = jnp.ones((args.batch, len(LEADS)), bool)
    length = None
    if args.lengths:
        length = jax.random.randint(rng, (args.batch,), samples // 2, samples + 1)
    parameters = {"random_crop": dict(seconds=0.8 * args.seconds)}
    if args.rate <= 120.0:
        parameters["powerline_noise"] = dict(frequencies=(0.4 * args.rate,))
    chains = {"copy": [[]]}
    for name in TRANSFORMS:
        chains[name] = [[(name, 1.0, parameters.get(name, {}))]]
    chains["two views"] = [RECIPE, RECIPE]
    print(f"{args.batch} x {samples} x {len(LEADS)} on {jax.devices()[0].device_kind}")
    print(f"{'':22s}fastest  median, ms")
    for name, chain in chains.items():
        run = functools.partial(make_views, build_views(chain), rate=args.rate)
        best, middle = milliseconds(
            jax.jit(run), rng, ecg, lead_valid, length, runs=args.runs
        )
        print(f"{name:22s}{best:7.2f} {middle:7.2f}", flush=True)


if __name__ == "__main__":
    main()
