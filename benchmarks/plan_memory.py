"""The planner's memory against what a process really takes.

  python -m benchmarks.plan_memory

Plans steps of at least 2 GB for this machine's CPU as one device, then makes two steps of
each in a process of its own, and compares: arguments, temporaries and results of the
program with the growth of the process, from the compiled program on.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CASES = {
    "JEPA, ViT-S": [
        "--config=configs/jepa.py",
        "--config.model={'name': 'vit', 'preset': 's', 'patch_size': 25}",
        "--config.data.crop=1000",
        "--config.batch_size=512",
    ],
    "JEPA, ViT-S, scanned, full remat": [
        "--config=configs/jepa.py",
        "--config.model={'name': 'vit', 'preset': 's', 'patch_size': 10}",
        "--config.model.scan=True",
        "--config.model.remat=full",
        "--config.data.crop=1000",
        "--config.batch_size=512",
    ],
    "SimCLR, ResNet-18": [
        "--config=configs/simclr.py",
        "--config.model={'name': 'resnet', 'preset': '18'}",
        "--config.batch_size=512",
    ],
    "MECLIP, ResNet-34": [
        "--config=configs/meclip.py",
        "--config.model={'name': 'resnet', 'preset': '34'}",
        "--config.batch_size=768",
    ],
}


def taken(arguments: list[str]) -> tuple[int, int]:
    """-> bytes planned, and bytes by which this process grew; to be called once."""
    import jax

    from ecgssl_jax import config_files
    from ecgssl_jax.planning.program import memory_by_kind
    from ecgssl_jax.stand_in import parse_without_data, stand_in_task
    from ecgssl_jax.step import set_up

    rest, overrides = config_files.split_overrides(arguments)
    config = config_files.load(rest[0].partition("=")[2], overrides)
    experiment = parse_without_data(config)
    task = stand_in_task(experiment)
    setup = set_up(experiment, task)
    lowered = setup.update.lower(setup.abstract, setup.batch, None)
    compiled = lowered.compile()
    memory = memory_by_kind(setup, compiled.memory_analysis())
    # Code was made before.
    planned = sum(size for kind, size in memory.items() if kind != "code")
    local = next(task.batches(0, 1, setup.rows))
    before = _status("VmRSS")
    state, batch = setup.first(), setup.put(local)
    for _ in range(2):
        state, _ = jax.block_until_ready(compiled(state, batch, None))
    return planned, _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help="in this process, as JSON")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(taken(CASES[args.case])))
        return
    for name in CASES:
        command = [sys.executable, "-m", "benchmarks.plan_memory", f"--case={name}"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        planned, grown = json.loads(done.stdout)
        print(
            f"{name:34} planned {planned / 2**30:.2f} GiB, grown by "
            f"{grown / 2**30:.2f}: {planned / grown:.3f} of it"
        )


if __name__ == "__main__":
    main()
