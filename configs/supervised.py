"""Supervised training from scratch on 12-lead ECGs of 10 s at 100 Hz.

    python -m ecgssl_jax.main --config=configs/supervised.py          the embedded set
    python -m ecgssl_jax.main --config=configs/supervised.py:ptbxl    PTB-XL, folds 1-8
    python -m ecgssl_jax.main --config=configs/supervised.py:name=mine          data/mine

What every pre-training is to be compared with: the same encoder, trained on labels.
Settings follow after commas, as in configs/jepa.py. For a set of your own, say how many
labels it has: configs/supervised.py:name=mine,method.num_labels=5.
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
            checkpoint=dict(every=500),
            log_every=50,
        )
    )
    if not is_embedded(variant, overrides):
        config.steps = 2500
        config.model.features = 32
    if variant == "ptbxl":
        config.method.update(task="all", num_labels=71)
    return choose_data(config, variant, overrides)
