"""The evaluation of a tiny run on a tiny set, from the command line's side."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ecgssl_jax import evaluate, main, runs
from ecgssl_jax.data.prepared import open_prepared
from ecgssl_jax.data.readers.array import array_source
from ecgssl_jax.data.readers.manifest import Signals
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import Settings, prepare_dataset
from ecgssl_jax.leads import LEADS

CONFIG = Path(__file__).parents[1] / "configs" / "jepa.py"
TINY = {
    "steps": 3,
    "batch_size": 8,
    "log_every": 1,
    "data.crop": 1000,
    "model.patch_size": 20,
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 1,
    "method.predictor_width": 16,
    "method.predictor_depth": 1,
    "method.predictor_num_heads": 1,
    "evaluators.probe.every": 2,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folder of prepared sets; 'synthetic' is labelled and has folds."""
    root = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(640), root / "synthetic", report=lambda _: None)
    return root


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    config = f"--config={CONFIG}:root={root}"
    main.main([config, f"--workdir={workdir}", *flags])
    return workdir


def run(workdir, *flags) -> dict:
    evaluate.main([f"--workdir={workdir}", *flags])
    name = "results-attention" if "--protocol=attention" in flags else "results"
    return json.loads((workdir / f"{name}.json").read_text())


def features_by_hand(workdir, prepared) -> np.ndarray:
    """Pooled features of all records, from the method alone."""
    encoder = runs.load_encoder(workdir, "newest")
    ecg = (prepared.load() * prepared.scale - prepared.mean) / prepared.std
    ecg = np.clip(ecg, -5, 5).astype(np.float32)
    found = encoder.method.features(*encoder.parameters, {"ecg": ecg})
    return np.asarray(found["pooled"])


def test_figure_is_that_of_a_probe_made_by_hand(workdir, root):
    document = run(workdir, "--checkpoint=newest", "--no-spectrum")
    (found,) = (x for x in document["results"] if x["encoder"].startswith("pre-"))
    prepared = open_prepared(root / "synthetic")
    features = features_by_hand(workdir, prepared)
    fold, labels = prepared.index["fold"], prepared.index["labels"]
    train, valid = fold <= 8, fold == 9
    mean, std = features[train].mean(0), features[train].std(0)
    features = (features - mean) / std
    strength = 1 / (found["probe"]["l2"] * train.sum())
    expected = {}
    for number, name in enumerate(prepared.labels):
        of_valid = labels[valid, number]
        if not 0 < of_valid.sum() < valid.sum():
            assert name in found["left_out"]
            continue
        probe = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        probe.fit(features[train], labels[train, number])
        scores = probe.decision_function(features[valid])
        expected[name] = roc_auc_score(of_valid, scores)
    # One pair of 64 records in the other order is 0.016 where a label has one positive.
    assert found["per_label"] == pytest.approx(expected, abs=0.05)
    assert found["macro_auroc"] == pytest.approx(
        np.mean(list(expected.values())), abs=0.01
    )


def test_table_has_a_row_for_each_encoder_and_says_what_the_folds_were_for(
    workdir, capsys
):
    document = run(workdir, "--seeds=0,1")
    assert {(x["encoder"], x["seed"]) for x in document["results"]} == {
        ("log spectrum", None),
        ("random encoder", 0),
        ("random encoder", 1),
        (f"pre-trained, step {document['step']}", 0),
    }
    text = (workdir / "results.md").read_text()
    assert "| log spectrum " in text and "| random encoder " in text
    assert "trained on folds 1-8, evaluated on fold 9" in text
    assert "Fold 8 selected the probe's strength" in text
    assert "Fold 9 is the selection fold" in text
    printed = capsys.readouterr().out
    assert text.strip() in printed
    assert f"checkpoint  {workdir / 'best'}" in printed
    assert "loss_curve.png" in printed and "samples/s" in printed


def test_no_tensorflow_is_needed(workdir, tmp_path):
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from ecgssl_jax import evaluate
evaluate.main(["--workdir={workdir}", "--no-spectrum", "--output={tmp_path}"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "results.json").exists()


def test_folds_of_the_command_line_are_used(workdir):
    flags = ["--train-folds=1-3,5", "--valid-folds=6,7", "--no-spectrum"]
    document = run(workdir, *flags)
    assert document["folds"] == {"train": [1, 2, 3, 5], "valid": [6, 7]}
    assert not any("is the selection fold" in note for note in document["notes"])
    assert any("saw the signals of fold 6, 7" in note for note in document["notes"])


def test_a_set_that_was_prepared_again_is_told(workdir, tmp_path):
    other = synthetic_source(300, seed=1)
    prepare_dataset(other, tmp_path / "synthetic", report=lambda _: None)
    evaluate.main([f"--workdir={workdir}", f"--root={tmp_path}", "--no-spectrum"])
    notes = json.loads((workdir / "results.json").read_text())["notes"]
    assert any("this name had other contents" in note for note in notes)


def test_attention_probe_reads_the_tokens(workdir, monkeypatch):
    shapes = []
    fit = evaluate.comparison.probes.attention_probe

    def short(tokens, labels, **settings):
        shapes.append(tokens.shape[1:])
        return fit(tokens, labels, **settings, steps=4, evaluate_every=2)

    monkeypatch.setattr(evaluate.comparison.probes, "attention_probe", short)
    document = run(workdir, "--protocol=attention")
    assert shapes == [(50, 16)] * 2
    assert {"step"} == set(document["results"][0]["probe"])


def test_attention_probe_leaves_the_padding_of_short_records_out(
    workdir, root, monkeypatch
):
    whole = synthetic_source(640)

    def read(task):
        for number, (name, record) in enumerate(task()):
            ecg = record.ecg[:900] if number % 5 == 0 else record.ecg
            yield name, dataclasses.replace(record, ecg=ecg)

    tasks = [functools.partial(read, task) for task in whole.tasks]
    cut = dataclasses.replace(whole, tasks=tasks)
    prepare_dataset(cut, root / "cut", report=lambda _: None)
    lengths = open_prepared(root / "cut").index["length"]
    seen = []
    fit = evaluate.comparison.probes.attention_probe

    def short(tokens, labels, *, tokens_valid, **settings):
        seen.append(tokens_valid)
        settings |= {"steps": 4, "evaluate_every": 2}
        return fit(tokens, labels, tokens_valid=tokens_valid, **settings)

    monkeypatch.setattr(evaluate.comparison.probes, "attention_probe", short)
    run(workdir, "--protocol=attention", "--data=cut", "--task=labels")
    counts = np.unique(seen[0].sum(axis=1))
    assert (
        counts.tolist() == [900 // 20, 1000 // 20] == np.unique(lengths // 20).tolist()
    )


def fails(capsys, *flags) -> str:
    """The one message that the command ends with."""
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(list(flags))
    return f"{stopped.value}{capsys.readouterr().err}"


def test_workdir_that_is_none_is_named(tmp_path, capsys):
    message = fails(capsys, f"--workdir={tmp_path / 'nothing'}")
    assert message.startswith("evaluate: there is no run in ")
    assert "no checkpoint in" in fails(capsys, f"--workdir={tmp_path}")


def test_an_output_that_cannot_be_written_is_named_before_anything_is_read(
    tmp_path, capsys
):
    (tmp_path / "file").touch()
    flags = [f"--workdir={tmp_path / 'nothing'}", f"--output={tmp_path / 'file'}"]
    assert "evaluate: cannot write to" in fails(capsys, *flags)


def test_damaged_checkpoint_is_named(workdir, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for path in (copy / "best").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:-100])
    message = fails(capsys, f"--workdir={copy}")
    assert "no intact checkpoint" in message
    assert "--checkpoint=newest" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=mine"], "no prepared data set in .*mine"),
        (["--root=nowhere", "--data=mine"], "no prepared data set in nowhere/mine"),
        (["--task=everything"], "unknown task 'everything'"),
        (["--task=all"], "only task='labels' works"),
        (["--train-folds=1-9"], "training and validation folds"),
        (["--train-folds=3"], "at least two"),
        (["--valid-folds=11"], "no folds .11."),
        (["--valid-folds=x"], "'x' is no list of numbers"),
    ],
)
def test_flags_that_do_not_fit_are_explained(workdir, capsys, flags, message):
    assert re.search(message, fails(capsys, f"--workdir={workdir}", *flags))


def make_array_set(path, *, samples, rate):
    array = np.random.default_rng(0).normal(0, 0.3, (8, samples, 12))
    np.save(path.with_suffix(".npy"), array.astype(np.float32))
    signals = Signals(rate=rate, unit="mV", leads=LEADS, layout="TC")
    settings = Settings(seconds=samples / rate, max_rejected=1.0)
    source = array_source(path.with_suffix(".npy"), signals)
    prepare_dataset(source, path, settings=settings, report=lambda _: None)


def test_set_without_labels_or_folds_or_with_other_records_is_named(
    workdir, root, capsys
):
    make_array_set(root / "unlabelled", samples=1000, rate=100.0)
    message = fails(capsys, f"--workdir={workdir}", "--data=unlabelled")
    assert "unlabelled has no labels to probe" in message
    make_array_set(root / "faster", samples=1000, rate=200.0)
    message = fails(capsys, f"--workdir={workdir}", "--data=faster")
    assert "200 Hz, the encoder was trained at 100 Hz" in message


def test_records_shorter_than_the_crop_are_named(workdir, root, capsys):
    short = Settings(seconds=5.0)
    prepare_dataset(
        synthetic_source(640), root / "short", settings=short, report=lambda _: None
    )
    message = fails(capsys, f"--workdir={workdir}", "--data=short")
    assert "1000 samples, but the records of short are stored with 500" in message


def test_a_run_on_reports_is_scored_by_retrieval_on_the_validation_folds(
    tmp_path, capsys
):
    prepare_dataset(synthetic_source(80), tmp_path / "synthetic", report=lambda _: None)
    config = Path(__file__).parents[1] / "configs" / "meclip.py"
    settings = f"root={tmp_path},steps=2,batch_size=16,model.features=4"
    folds = dict(train_folds=(1, 2, 3, 4, 5, 6), valid_folds=(7, 8, 9, 10))
    flags = [f"--config.evaluators.probe.{k}={v}" for k, v in folds.items()]
    workdir = f"--workdir={tmp_path / 'run'}"
    main.main([f"--config={config}:{settings}", workdir, *flags])
    evaluate.main([workdir, "--no-spectrum"])
    found = json.loads((tmp_path / "run" / "results.json").read_text())["retrieval"]
    prepared = open_prepared(tmp_path / "synthetic")
    count = np.isin(prepared.index["fold"], folds["valid_folds"]).sum()
    assert set(found) == {"ECG to report", "report to ECG"}
    for direction in found.values():
        assert direction["num_queries"] == count > 10
        for depth in ("1", "5", "10"):
            assert 0 <= direction["recall"][depth] <= 1
            assert 0 < direction["chance"][depth] <= 1
    # Reports of another set are read with the vocabulary of the checkpoint.
    source = synthetic_source(60, seed=1)
    prepare_dataset(source, tmp_path / "other", report=lambda _: None)
    folds = ["--train-folds=1-6", "--valid-folds=7-10", f"--output={tmp_path}"]
    evaluate.main([workdir, "--no-spectrum", "--data=other", *folds])
    found = json.loads((tmp_path / "results-other.json").read_text())["retrieval"]
    other = open_prepared(tmp_path / "other")
    count = np.isin(other.index["fold"], (7, 8, 9, 10)).sum()
    assert {each["num_queries"] for each in found.values()} == {count}
    # The other folds' are not even tokenised.
    assert f"texts: {count} of {count} records" in capsys.readouterr().out
    # Without labels and folds there is no table, but still the retrieval.
    bare = without_labels_and_folds(synthetic_source(20, seed=2))
    prepare_dataset(bare, tmp_path / "bare", report=lambda _: None)
    evaluate.main([workdir, "--data=bare", f"--output={tmp_path}"])
    document = json.loads((tmp_path / "results-bare.json").read_text())
    assert document["results"] == []
    assert {each["num_queries"] for each in document["retrieval"].values()} == {20}
    text = (tmp_path / "results-bare.md").read_text()
    assert "| bare, 20 records " in text and "| random encoder" not in text


def without_labels_and_folds(source):
    def strip(task):
        for name, record in task():
            yield name, dataclasses.replace(record, labels={}, fold=-1)

    tasks = [functools.partial(strip, task) for task in source.tasks]
    return dataclasses.replace(source, labels=(), tasks=tasks)
