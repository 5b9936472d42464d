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
from ecgssl_jax.evaluation import overlap, probes
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


# Not the spectrum, few draws and no report: for tests that look at something else.
BARE = [
    "--config.baselines=random encoder",
    "--config.draws=100",
    "--config.report=False",
]


def run(workdir, *flags, folder="evaluation") -> dict:
    evaluate.main([f"--workdir={workdir}", *flags])
    return json.loads((workdir / folder / "results.json").read_text())


def features_by_hand(workdir, prepared) -> np.ndarray:
    """Pooled features of all records, from the method alone."""
    encoder = runs.load_encoder(workdir, "newest")
    ecg = (prepared.load() * prepared.scale - prepared.mean) / prepared.std
    ecg = np.clip(ecg, -5, 5).astype(np.float32)
    found = encoder.method.features(*encoder.parameters, {"ecg": ecg})
    return np.asarray(found["pooled"])


def test_figure_is_that_of_a_probe_made_by_hand(workdir, root):
    document = run(workdir, "--checkpoint=newest", *BARE)
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
    assert found["per_label"]["auroc"] == pytest.approx(expected, abs=0.05)
    assert found["macro_auroc"] == pytest.approx(
        np.mean(list(expected.values())), abs=0.01
    )


def test_table_has_a_row_for_each_encoder_and_says_what_the_folds_were_for(
    workdir, capsys
):
    document = run(workdir, "--config.seeds=0,1")
    trained = f"pre-trained, step {document['step']}"
    assert {(x["encoder"], x["seed"]) for x in document["results"]} == {
        ("log spectrum", None),
        ("random encoder", 0),
        ("random encoder", 1),
        (trained, None),
    }
    assert document["settings"]["seeds"] == [0, 1]
    (summary,) = (x for x in document["summary"] if x["encoder"] == trained)
    assert set(summary["against"]) == {"log spectrum", "random encoder"}
    text = (workdir / "evaluation" / "results.md").read_text()
    assert "| log spectrum " in text and "| random encoder " in text
    assert "| more than the random encoder " in text
    assert "fitted to folds 1-7; fold 8 selected their settings" in text
    assert "fold 9 (labels: " in text
    assert "Fold 9 is the selection fold" in text
    page = (workdir / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert f"<h1>{workdir.name}</h1>" in page
    assert "Selection fold, no test figures" in page
    assert {"encoders", "roc", "map", "neighbours-1-0", "training"} <= {
        path.stem for path in (workdir / "evaluation" / "report").iterdir()
    }
    printed = capsys.readouterr().out
    assert text.strip() in printed and "report.html" in printed
    assert "neighbours-1-0.png" not in printed
    assert f"checkpoint  {workdir / 'best'}" in printed
    assert "loss_curve.png" in printed and "samples/s" in printed


def test_no_tensorflow_is_needed(workdir, tmp_path):
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from ecgssl_jax import evaluate
evaluate.main(["--workdir={workdir}", "--config.draws=100", "--output={tmp_path}"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "results.json").exists()


def test_folds_of_the_command_line_are_used(workdir):
    flags = ["--config.train_folds=1-3,5", "--config.valid_folds=6,7", *BARE]
    document = run(workdir, *flags)
    assert document["folds"] == {
        "fit": [1, 2, 3],
        "select": [5],
        "report": [6, 7],
        "refit": True,
    }
    assert not any("is the selection fold" in note for note in document["notes"])
    assert any("saw the signals of fold 6, 7" in note for note in document["notes"])


def test_the_test_folds_are_read_with_their_flag_alone(workdir):
    assert not run(workdir, *BARE)["test_folds_were_read"]
    document = run(workdir, "--test", *BARE, folder="evaluation-test")
    assert document["test_folds_were_read"] and document["test_reads"] == 1
    again = run(workdir, "--test", *BARE, folder="evaluation-test")
    assert again["test_reads"] == 2
    assert "was read, 2 times for results in this folder" in again["notes"][0]
    assert document["folds"] == {
        "fit": [1, 2, 3, 4, 5, 6, 7, 8],
        "select": [9],
        "report": [10],
        "refit": False,
    }
    assert not any("selection fold" in note for note in document["notes"])


def test_a_set_that_was_prepared_again_is_told(workdir, tmp_path):
    other = synthetic_source(300, seed=1)
    prepare_dataset(other, tmp_path / "synthetic", report=lambda _: None)
    document = run(workdir, f"--config.root={tmp_path}", *BARE)
    assert any("this name had other contents" in x for x in document["notes"])


def test_features_are_computed_once(workdir, root, capsys, monkeypatch):
    copy = workdir.parent / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "features", ignore_errors=True)
    flags = ["--config.draws=100", "--config.report=False"]
    first = run(copy, *flags)
    assert len(list((copy / "features").iterdir())) == 2
    monkeypatch.setattr(runs, "extract", None)
    again = run(copy, *flags, "--config.budgets=50 %,100 %")
    whole = [x for x in again["results"] if x["budget"] == "100 %"]
    assert whole == first["results"]
    with pytest.raises(TypeError):
        run(copy, "--config.cache=false")


def test_features_that_are_not_finite_are_named_by_their_record(
    workdir, capsys, monkeypatch
):
    pooled = np.zeros((640, 4), np.float32)
    pooled[7] = np.nan
    monkeypatch.setattr(runs, "extract", lambda *_, **__: {"pooled": pooled})
    message = fails(capsys, f"--workdir={workdir}", "--config.cache=false", *BARE)
    assert "features of 1 of 640 records are not finite, the first those of" in message


def test_every_protocol_budget_and_seed_is_answered(workdir):
    config = CONFIG.with_name("evaluate.py")
    flags = ["--config.attention.steps=4", "--config.attention.evaluate_every=2"]
    flags += ["--config.finetuning.scratch_steps=4", "--config.finetuning.looks=2"]
    document = run(
        workdir,
        f"--config={config}",
        "--config.seeds=0,1",
        "--config.budgets=30 %,100 %",
        "--config.draws=100",
        *flags,
    )
    found = {
        (x["protocol"], x["budget"], x["probe_seed"])
        for x in document["results"]
        if x["encoder"].startswith("pre-")
    }
    assert found == {
        ("linear", "30 %", 0),
        ("linear", "30 %", 1),
        ("linear", "100 %", None),
        ("attention", "30 %", 0),
        ("attention", "30 %", 1),
        ("attention", "100 %", 0),
        ("attention", "100 %", 1),
        ("neighbours", "30 %", 0),
        ("neighbours", "30 %", 1),
        ("neighbours", "100 %", None),
    }
    text = (workdir / "evaluation" / "results.md").read_text()
    assert text.count("macro AUROC") == 2
    assert "| attention: more than the random encoder " in text
    page = (workdir / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert '<section id="budgets">' in page and '<section id="looks">' in page


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
    fit = probes.attention_probes

    def look(tokens, groups, *, tokens_valid, **settings):
        seen.append(tokens_valid)
        return fit(tokens, groups, tokens_valid=tokens_valid, **settings)

    monkeypatch.setattr(probes, "attention_probes", look)
    flags = ["--config.protocols=attention", "--config.attention.steps=4"]
    run(workdir, *flags, *BARE, "--config.data=cut", folder="evaluation-cut")
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


def test_a_steps_folder_stands_for_its_run_and_checkpoint(workdir, tmp_path):
    (step,) = (workdir / "best").iterdir()
    output = f"--output={tmp_path}"
    evaluate.main([f"--checkpoint={step}", output, *BARE])
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["checkpoint"] == str(step)
    assert document["workdir"] == str(workdir)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a run, with --workdir=runs/jepa or --checkpoint="),
        (["--workdir=a", "--checkpoint=a/best/1"], "a folder stands alone"),
        (["--checkpoint=nowhere/best/1"], "there is no run in nowhere"),
    ],
)
def test_a_run_is_named_once(capsys, flags, message):
    assert message in fails(capsys, *flags)


def test_records_that_another_set_had_are_in_the_standing(
    workdir, tmp_path, monkeypatch
):
    found = [overlap.Overlap(name="other", records=2)]
    monkeypatch.setattr(overlap, "overlaps", lambda *args: found)
    evaluate.main([f"--workdir={workdir}", f"--output={tmp_path}", *BARE])
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["standing"]["title"] == "Partly known records"
    assert any("saw 2 of these records" in note for note in document["notes"])


def test_test_folds_are_no_validation_folds(workdir, capsys, tmp_path):
    flags = [f"--workdir={workdir}", "--config.valid_folds=10", *BARE]
    assert "folds [10] are test folds, which only --test reads" in fails(capsys, *flags)
    flags += ["--config.test_folds=()", f"--output={tmp_path}"]
    evaluate.main(flags)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["folds"]["report"] == [10] and not document["test_reads"]


def test_a_read_of_the_test_folds_counts_however_it_ends(
    workdir, tmp_path, monkeypatch
):
    flags = [f"--workdir={workdir}", "--test", f"--output={tmp_path}", *BARE]

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "summarise", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            evaluate.main(flags)
    evaluate.main(flags)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["test_reads"] == 2


def test_results_of_other_settings_are_kept(workdir, tmp_path, capsys):
    flags = [f"--workdir={workdir}", f"--output={tmp_path}", *BARE]
    evaluate.main(flags)
    evaluate.main([*flags, "--config.budgets=50 %"])
    assert f"is in {tmp_path / 'earlier/1'} now" in capsys.readouterr().out
    budgets = [
        json.loads((folder / "results.json").read_text())["settings"]["budgets"]
        for folder in (tmp_path / "earlier/1", tmp_path)
    ]
    assert budgets == [["100 %"], ["50 %"]]
    evaluate.main([*flags, "--config.budgets=50 %"])
    assert not (tmp_path / "earlier/2").exists()


def test_one_training_fold_is_enough_for_the_test_folds(workdir, tmp_path):
    folds = ["--config.train_folds=8", "--config.valid_folds=9", "--test"]
    evaluate.main([f"--workdir={workdir}", f"--output={tmp_path}", *BARE, *folds])
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["folds"]["fit"] == [8] and document["folds"]["report"] == [10]


def test_nothing_to_show_is_an_error(workdir, capsys):
    message = fails(
        capsys, f"--workdir={workdir}", "--config.protocols=predictions", *BARE
    )
    assert "there is nothing to show of synthetic: predictions are" in message


def test_an_old_page_does_not_stay_beside_new_results(workdir, tmp_path):
    figure = tmp_path / "report/roc.png"
    figure.parent.mkdir()
    for old in (tmp_path / "report.html", figure):
        old.write_text("old")
    evaluate.main([f"--workdir={workdir}", f"--output={tmp_path}", *BARE])
    assert not (tmp_path / "report.html").exists() and not figure.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["data=mine"], "no prepared data set in .*mine"),
        (["root=nowhere", "data=mine"], "no prepared data set in nowhere/mine"),
        (["tasks=everything"], "unknown task 'everything'"),
        (["tasks=all"], "tells of 'all'; only 'labels' works"),
        (["train_folds=1-9"], r"folds \[9\] have two parts"),
        (["train_folds=3"], "at least two"),
        (["valid_folds=11"], "no folds .11."),
        (["valid_folds=x"], "'x' is no list of numbers"),
        (["task=all"], "unknown key 'task'; did you mean 'tasks'"),
    ],
)
def test_settings_that_do_not_fit_are_explained(workdir, capsys, flags, message):
    flags = [f"--config.{flag}" for flag in flags]
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
    message = fails(capsys, f"--workdir={workdir}", "--config.data=unlabelled")
    assert "unlabelled has no labels to probe" in message
    make_array_set(root / "faster", samples=1000, rate=200.0)
    message = fails(capsys, f"--workdir={workdir}", "--config.data=faster")
    assert "200 Hz, the encoder was trained at 100 Hz" in message


def test_records_shorter_than_the_crop_are_named(workdir, root, capsys):
    short = Settings(seconds=5.0)
    prepare_dataset(
        synthetic_source(640), root / "short", settings=short, report=lambda _: None
    )
    message = fails(capsys, f"--workdir={workdir}", "--config.data=short")
    assert "1000 samples, but the records of short are stored with 500" in message


@pytest.fixture(scope="module")
def meclip(tmp_path_factory):
    """Folder of a run on the reports of 80 records, 'run', and of their set."""
    folder = tmp_path_factory.mktemp("meclip")
    prepare_dataset(synthetic_source(80), folder / "synthetic", report=lambda _: None)
    config = Path(__file__).parents[1] / "configs" / "meclip.py"
    settings = f"root={folder},steps=2,batch_size=16,model.features=4"
    folds = dict(train_folds=(1, 2, 3, 4, 5, 6), valid_folds=MECLIP_FOLDS)
    flags = [f"--config.evaluators.probe.{k}={v}" for k, v in folds.items()]
    workdir = f"--workdir={folder / 'run'}"
    main.main([f"--config={config}:{settings}", workdir, *flags])
    return folder


MECLIP_FOLDS = (7, 8, 9, 10)  # to evaluate on


def test_a_run_on_reports_is_scored_by_retrieval_on_the_validation_folds(
    meclip, capsys
):
    workdir = meclip / "run"
    bare_run = functools.partial(run, workdir, "--config.test_folds=()", *BARE)
    found = bare_run()["retrieval"]
    prepared = open_prepared(meclip / "synthetic")
    reports = prepared.index["text"][np.isin(prepared.index["fold"], MECLIP_FOLDS)]
    count, distinct = len(reports), len(set(reports))
    assert {
        name: (each["num_queries"], each["num_candidates"])
        for name, each in found.items()
    } == {
        "ECG to report": (count, count),
        "report to ECG": (count, count),
        "ECG to distinct report": (count, distinct),
        "distinct report to ECG": (distinct, count),
    }
    assert count > distinct > 10
    for direction in found.values():
        for depth in ("1", "5", "10"):
            assert 0 <= direction["recall"][depth] <= 1
            assert 0 < direction["chance"][depth] <= 1
    # Reports of another set are read with the vocabulary of the checkpoint.
    source = synthetic_source(60, seed=1)
    prepare_dataset(source, meclip / "other", report=lambda _: None)
    flags = ["--config.data=other", "--config.train_folds=1-6"]
    flags += ["--config.valid_folds=7-10"]
    found = bare_run(*flags, folder="evaluation-other")["retrieval"]
    other = open_prepared(meclip / "other")
    count = np.isin(other.index["fold"], MECLIP_FOLDS).sum()
    assert found["ECG to report"]["num_queries"] == count
    # The other folds' are not even tokenised.
    assert f"texts: {count} of {count} records" in capsys.readouterr().out
    # Without labels and folds there is no table, but still the retrieval.
    bare = without_labels_and_folds(synthetic_source(20, seed=2))
    prepare_dataset(bare, meclip / "bare", report=lambda _: None)
    flags = ["--config.data=bare", "--config.report=True"]
    document = bare_run(*flags, folder="evaluation-bare")
    assert document["results"] == []
    assert document["retrieval"]["ECG to report"]["num_queries"] == 20
    text = (workdir / "evaluation-bare" / "results.md").read_text()
    assert "| bare " in text and "| random encoder" not in text
    assert (workdir / "evaluation-bare" / "report.html").exists()
    assert not (workdir / "evaluation" / "report.html").exists()


def test_a_run_on_reports_answers_without_labels_where_there_are_prompts(
    meclip, tmp_path, capsys
):
    prepared = open_prepared(meclip / "synthetic")
    texts = {name: [name.replace("_", " ")] for name in prepared.labels}
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"english": texts}))
    bare_run = functools.partial(run, meclip / "run", "--config.test_folds=()", *BARE)
    document = bare_run(f"--config.prompts={prompts}", "--checkpoint=newest")
    (found,) = (x for x in document["results"] if x["protocol"] == "zero_shot")
    assert found["encoder"].startswith("pre-") and found["budget"] == "0 %"
    # By hand: a softmax of cosines of ECGs and of one text for each label.
    encoder = runs.load_encoder(meclip / "run", "newest")
    rows = np.flatnonzero(np.isin(prepared.index["fold"], MECLIP_FOLDS))
    pooled = encoder.encode(prepared, rows)["pooled"]
    tokens, valid = encoder.run.vocabulary.encode(
        [own[0] for own in texts.values()], encoder.method.text.length
    )
    ecg = encoder.method.embed_ecg(*encoder.parameters, pooled)
    batch = {"text": tokens, "text_valid": valid}
    text = encoder.method.embed_text(encoder.parameters[0], batch)
    ecg, text = (
        np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (ecg, text)
    )
    temperature = encoder.run.experiment.method["temperature"]
    share = np.exp(ecg @ text.T / temperature)
    share /= share.sum(axis=1, keepdims=True)
    truth = prepared.index["labels"][rows]
    expected = {
        name: roc_auc_score(truth[:, column], share[:, column])
        for column, name in enumerate(prepared.labels)
        if name not in found["left_out"]
    }
    # A pair of records that are as near, but for rounding, may change places.
    assert found["per_label"]["auroc"] == pytest.approx(expected, abs=0.03)
    written = (meclip / "run" / "evaluation" / "results.md").read_text()
    assert "| synthetic, macro AUROC, 0 % of the labels | labels" in written
    assert "| zero_shot: pre-trained, step 2 " in written
    # The package has no prompts for these labels.
    capsys.readouterr()
    protocols = {x["protocol"] for x in bare_run()["results"]}
    assert protocols == {"linear"}
    message = "zero-shot is left out: there are no prompts for the labels of synthetic"
    assert message in capsys.readouterr().out
    workdir = f"--workdir={meclip / 'run'}"
    flags = [workdir, "--config.test_folds=()", "--config.protocols=zero_shot"]
    asked = fails(capsys, *flags)
    assert "there are no prompts for the labels of synthetic" in asked


def test_zero_shot_of_a_run_without_reports_is_refused(workdir, capsys):
    message = fails(capsys, f"--workdir={workdir}", "--config.protocols=zero_shot")
    assert "jepa does not learn from reports; leave 'zero_shot'" in message


def without_labels_and_folds(source):
    def strip(task):
        for name, record in task():
            yield name, dataclasses.replace(record, labels={}, fold=-1)

    tasks = [functools.partial(strip, task) for task in source.tasks]
    return dataclasses.replace(source, labels=(), tasks=tasks)
