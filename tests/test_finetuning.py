"""Fine-tuning as protocols of an evaluation, on a tiny run and set."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from ecgssl_jax import evaluate, finetuning, runs
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.evaluation import metrics
from ecgssl_jax.evaluation.budget import draw, parse_budget
from ecgssl_jax.evaluation.kept_logits import KeptLogits
from ecgssl_jax.evaluation.settings import Evaluation, FineTuning
from ecgssl_jax.evaluation.split import validation_split
from ecgssl_jax.finetuning import FineTuner
from ecgssl_jax.train import TrainingDiverged
from tests.pretrained import pretrain

FLAGS = [
    "--config.protocols=linear,two_stage,finetuned",
    "--config.baselines=supervised model",
    "--config.budgets=50 %,100 %",
    "--config.draws=100",
    "--config.report=False",
    "--config.finetuning.batch_size=16",
    "--config.finetuning.looks=2",
    "--config.finetuning.steps=4",
    "--config.finetuning.scratch_steps=2",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(400), root / "synthetic", report=lambda _: None)
    return pretrain(root, tmp_path_factory.mktemp("run"), "vit", "simclr")


@pytest.fixture(scope="module")
def evaluated(workdir):
    """What results.json holds, and the models' folders by what they learned from."""
    evaluate.main([f"--workdir={workdir}", *FLAGS])
    document = json.loads((workdir / "evaluation" / "results.json").read_text())
    models = {}
    for folder in (workdir / "finetuned").iterdir():
        experiment = runs.load_encoder(folder).run.experiment
        kind = "from scratch"
        if experiment.start.encoder is not None:
            kind = "two_stage" if experiment.start.probe else "finetuned"
        models[kind, experiment.method["budget"]] = folder
    return document, models


def test_every_encoder_budget_and_protocol_is_a_run_of_its_own(evaluated):
    document, models = evaluated
    kinds = ("from scratch", "finetuned", "two_stage")
    assert set(models) == {(kind, x) for kind in kinds for x in ("50 %", "100 %")}
    found = {
        (x["encoder"][:4], x["protocol"], x["budget"]) for x in document["results"]
    }
    assert found == {
        ("supe", protocol, budget)
        for protocol in ("finetuned", "two_stage")
        for budget in ("50 %", "100 %")
    } | {
        ("pre-", protocol, budget)
        for protocol in ("linear", "finetuned", "two_stage")
        for budget in ("50 %", "100 %")
    }
    for summary in document["summary"]:
        compared = (
            summary["encoder"] != "supervised model" and summary["protocol"] != "linear"
        )
        assert set(summary["against"]) == ({"supervised model"} if compared else set())


def test_models_learn_from_the_fitted_folds_and_the_last_of_them_selects(evaluated):
    document, models = evaluated
    for kind, budget in models:
        run = runs.load_encoder(models[kind, budget]).run
        assert run.experiment.data.folds == (1, 2, 3, 4, 5, 6, 7)
        assert tuple(run.experiment.evaluators["probe"]["valid_folds"]) == (8,)
        steps = 2 if kind == "from scratch" else 4
        assert run.experiment.steps == (steps if budget == "100 %" else steps / 2)
        # As many as those whose patients the budget draws.
        prepared = open_prepared(run.experiment.data.root + "/synthetic")
        fold, patient = prepared.index["fold"], prepared.index["patient"]
        fitted = np.isin(fold, (1, 2, 3, 4, 5, 6, 7))
        drawn = draw(
            parse_budget(budget),
            patient[fitted],
            prepared.index["labels"][fitted],
            prepared.index["labels_valid"][fitted].astype(bool),
            population=patient.max() + 1,
            seed=0,
        )
        records = {
            x["records"]
            for x in document["results"]
            if x["budget"] == budget and x["protocol"] == "two_stage"
        }
        assert records == {run.records} == {int(drawn.sum())}


def test_few_labels_take_fewer_steps_though_not_too_few(workdir):
    encoder = runs.load_encoder(workdir)
    prepared = open_prepared(encoder.run.experiment.data.root + "/synthetic")
    tuner = FineTuner(
        encoder=encoder,
        prepared=prepared,
        split=validation_split((1, 2, 3), (9,)),
        settings=FineTuning(steps=100, scratch_steps=1000),
        folder=workdir,
    )

    def steps(budget, scratch):
        made = tuner.config(
            parse_budget(budget), 0, probe_first=not scratch, scratch=scratch
        )
        return made["steps"]

    assert [steps(x, False) for x in ("100 %", "50 %", "1 %")] == [100, 50, 10]
    assert [steps(x, True) for x in ("100 %", "50 %", "1 %")] == [1000, 500, 400]


def test_figures_are_those_of_the_models_own_predictions(workdir, evaluated):
    document, models = evaluated
    encoder = runs.load_encoder(models["two_stage", "100 %"])
    prepared = open_prepared(encoder.run.experiment.data.root + "/synthetic")
    rows = np.flatnonzero(prepared.index["fold"] == 9)
    logits = encoder.encode(prepared, rows)["logits"]
    expected = metrics.macro_auroc(logits, prepared.index["labels"][rows])
    (found,) = (
        x["macro_auroc"]
        for x in document["results"]
        if (x["encoder"][:3], x["protocol"], x["budget"])
        == ("pre", "two_stage", "100 %")
    )
    assert found == pytest.approx(expected.value)


def test_what_is_trained_is_not_trained_again(workdir, evaluated, capsys):
    document, models = evaluated
    evaluate.main([f"--workdir={workdir}", *FLAGS])
    assert "training on" not in capsys.readouterr().out
    again = json.loads((workdir / "evaluation" / "results.json").read_text())
    assert again["results"] == document["results"]
    assert len(list((workdir / "finetuned").iterdir())) == len(models)


def test_what_models_said_is_kept_and_needs_no_checkpoint(
    workdir, evaluated, tmp_path, monkeypatch
):
    document, models = evaluated
    kept = tmp_path / "models"
    shutil.copytree(workdir / "finetuned", kept)
    for folder in kept.iterdir():
        shutil.rmtree(folder / "checkpoints")
        shutil.rmtree(folder / "best")

    def refuse(*args, **kwargs):
        raise TrainingDiverged("it was trained again")

    monkeypatch.setattr(finetuning, "train", refuse)
    flags = [f"--workdir={workdir}", *FLAGS, f"--output={tmp_path / 'out'}"]
    flags.append(f"--config.finetuning.folder={kept}")
    evaluate.main(flags)
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["results"] == document["results"]
    # What is damaged, or of other records, is not taken.
    folder = kept / models["two_stage", "100 %"].name
    file = folder / "logits.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    other = kept / models["finetuned", "100 %"].name
    found = KeptLogits.read(other, np.load(other / "logits.npz")["rows"])
    dataclasses.replace(found, rows=found.rows + 1).write(other)
    evaluate.main(flags)
    notes = json.loads((tmp_path / "out" / "results.json").read_text())["notes"]
    refused = [x.split(":")[0] for x in notes if "it was trained again" in x]
    assert refused == [
        "pre-trained, step 3, finetuned, 100 %, seed 0",
        "pre-trained, step 3, two_stage, 100 %, seed 0",
    ]


def test_another_encoder_of_as_many_steps_is_another_start(workdir, tmp_path):
    encoder = runs.load_encoder(workdir)
    prepared = open_prepared(encoder.run.experiment.data.root + "/synthetic")

    def folders(one):
        tuner = FineTuner(
            encoder=one,
            prepared=prepared,
            split=validation_split((1, 2, 3), (4,)),
            settings=FineTuning(),
            folder=tmp_path,
        )
        found = []
        for scratch in (False, True):
            budget = parse_budget("10 %")
            config = tuner.config(budget, 0, probe_first=False, scratch=scratch)
            found.append(tuner._workdir(config))
        return found

    own, scratch = folders(encoder)
    assert folders(encoder) == [own, scratch]
    # What begins random does not depend on the encoder.
    other, same = folders(encoder.random(5))
    assert other != own and same == scratch


def test_a_model_that_cannot_be_trained_costs_its_own_figures_alone(
    workdir, evaluated, tmp_path, monkeypatch
):
    def diverge(*args, **kwargs):
        raise TrainingDiverged("step 2: the loss is nan")

    monkeypatch.setattr(finetuning, "train", diverge)
    flags = [f"--workdir={workdir}", *FLAGS, f"--output={tmp_path}"]
    flags.append("--config.protocols=finetuned,two_stage")
    # Those of all labels are there.
    evaluate.main([*flags, "--config.budgets=25 %,100 %"])
    document = json.loads((tmp_path / "results.json").read_text())
    assert {x["budget"] for x in document["summary"]} == {"100 %"}
    failed = [note for note in document["notes"] if "the loss is nan" in note]
    assert [note.split(":")[0] for note in failed] == [
        "supervised model, finetuned and two_stage, 25 %, seed 0",
        "pre-trained, step 3, finetuned, 25 %, seed 0",
        "pre-trained, step 3, two_stage, 25 %, seed 0",
    ]
    # Where nothing is left to show, it ends.
    with pytest.raises(SystemExit, match="evaluate: step 2: the loss is nan"):
        evaluate.main([*flags, "--config.budgets=25 %"])


def test_without_a_protocol_that_trains_the_supervised_model_predicts(
    workdir, evaluated, tmp_path
):
    flags = [f"--workdir={workdir}", *FLAGS, f"--output={tmp_path}"]
    flags.append("--config.protocols=linear")
    evaluate.main([*flags, "--config.budgets=5 per class,100 %"])
    document = json.loads((tmp_path / "results.json").read_text())
    found = {
        (x["encoder"][:4], x["protocol"], x["budget"]): x["macro_auroc"]
        for x in document["results"]
    }
    assert set(found) == {
        ("pre-", "linear", "5 per class"),
        ("pre-", "linear", "100 %"),
        ("supe", "predictions", "100 %"),
    }
    # The same model as where protocols train.
    (expected,) = (
        x["macro_auroc"]
        for x in evaluated[0]["results"]
        if (x["encoder"], x["protocol"], x["budget"])
        == ("supervised model", "two_stage", "100 %")
    )
    assert found["supe", "predictions", "100 %"] == expected
    notes = " ".join(document["notes"])
    assert "The supervised model began random" in notes
    assert "supervised model, predictions, 5 per class, seed 0: no figures" in notes


def test_budgets_by_class_are_refused():
    with pytest.raises(ValueError, match="two_stage learn all tasks at once"):
        Evaluation(protocols=("two_stage",), budgets=("10 per class",))
