"""Fine-tuning: from the encoder of a run, with a probe on it as the classifier."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly, evaluate, export, main, runs
from ecgssl_jax.config_completion import complete
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation import metrics
from ecgssl_jax.evaluation.provenance import provenance_of
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError
from ecgssl_jax.step import set_up
from tests.pretrained import MODELS, finetuning, pretrain

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(400), root / "synthetic", report=lambda _: None)
    return root


@pytest.fixture(scope="module", params=[("byol", "resnet"), ("jepa", "vit")])
def encoder(request, root, tmp_path_factory):
    """Workdir of a run whose encoder worth keeping is the online or the average one."""
    method, model = request.param
    return pretrain(root, tmp_path_factory.mktemp("run"), model, method)


def first_state(config):
    experiment = parse(complete(config))
    task = assembly.make_task(experiment)
    assert task.start is not None
    return experiment, task, task.start(set_up(experiment, task).first())


def test_training_begins_with_the_encoder_worth_keeping(root, encoder):
    trained = runs.load_encoder(encoder)
    _, task, state = first_state(finetuning(root, encoder))
    kept = trained.method.kept(*trained.parameters)
    found = task.method.kept(state.params, state.extra)
    for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_classifier_begins_as_a_probe_on_all_records_to_train_on(root, encoder):
    experiment, task, state = first_state(finetuning(root, encoder))
    prepared = open_prepared(root / "synthetic")
    trained = runs.load_encoder(encoder)
    scores = {}
    for name, params in (("probe", state.params), ("random", None)):
        if params is None:
            params, _ = task.method.init(
                jax.random.key(0), runs.example_row(experiment)
            )
            params = {**state.params, "classifier": params["classifier"]}
        run = dataclasses.replace(trained.run, experiment=experiment)
        run = runs.freeze(run, (params, state.extra))
        rows = np.flatnonzero(prepared.index["fold"] <= 8)
        logits = run.encode(prepared, rows)["logits"]
        labels = prepared.index["labels"][rows]
        scores[name] = metrics.macro_auroc(logits, labels).value
        if name == "probe":
            # What a logistic regression with a free bias fulfils at its minimum.
            predicted = (1 / (1 + np.exp(-logits))).mean(axis=0)
            np.testing.assert_allclose(predicted, labels.mean(axis=0), atol=0.01)
    assert scores["probe"] > 0.7 > scores["random"]


def test_without_a_probe_the_classifier_stays_random(root, encoder):
    start = {"encoder": str(encoder), "probe": False}
    experiment, task, state = first_state(finetuning(root, encoder, start=start))
    first = set_up(experiment, task).first()
    one, other = (x.params["classifier"]["out"]["kernel"] for x in (first, state))
    np.testing.assert_array_equal(one, other)


def test_a_probe_needs_no_encoder_of_another_run(root):
    config = finetuning(root, None, model=MODELS["vit"], start={"probe": True})
    config["data"] |= {"crop": 500}
    _, _, state = first_state(config)
    assert np.abs(state.params["classifier"]["out"]["bias"]).max() > 0.1


def test_the_state_is_laid_out_for_the_step(root, encoder):
    config = finetuning(root, encoder, mesh={"data": 4, "fsdp": 2})
    experiment, task, state = first_state(config)
    abstract = set_up(experiment, task).abstract
    same = jax.tree.map(lambda x, y: x.sharding == y.sharding, state, abstract)
    assert all(jax.tree.leaves(same))


def test_a_run_goes_on_from_its_checkpoint_and_says_what_it_began_with(
    root, encoder, tmp_path
):
    argument = f"root={root},start.encoder={encoder},steps=4,batch_size=16"
    command = [
        f"--config={CONFIGS / 'supervised.py'}:{argument}",
        "--config.log_every=1",
        "--config.checkpoint.every=2",
        "--config.evaluators.probe.every=2",
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main.main([*command, f"--workdir={whole}"])
    main.main([*command, f"--workdir={parts}", "--config.steps=4"])
    # As if it had died before: the run goes on from step 2.
    (parts / "checkpoints" / "4").rename(tmp_path / "gone")
    # The run that it began with is needed no longer.
    encoder.rename(tmp_path / "moved")
    try:
        main.main([*command, f"--workdir={parts}"])
    finally:
        (tmp_path / "moved").rename(encoder)
    states = [runs.open_run(path, "newest")[1] for path in (whole, parts)]
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(one, other)
    run, _ = runs.open_run(whole)
    assert run.began_with["data"]["synthetic"]["folds"] == list(range(1, 9))
    prepared = open_prepared(root / "synthetic")
    method = runs.load_encoder(whole).method
    assert set(provenance_of(run, method, prepared).learnt) == {"signals", "labels"}
    # Of a model trained on labels, its own predictions are a row.
    flags = ["--config.baselines=random encoder", "--config.draws=100"]
    flags += ["--config.report=False"]
    evaluate.main([f"--workdir={whole}", *flags])
    document = json.loads((whole / "evaluation" / "results.json").read_text())
    found = {(x["encoder"][:6], x["protocol"]) for x in document["results"]}
    assert found == {
        ("random", "linear"),
        ("traine", "linear"),
        ("traine", "predictions"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model=dict(name="vit", preset="xs", patch_size=50)), "has another model"),
        (
            dict(
                method=dict(name="simclr"),
                views=((("time_out", 1.0),),) * 2,
                evaluators={},
            ),
            "simclr learns from no labels",
        ),
        (
            dict(method=dict(name="supervised", task="all", num_labels=None)),
            "config.method.task: synthetic has no table",
        ),
    ],
)
def test_what_does_not_fit_is_named(root, encoder, changes, message):
    with pytest.raises(ConfigError, match=message):
        first_state(finetuning(root, encoder, **changes))


def test_an_exported_encoder_is_told_from_a_run(root, encoder, tmp_path):
    export.main([f"--workdir={encoder}", f"--output={tmp_path / 'exported'}"])
    with pytest.raises(ConfigError, match="is an exported encoder"):
        first_state(finetuning(root, tmp_path / "exported"))
