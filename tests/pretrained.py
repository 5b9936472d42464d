"""Runs of a few steps, for tests that begin with a trained encoder."""

from pathlib import Path

from ecgssl_jax import main

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = {
    "vit": dict(name="vit", width=16, depth=2, num_heads=2, patch_size=50),
    "resnet": dict(name="resnet", preset="18", features=4),
}


def pretrain(root, workdir, model, method="byol"):
    """Trains on the embedded set in `root` -> the workdir."""
    flags = dict(steps=3, batch_size=16, log_every=1, model=MODELS[model])
    if method == "jepa":
        flags |= {"method.predictor_width": 16, "method.ema": (0.5, 0.5)}
        flags["optim.learning_rate"] = (1e-2, 1e-2, 1e-2)
    arguments = [f"--config.{key}={value!r}" for key, value in flags.items()]
    config = f"--config={CONFIGS / f'{method}.py'}:root={root}"
    main.main([config, f"--workdir={workdir}", *arguments])
    return workdir


def finetuning(root, encoder, **changes) -> dict:
    """A config that begins with the encoder."""
    config = {
        "steps": 2,
        "batch_size": 16,
        "data": {"root": str(root), "folds": tuple(range(1, 9))},
        "model": {},
        "method": {"name": "supervised", "num_labels": None},
        "start": {"encoder": str(encoder), "probe": True},
        "evaluators": {"probe": {"every": 1}},
        "checkpoint": {"every": 1, "best": "probe/predictions_auroc"},
        "log_every": 1,
    }
    return config | changes
