"""JEPA."""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 4000
    config.batch_size = 64
    config.dtype = "auto"
    config.data = dict(root="data", name="synthetic", crop=1000)
    config.model = dict(name="vit", width=192, depth=4, num_heads=6, patch_size=20, use_bias=True)
    config.masks = dict(kind="blocks", keep=(0.3, 0.4), min_block=3)
    config.method = dict(name="jepa", predictor_width=96, predictor_depth=4, predictor_num_heads=3, normalise_targets=True, ema=(0.996, 1.0))
    config.optim = dict(learning_rate=(1e-5, 1e-3, 1e-5), warmup=0.1, weight_decay=(0.01, 0.1))
    config.evaluators = dict(probe=dict(kind="probe", every=500, data="synthetic"))
    config.checkpoint = dict(every=1000)
    config.log_every = 50
    if arg == "ptbxl":
        config.data.name = "ptbxl"
        config.data.folds = (1, 2, 3, 4, 5, 6, 7, 8)
        config.evaluators.probe.data = "ptbxl"
        config.evaluators.probe.task = "superdiagnostic"
    return config
