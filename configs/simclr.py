"""SimCLR on 12-lead ECGs of 10 s at 100 Hz.

    python -m ecgssl_jax.main --config=configs/simclr.py          the embedded set
    python -m ecgssl_jax.main --config=configs/simclr.py:ptbxl    PTB-XL, folds 1-8
    python -m ecgssl_jax.main --config=configs/simclr.py:name=mine          data/mine

The views are those that Mehari & Strodthoff (arXiv 2103.12676) found best: random
resized crops and time-outs. Settings follow after commas, as in configs/jepa.py, whose
remarks on sets of your own hold here too.
"""

from ml_collections import ConfigDict

from ecgssl_jax.config_argument import choose_data, is_embedded, split_argument

VARIANTS = ("ptbxl",)
# Fold 9 selects, in both sets; fold 10 is for the last measurement.
FOLDS = (1, 2, 3, 4, 5, 6, 7, 8)
VIEW = (
    ("random_resized_crop", 1.0, dict(scale=(0.5, 1.0))),
    ("time_out", 1.0, dict(seconds=(0.0, 2.5))),
)


def get_config(arg: str = "") -> ConfigDict:
    """For 2 cores: minutes on the embedded set, half an hour on real ones."""
    variant, overrides = split_argument(arg, VARIANTS)
    config = ConfigDict(
        dict(
            seed=0,
            steps=1000,
            batch_size=128,
            data=dict(root="data", name="synthetic", rate=100, crop=500, folds=FOLDS),
            views=(VIEW, VIEW),
            model=dict(name="resnet", preset="18", features=16),
            method=dict(name="simclr", temperature=0.1),
            optim=dict(learning_rate=(1e-5, 1e-3, 1e-5), warmup=0.1),
            evaluators=dict(probe=dict(kind="probe", every=500, data="synthetic")),
            checkpoint=dict(every=500),
            log_every=50,
        )
    )
    if not is_embedded(variant, overrides):
        config.steps = 2500
        config.model.features = 32
    return choose_data(config, variant, overrides)
