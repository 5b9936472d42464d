"""Supervised training on 12-lead ECGs of 10 s at 100 Hz: from scratch, or fine-tuning.

    python -m ecgssl_jax.main --config=configs/supervised.py          the embedded set
    python -m ecgssl_jax.main --config=configs/supervised.py:ptbxl    PTB-XL, folds 1-8
    python -m ecgssl_jax.main --config=configs/supervised.py:name=mine          data/mine

From scratch, what every pre-training is to be compared with. Fine-tuning begins with the
encoder of a run, in two stages: first a linear probe, then all parameters, the first
layers least:

    --config=configs/supervised.py:ptbxl,start.encoder=runs/jepa-ptbxl
    --config=configs/supervised.py:name=mine,start.encoder=runs/jepa-ptbxl

The encoder says what model, sampling rate and crop are. Settings follow after commas, as
in configs/jepa.py; start.probe=False leaves out the first stage.
"""

from ml_collections import ConfigDict

from ecgssl_jax.config_argument import choose_data, is_embedded, split_argument

VARIANTS = ("ptbxl",)
# Fold 9 selects, in both sets; fold 10 is for the last measurement.
FOLDS = (1, 2, 3, 4, 5, 6, 7, 8)


def get_config(arg: str = "") -> ConfigDict:
    """For 2 cores: minutes on the embedded set, half an hour on real ones."""
    variant, overrides = split_argument(arg, VARIANTS)
    config = ConfigDict(
        dict(
            seed=0,
            steps=1000,
            batch_size=128,
            data=dict(root="data", name="synthetic", rate=100, crop=500, folds=FOLDS),
            model=dict(name="resnet", preset="18", features=16),
            method=dict(name="supervised", task="labels", num_labels=20),
            optim=dict(learning_rate=(1e-5, 1e-3, 1e-5), warmup=0.1),
            evaluators=dict(probe=dict(kind="probe", every=500, data="synthetic")),
            checkpoint=dict(every=500, best="probe/predictions_auroc"),
            log_every=50,
        )
    )
    if not is_embedded(variant, overrides):
        config.steps = 2500
        config.model.features = 32
        config.method.num_labels = None  # as many as the task has
    if variant == "ptbxl":
        config.method.update(task="all", num_labels=71)
    if "start.encoder" in overrides:
        config.start = dict(probe=True)
        config.steps = 1000
        config.optim.update(learning_rate=(1e-6, 3e-4, 1e-6), layer_decay=0.75)
        config.model = {}
        del config.data.rate, config.data.crop
    return choose_data(config, variant, overrides)
