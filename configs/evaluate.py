"""How an encoder is evaluated.

    python -m ecgssl_jax.evaluate --workdir=runs/jepa-ptbxl --config=configs/evaluate.py

Linear, attention and neighbours' probes of every task that the set has, at 1, 10 and
100 % of the labels, three seeds; beside them models that are trained on the same labels from
scratch, which takes most of the time (PTB-XL: two hours on 2 cores, minutes on a GPU) and is
left out by "baselines=('log spectrum','random encoder')". Features, of which tokens may take
a gigabyte for each encoder, are computed once.

    configs/evaluate.py:quick    as without --config: a linear probe on all labels
    configs/evaluate.py:tuned    fine-tuning in two stages as well

Settings follow after commas: 'configs/evaluate.py:quick,tasks=every', or as flags:
--config.tasks=all,form --config.train_folds=1-4.
"""

from ml_collections import ConfigDict

from ecgssl_jax.config_argument import override, split_argument

VARIANTS = ("quick", "tuned")


def get_config(arg: str = "") -> ConfigDict:
    """The settings of `ecgssl_jax.evaluation.settings.Evaluation`."""
    variant, overrides = split_argument(arg, VARIANTS, path_of=str)
    config = ConfigDict(
        dict(
            protocols=("linear",),
            budgets=("100 %",),
            baselines=("log spectrum", "random encoder"),
        )
    )
    if variant != "quick":
        config.baselines += ("supervised model",)
        config.tasks = ("every",)
        config.protocols = ("linear", "attention", "neighbours")
        config.budgets = ("1 %", "10 %", "100 %")
        config.seeds = (0, 1, 2)
    if variant == "tuned":
        config.protocols += ("two_stage",)
    return override(config, overrides)
