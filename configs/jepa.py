"""JEPA on 12-lead ECGs of 10 s at 100 Hz.

    python -m ecgssl_jax.main --config=configs/jepa.py          the embedded set
    python -m ecgssl_jax.main --config=configs/jepa.py:ptbxl    PTB-XL, folds 1-8
    python -m ecgssl_jax.main --config=configs/jepa.py:name=mine          data/mine

Settings follow after commas: configs/jepa.py:ptbxl,root=/data,steps=10000. A set of
your own is trained on as a whole and without a probe. If it has folds and labels:
'configs/jepa.py:name=mine,folds=(1,2,3),evaluators.probe.data=mine', with
evaluators.probe.train_folds and valid_folds where they are not 1-8 and 9.
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
            steps=4000,
            batch_size=64,
            data=dict(root="data", name="synthetic", rate=100, crop=500, folds=FOLDS),
            model=dict(name="vit", width=96, depth=3, num_heads=3, patch_size=20),
            masks=dict(kind="blocks", keep=(0.5, 0.6), min_block=1),
            method=dict(
                name="jepa",
                predictor_width=48,
                predictor_depth=2,
                predictor_num_heads=2,
                normalise_targets=True,
                ema=(0.996, 1.0),
            ),
            optim=dict(learning_rate=(1e-5, 1e-3, 1e-5), warmup=0.1),
            evaluators=dict(probe=dict(kind="probe", every=1000, data="synthetic")),
            checkpoint=dict(every=1000),
            log_every=100,
        )
    )
    if not is_embedded(variant, overrides):
        config.steps = 12_000
        config.model.update(width=192, depth=4)
        config.masks.update(keep=(0.3, 0.4), min_block=2)
        config.method.predictor_width = 96
    return choose_data(config, variant, overrides)
