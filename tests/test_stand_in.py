"""Made-up batches have what each method asks for, and train it."""

import jax
import numpy as np
import pytest

from ecgssl_jax import config_files
from ecgssl_jax.assembly import make_task
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.stand_in import parse_without_data, stand_in_task
from ecgssl_jax.step import set_up

METHODS = ("jepa", "simclr", "byol", "meclip", "clocs", "supervised")


def experiment_of(method, tmp_path, **settings):
    labels = {"method.num_labels": 20} if method == "supervised" else {}
    values = {
        "batch_size": 16,
        "data.root": str(tmp_path),
        "data.synthetic_records": 40,
    }
    return parse(config_files.load(f"configs/{method}.py", values | labels | settings))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_those_of_the_data(method, root):
    experiment = experiment_of(method, root, **{"evaluators.probe": None})
    stands, real = stand_in_task(experiment), make_task(experiment)
    shapes = [
        {name: (np.shape(x), x.dtype) for name, x in task.example.items()}
        for task in (stands, real)
    ]
    # Only the data tell whether records are shorter than a crop.
    shapes[1].pop("length", None)
    assert shapes[0] == shapes[1]
    batch = next(stands.batches(0, 1, np.arange(4, 12)))
    assert {name: x.shape[1:] for name, x in batch.items()} == {
        name: x.shape[1:] for name, x in stands.example.items()
    }
    assert {len(x) for x in batch.values()} == {8}


def test_a_step_can_be_made_of_one(tmp_path):
    experiment = experiment_of("meclip", tmp_path)
    task = stand_in_task(experiment)
    setup = set_up(experiment, task)
    batch = setup.put(next(task.batches(0, 1, setup.rows)))
    _, metrics = setup.update(setup.first(), batch, None)
    assert np.isfinite(jax.device_get(metrics["loss"])) and bool(metrics["healthy"])


def test_nothing_is_written(tmp_path):
    stand_in_task(experiment_of("jepa", tmp_path))
    assert not list(tmp_path.iterdir())


def test_labels_that_only_the_data_tell_are_asked_for():
    config = config_files.load("configs/supervised.py", {"method.num_labels": None})
    with pytest.raises(ConfigError, match=r"--config.method.num_labels=71"):
        parse_without_data(config)
