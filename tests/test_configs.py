"""Every file of configs/, with each of its variants."""

import importlib.util
import textwrap
from pathlib import Path

import pytest

from ecgssl_jax import assembly, main, optim
from ecgssl_jax.experiment import parse
from ecgssl_jax.settings import ConfigError

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.py"))
# Of an evaluation, which `tests/evaluation/test_settings.py` looks at.
METHODS = [path for path in FILES if path.stem != "evaluate"]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [(path, each) for path in METHODS for each in ("", *load(path).VARIANTS)]


@pytest.mark.parametrize(
    ("path", "variant"), CASES, ids=lambda x: getattr(x, "stem", x)
)
def test_config_makes_a_method_its_masks_and_its_optimiser(path, variant):
    experiment = parse(load(path).get_config(variant).to_dict())
    assembly.make_method(experiment)
    assembly.make_masks(experiment)
    optim.make_optimiser(experiment.optim, experiment.steps)


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_config_takes_settings_in_its_argument(path):
    config = load(path).get_config("steps=17,root=elsewhere")
    assert (config.steps, config.data.root) == (17, "elsewhere")


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_config_on_a_set_of_ones_own_asks_for_neither_folds_nor_labels(path):
    experiment = parse(load(path).get_config("name=mine").to_dict())
    assert experiment.data.name == "mine" and experiment.data.folds is None
    assert experiment.evaluators == {}


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_config_on_a_set_of_ones_own_takes_folds_and_a_probe(path):
    argument = "name=mine,folds=(1,2),evaluators.probe.data=mine"
    experiment = parse(load(path).get_config(argument).to_dict())
    assert experiment.data.folds == (1, 2)
    assert experiment.evaluators == {"probe": {"data": "mine"}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_documents_its_variants(path):
    module = load(path)
    for variant in module.VARIANTS:
        assert f"{path.name}:{variant}" in module.__doc__


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_rejects_a_variant_that_it_does_not_have(path):
    with pytest.raises(ConfigError, match="unknown variant 'nonsense'"):
        load(path).get_config("nonsense")


def test_a_config_alone_makes_the_embedded_set_and_trains_in_runs(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny = {
        "steps": 2,
        "batch_size": 8,
        "data.synthetic_records": 64,
        "evaluators": {},
        "model.width": 16,
        "model.depth": 1,
        "model.num_heads": 1,
        "method.predictor_width": 16,
        "method.predictor_depth": 1,
        "method.predictor_num_heads": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in tiny.items()]
    main.main([f"--config={CONFIGS / 'jepa.py'}", *flags])
    assert (tmp_path / "data" / "synthetic" / "1.0.0" / "metadata.json").exists()
    assert (tmp_path / "runs" / "jepa" / "checkpoints" / "2").is_dir()


def test_the_config_in_the_readme_is_one(tmp_path):
    text = CONFIGS.with_name("README.md").read_text()
    shown = text.partition("A config of your own is such a file:\n\n")[2]
    shown = shown.partition("\n## ")[0]
    assert "def get_config" in shown
    (tmp_path / "mine.py").write_text(textwrap.dedent(shown))
    experiment = parse(load(tmp_path / "mine.py").get_config("steps=7").to_dict())
    assert (experiment.steps, experiment.data.name) == (7, "mine")
    assembly.make_method(experiment)
