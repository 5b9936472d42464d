"""What configs leave open, filled in by the encoder to begin with and by the data."""

import json

import pytest
from ml_collections import ConfigDict

from ecgssl_jax import runs
from ecgssl_jax.config_completion import complete
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.settings import ConfigError
from tests.pretrained import finetuning, pretrain


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(200), root / "synthetic", report=lambda _: None)
    return root


@pytest.fixture(scope="module")
def encoder(root, tmp_path_factory):
    return pretrain(root, tmp_path_factory.mktemp("run"), "vit", "simclr")


def test_the_encoder_says_model_rate_and_crop_and_the_data_how_many_labels(
    root, encoder
):
    run = runs.saved_run(encoder)
    found = complete(finetuning(root, encoder))
    assert found["model"] == dict(run.experiment.model)
    assert found["data"]["crop"] == 500 and found["data"]["rate"] == 100
    assert found["method"]["num_labels"] == 20


def test_what_the_config_says_itself_stays(root, encoder):
    own = {"root": str(root), "crop": 250}
    method = {"name": "supervised", "num_labels": 3}
    changes = {"data": own, "model": {"name": "vit"}, "method": method}
    found = complete(finetuning(root, encoder, **changes))
    assert found["data"]["crop"] == 250 and found["data"]["rate"] == 100
    assert found["model"] == {"name": "vit"} and found["method"] == method


def test_a_continued_run_says_what_the_encoder_said(root, encoder, tmp_path):
    config = finetuning(root, encoder)
    first = complete(config)
    gone = config | {"start": config["start"] | {"encoder": str(tmp_path / "gone")}}
    # As a checkpoint holds it.
    before = json.loads(json.dumps({"config": first | {"start": gone["start"]}}))
    assert complete(gone, before) == first | {"start": gone["start"]}
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        complete(gone, {"config": first})


def test_a_task_that_the_data_lack_is_named(root, encoder):
    method = {"name": "supervised", "task": "all", "num_labels": None}
    with pytest.raises(ConfigError, match="config.method.task: synthetic has no table"):
        complete(finetuning(root, encoder, method=method))


def test_other_configs_are_left_alone():
    config = ConfigDict({"steps": 1, "method": {"name": "simclr"}}).to_dict()
    assert complete(config) == config
