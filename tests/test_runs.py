import functools
import json

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly, runs
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError

CONFIG = {
    "steps": 10,
    "batch_size": 2,
    "data": {"crop": 100},
    "model": {"width": 8, "depth": 1, "num_heads": 1, "patch_size": 10},
    "masks": {"kind": "random"},
    "method": {
        "name": "jepa",
        "predictor_width": 8,
        "predictor_depth": 1,
        "predictor_num_heads": 1,
    },
}
META = {"config": CONFIG, "data": {"name": "mine", "rate": 100.0}}
EXAMPLE = {"ecg": np.zeros((2, 100, 12), np.float32)}
METHOD = assembly.make_method(parse(CONFIG))


@functools.cache
def parameters(seed):
    return runs.random_parameters(METHOD, EXAMPLE, seed=seed)


def save(folder, step, params, extra, meta):
    state = jax.tree.map(jax.numpy.asarray, {"params": params, "extra": extra})
    with Checkpointer(folder) as checkpoints:
        checkpoints.save(step, state, meta)


@pytest.fixture
def workdir(tmp_path):
    """The best checkpoint is step 3's, made with seed 3; the newest is step 5's."""
    for folder, step in (("best", 3), ("checkpoints", 5)):
        save(tmp_path / folder, step, *parameters(step), META)
    return tmp_path


@pytest.mark.parametrize(("which", "step"), [("best", 3), ("newest", 5)])
def test_the_checkpoint_that_was_asked_for_is_read(workdir, which, step):
    run, params = runs.open_run(workdir, which)
    assert (run.step, run.experiment.steps) == (step, 10)
    found = runs.trained_parameters(run, params, METHOD, EXAMPLE)
    expected = parameters(step)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_newest_is_read_where_no_best_was_kept(tmp_path):
    save(tmp_path / "checkpoints", 5, *parameters(5), META)
    assert runs.open_run(tmp_path, "best")[0].step == 5


def test_a_checkpoint_without_a_config_is_named(tmp_path):
    save(tmp_path / "checkpoints", 1, {"a": np.zeros(2)}, {"b": np.zeros(2)}, {})
    with pytest.raises(ConfigError, match="does not say what it is of"):
        runs.open_run(tmp_path)


def test_arrays_that_the_config_does_not_describe_are_named(workdir):
    run, params = runs.open_run(workdir)
    name = next(iter(params["predictor"]))
    params["predictor"].pop(name)
    with pytest.raises(ConfigError, match=f"params/predictor/{name}.* None"):
        runs.trained_parameters(run, params, METHOD, EXAMPLE)


def test_rates_are_medians(tmp_path):
    lines = [
        {"step": 10 * i, "samples_per_second": rate, "data_wait_share": 0.01 * i}
        | {"elapsed_seconds": 60.0 * i}
        for i, rate in enumerate([1.0, 100.0, 90.0, 110.0])
    ]
    lines.insert(2, {"step": 15, "probe/macro_auroc": 0.7})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert runs.training_summary(tmp_path) == {
        "steps": 30,
        "minutes": 3.0,
        "samples_per_second": 95.0,
        "data_wait_share": 0.015,
    }
    assert runs.training_summary(tmp_path / "none") == {}
