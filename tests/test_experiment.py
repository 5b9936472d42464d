"""What a config may hold, and what is said of one that cannot be run."""

import pytest

from ecgssl_jax.experiment import Experiment, parse
from ecgssl_jax.settings import ConfigError


def _config(**values):
    return dict(
        dict(steps=10, batch_size=8, model=dict(preset="xs"), method=dict(name="jepa")),
        **values,
    )


def test_smallest_config_has_defaults_for_all_else():
    experiment = parse(_config())
    assert isinstance(experiment, Experiment)
    assert experiment.data.crop == 1000
    assert experiment.optim.accumulate == 1
    assert experiment.mesh.data == -1


def test_nested_settings_arrive():
    experiment = parse(
        _config(
            data=dict(folds=[1, 2], clip=None),
            optim=dict(learning_rate=(0, 1e-3, 1e-6), accumulate=4),
            rules=[("kernel$", (None, "fsdp")), (".*", ())],
            evaluators=dict(probe=dict(every=5)),
        )
    )
    assert experiment.data.folds == (1, 2)
    assert experiment.data.clip is None
    assert experiment.optim.learning_rate == (0.0, 1e-3, 1e-6)
    assert experiment.rules == (("kernel$", (None, "fsdp")), (".*", ()))
    assert experiment.evaluators == {"probe": {"every": 5}}


@pytest.mark.parametrize("key", ["steps", "batch_size", "model", "method"])
def test_missing_key_is_an_error(key):
    config = _config()
    del config[key]
    with pytest.raises(ConfigError, match=rf"^config\.{key} is missing"):
        parse(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(step=1), r"^config: unknown key 'step'; did you mean 'steps'"),
        (
            dict(data=dict(chache="host")),
            r"^config\.data: unknown key 'chache'; did you mean 'cache'",
        ),
        (
            dict(data=dict(cache="gpu")),
            r"^config\.data\.cache: expected 'none' or 'host' or 'device', found 'gpu'",
        ),
        (
            dict(optim=dict(lr=1e-3)),
            r"^config\.optim: unknown key 'lr'",
        ),
        (
            dict(optim=dict(learning_rate=1e-3)),
            r"^config\.optim\.learning_rate: expected a sequence, such as .*, found 0\.001",
        ),
        (
            dict(optim=dict(weight_decay=(0.1,))),
            r"^config\.optim\.weight_decay: expected 2 values",
        ),
        (dict(steps=0), r"^config\.steps: expected at least 1, found 0"),
        (dict(batch_size=-8), r"^config\.batch_size: expected at least 1, found -8"),
        (dict(log_every=0), r"^config\.log_every: expected at least 1, found 0"),
        (
            dict(checkpoint=dict(every=0)),
            r"^config\.checkpoint\.every: expected at least 1, found 0",
        ),
        (
            dict(checkpoint=dict(keep=0)),
            r"^config\.checkpoint\.keep: expected at least 1, found 0",
        ),
        (
            dict(data=dict(crop=0)),
            r"^config\.data\.crop: expected at least 1, found 0",
        ),
        (dict(data=dict(clip=-1.0)), r"^config\.data\.clip: .* found -1\.0"),
        (
            dict(optim=dict(accumulate=3)),
            r"^config\.batch_size: 8 rows cannot be split into optim\.accumulate=3",
        ),
        (
            dict(optim=dict(accumulate=0)),
            r"^config\.optim: accumulate must be at least 1, found 0",
        ),
        (
            dict(optim=dict(warmup=1.5)),
            r"^config\.optim: warmup .* found 1\.5",
        ),
        (
            dict(optim=dict(clip_norm=0.0)),
            r"^config\.optim: clip_norm must be positive, found 0\.0",
        ),
        (
            dict(optim=dict(b2=1.0)),
            r"^config\.optim: b1 and b2 .* found 0\.9 and 1\.0",
        ),
        (
            dict(optim=dict(decay=[("(kernel", 1.0)])),
            r"^config\.optim\.decay: '\(kernel' is no regular expression",
        ),
        (
            dict(rules=[("bias", ("x",)), (".*", ())]),
            r"^config\.rules: 'bias' names the axis 'x'; the mesh has data, fsdp, tensor",
        ),
        (
            dict(rules=[("kernel", (None, "fsdp", "fsdp")), (".*", ())]),
            r"^config\.rules: 'kernel' names the axis 'fsdp' twice",
        ),
        (
            dict(rules=[("kernel$", ()), ("*", ())]),
            r"^config\.rules: '\*' is no regular expression: nothing to repeat",
        ),
        (
            dict(dtype="float16"),
            r"^config\.dtype: expected 'auto' or 'float32' or 'bfloat16'",
        ),
        (dict(mesh=dict(data="all")), r"^config\.mesh\.data: expected int"),
        (
            dict(rules=[("kernel", "fsdp")]),
            r"^config\.rules\[0\]\[1\]: expected a sequence, such as .*, found 'fsdp'",
        ),
    ],
)
def test_wrong_config_is_an_error_with_the_key(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(_config(**values))


def test_an_evaluator_that_is_none_is_left_out():
    settings = {"probe": None, "other": {"every": 3}}
    assert parse(_config(evaluators=settings)).evaluators == {"other": {"every": 3}}
