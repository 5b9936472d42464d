import dataclasses
import functools
import json
import runpy
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from ecgssl_jax import assembly, runs
from ecgssl_jax.checkpoint import Checkpointer
from ecgssl_jax.config_files import load
from ecgssl_jax.data.readers.synthetic import synthetic_source
from ecgssl_jax.data.writing import prepare_dataset
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
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
META = {
    "config": CONFIG,
    "data": {"mine": {"rate": 100.0}},
    "evaluated": {},
    "tokens": {},
}
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


@pytest.mark.parametrize(
    ("folder", "best"), [("best/3", True), ("checkpoints/5", False)]
)
def test_one_step_is_read_by_its_own_folder(workdir, folder, best, monkeypatch):
    run, _ = runs.open_run(workdir / folder)
    assert run.step == int(folder[-1]) and run.is_best == best
    assert run.checkpoint == workdir / folder
    assert runs.saved_run(workdir / folder).step == run.step
    assert runs.workdir_of(workdir / folder) == runs.workdir_of(workdir) == workdir
    monkeypatch.chdir(workdir)
    assert runs.open_run(folder)[0].is_best == best


def test_a_step_that_is_not_kept_is_explained(workdir):
    with pytest.raises(FileNotFoundError, match="kept are best/3, checkpoints/5"):
        runs.open_run(workdir / "best" / "4")


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


def test_a_random_encoder_does_not_depend_on_the_rows_it_is_initialised_with():
    row = runs.example_row(parse(CONFIG))
    assert row["ecg"].shape == (1, 100, 12)
    found = runs.random_parameters(METHOD, row, seed=3)
    jax.tree.map(np.testing.assert_array_equal, found, parameters(3))


METHODS = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "evaluate")


@pytest.mark.parametrize("path", METHODS, ids=lambda x: x.stem)
def test_every_method_is_initialised_by_its_signals_alone(path):
    experiment = parse(load(str(path), {}))
    method = assembly.make_method(experiment)
    row = runs.example_row(experiment)
    params, _ = jax.eval_shape(method.init, jax.random.key(0), row)
    assert {"encoder"} <= params.keys()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """20 labelled records at 100 Hz, of 1000 samples."""
    path = tmp_path_factory.mktemp("data") / "synthetic"
    return prepare_dataset(synthetic_source(20), path, report=lambda _: None)


def test_the_encoder_of_a_run_encodes_a_set(workdir, prepared):
    encoder = runs.load_encoder(workdir, "newest")
    rows = np.array([7, 2])
    found = encoder.encode(prepared, rows)
    assert found.keys() == {"pooled"} and found["pooled"].shape == (2, 8)
    # By hand: the mean over the ten windows, with the parameters of step 5.
    ecg = (prepared.read(rows) * prepared.scale - prepared.mean) / prepared.std
    ecg = np.clip(ecg, -5, 5).astype(np.float32).reshape(20, 100, 12)
    expected = METHOD.features(*parameters(5), {"ecg": ecg})["pooled"]
    expected = np.asarray(expected).reshape(2, 10, 8).mean(axis=1)
    np.testing.assert_allclose(found["pooled"], expected, atol=1e-4)


def test_the_tokens_are_given_where_they_are_asked_for(workdir, prepared):
    encoder = runs.load_encoder(workdir, tokens=np.float16)
    found = encoder.encode(prepared, np.arange(3))
    assert found["tokens"].shape == (3, 10 * 10, 8)


def test_a_random_encoder_is_another_one(workdir, prepared):
    encoder = runs.load_encoder(workdir, "best")
    rows = np.arange(3)
    trained, random, same = (
        each.encode(prepared, rows)["pooled"]
        for each in (encoder, encoder.random(0), encoder.random(3))
    )
    assert np.abs(trained - random).max() > 0.01
    np.testing.assert_allclose(trained, same, atol=1e-6)


def test_a_set_of_another_rate_or_length_is_refused(workdir, prepared):
    encoder = runs.load_encoder(workdir)
    faster = dataclasses.replace(prepared, rate=500.0)
    with pytest.raises(ConfigError, match="500 Hz, .* 100 Hz .mine.; .* --rate=100"):
        encoder.encode(faster)
    short = dataclasses.replace(prepared, length=50)
    with pytest.raises(ConfigError, match="stored with 50"):
        encoder.encode(short)


def test_the_example_of_the_readme_runs(workdir, prepared, tmp_path, monkeypatch):
    text = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    section = text.partition("On a prepared set, ")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ")]
    (tmp_path / "data").symlink_to(prepared.directory.parents[1])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "jepa").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(textwrap.dedent("\n".join(lines)))
    names = runpy.run_path("example.py")
    assert names["features"].shape == (20, 8)
    assert names["features"].dtype == np.float32


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
