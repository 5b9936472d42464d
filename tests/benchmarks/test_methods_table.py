"""The table of all methods: its runs are ones that can be made, and its means."""

from pathlib import Path

import pytest

from benchmarks import methods_table
from ecgssl_jax import assembly
from ecgssl_jax.config_files import load, split_overrides
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.experiment import parse

RUNS = list(methods_table.plan())


def test_every_method_is_there_on_every_encoder_that_it_can_train():
    assert len(set(RUNS)) == len(RUNS) == 2 * 8 + 1
    assert ("ViT-XS", "JEPA") in RUNS and ("ResNet1D-18", "JEPA") not in RUNS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Synthetic records under PTB-XL's name; their labels are others."""
    folder = tmp_path_factory.mktemp("data")
    prepare_dataset(synthetic_source(40), folder / "ptbxl", report=lambda text: None)
    return folder


@pytest.mark.parametrize(("encoder", "method"), RUNS)
def test_its_commands_are_runs_that_fit_together(root, encoder, method):
    """All shapes through the loss; only the labels of the set are other ones."""
    words = methods_table.command(encoder, method, 1, 12, str(root))
    assert words[1:3] == ["-m", "ecgssl_jax.main"]
    (config,), overrides = split_overrides(words[3:])
    values = load(config.partition("=")[2], overrides)
    values["evaluators"] = {}
    values["batch_size"] = 8  # there are few records
    if method == "supervised":
        values["method"].update(task="labels", num_labels=20)
    experiment = parse(values)
    assert (experiment.seed, experiment.steps) == (1, 12)
    assert dict(experiment.model) == methods_table.ENCODERS[encoder]
    task = assembly.make_task(experiment)
    assert list(task.meta["data"]) == ["ptbxl"]


def write_results(folder, encoder, method, seed, random, trained):
    """What is kept of a run's results.json."""
    rows = [
        dict(encoder=name, seed=seed, task=task, macro_auroc=value + place / 100)
        for name, value in (("random encoder", random), ("pre-trained, 9", trained))
        for place, task in enumerate(methods_table.TASKS)
    ]
    recall = {"ECG to report": dict(recall={"1": trained / 4}, chance={"1": 0.125})}
    document = {
        "results": [row | dict(probe={}, protocol="linear") for row in rows],
        "retrieval": recall if method.startswith("MECLIP") else {},
        **dict.fromkeys(("step", "training", "versions", "devices", "git_revision")),
    }
    name = methods_table.name_of(encoder, method, seed)
    methods_table.write(folder / f"{name}.json", methods_table.kept(document))


def test_the_table_is_the_mean_of_the_seeds_that_are_done(tmp_path):
    write_results(tmp_path, "ViT-XS", "SimCLR", 0, 0.5, 0.8)
    write_results(tmp_path, "ViT-XS", "SimCLR", 1, 0.6, 0.9)
    write_results(tmp_path, "ViT-XS", "MECLIP, clip", 1, 0.6, 0.7)
    found = methods_table.scores(methods_table.done(tmp_path, (0, 1)))
    lines = methods_table.table(found, (0, 1)).splitlines()
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in lines[2:]}
    assert [cell.strip() for cell in rows["random"][:2]] == [".550(71)", ".560(71)"]
    assert [cell.strip() for cell in rows["SimCLR"][:2]] == [".850(71)", ".860(71)"]
    assert rows["MECLIP, clip"][0].strip() == ".700 (1 seed)"
    assert not rows["JEPA"][0].strip() and not rows["SimCLR"][2].strip()


def test_a_perfect_score_is_not_shown_as_none(tmp_path):
    write_results(tmp_path, "ViT-XS", "BYOL", 0, 0.5, 1.0)
    found = methods_table.scores(methods_table.done(tmp_path, (0,)))
    text = methods_table.table(found, (0,))
    assert "| BYOL " in text and "| 1.000 " in text


def test_recall_stands_beside_that_of_a_random_order(tmp_path):
    write_results(tmp_path, "ViT-XS", "MECLIP, clip", 0, 0.5, 0.8)
    write_results(tmp_path, "ViT-XS", "MECLIP, clip", 1, 0.5, 0.8)
    write_results(tmp_path, "ViT-XS", "SimCLR", 1, 0.5, 0.8)
    text = methods_table.retrieval_table(methods_table.done(tmp_path, (0, 1)))
    header, _, *body = (line.split("|")[1:-1] for line in text.splitlines())
    assert header[-1].strip() == "ECG to report @1"
    assert [[cell.strip() for cell in line] for line in body] == [
        ["ViT-XS", "a random order", ".125"],
        ["ViT-XS", "MECLIP, clip", ".200(00)"],
    ]
    assert methods_table.retrieval_table({}) == ""


def test_the_steps_of_the_budget_are_shown_once_for_a_config(tmp_path):
    chosen = dict(steps=100, batch_size=32, samples_per_second=3.6, minutes=15)
    methods_table.write(tmp_path / "vit-xs_meclip_steps.json", chosen)
    assert methods_table.budget_table(tmp_path).count("| meclip ") == 1


def test_a_run_that_is_done_is_not_repeated(tmp_path, monkeypatch):
    write_results(tmp_path, "ViT-XS", "SimCLR", 0, 0.5, 0.8)
    monkeypatch.setattr(
        methods_table.subprocess, "run", lambda *x, **y: pytest.fail("was started")
    )
    folders = methods_table.Folders(
        root="", workdirs=tmp_path, steps=tmp_path, results=tmp_path
    )
    methods_table.run("ViT-XS", "SimCLR", 0, 15.0, folders, methods_table.Scale())


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ({}, {"steps": "100", "batch_size": "32", "method.ema": "(0.99, 0.999)"}),
        (
            {"times": 10, "batch_times": 4, "cache": "device"},
            {"steps": "250", "batch_size": "128", "data.cache": "'device'"},
        ),
    ],
)
def test_more_samples_come_in_larger_batches(tmp_path, monkeypatch, scale, expected):
    chosen = dict(steps=100, batch_size=32, samples_per_second=3.6, minutes=15)
    steps, results = tmp_path / "steps", tmp_path / "results"
    for folder in (steps, results):
        folder.mkdir()
    methods_table.write(steps / "vit-xs_jepa_steps.json", chosen)
    commands = []

    def start(words, check):
        commands.append(words)
        if "ecgssl_jax.evaluate" in words:
            raise KeyboardInterrupt

    monkeypatch.setattr(methods_table.subprocess, "run", start)
    folders = methods_table.Folders(
        root="data", workdirs=tmp_path, steps=steps, results=results
    )
    scale = methods_table.Scale(**scale)
    with pytest.raises(KeyboardInterrupt):
        methods_table.run("ViT-XS", "JEPA", 0, 15.0, folders, scale)
    flags = dict(
        word.removeprefix("--config.").split("=", 1)
        for word in commands[0]
        if word.startswith("--config.")
    )
    assert expected.items() <= flags.items()
    assert ("method.ema" in flags) == ("method.ema" in expected)


def test_readmes_show_the_runs_that_come_with_the_project():
    root = Path(__file__).parents[2]
    runs = methods_table.done(root / "benchmarks/methods_table", (0, 1))
    assert {(encoder, method) for encoder, method, _ in runs} == set(RUNS)
    assert len(runs) == 2 * len(RUNS)
    readme = (root / "README.md").read_text(encoding="utf-8")
    benchmarks_text = (root / "benchmarks/README.md").read_text(encoding="utf-8")
    assert methods_table.table(methods_table.scores(runs), (0, 1)) in readme
    assert methods_table.retrieval_table(runs) in benchmarks_text
    more = methods_table.done(root / "benchmarks/methods_table/ten_times", (0,))
    assert len(more) == len(methods_table.METHODS)
    assert methods_table.table(methods_table.scores(more), (0,)) in benchmarks_text
    budget = methods_table.budget_table(root / "benchmarks/methods_table")
    assert budget in benchmarks_text


def test_every_run_beats_the_random_encoder_that_it_began_with():
    folder = Path(__file__).parents[2] / "benchmarks/methods_table"
    for (encoder, method, seed), document in methods_table.done(folder, (0, 1)).items():
        for task in methods_table.TASKS:
            random, trained = (
                x["macro_auroc"] for x in document["results"] if x["task"] == task
            )
            assert trained > random + 0.01, (encoder, method, seed, task)
