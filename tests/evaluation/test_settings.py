from pathlib import Path

import pytest

from ecgssl_jax import config_files
from ecgssl_jax.evaluation.settings import Evaluation, parse
from ecgssl_jax.settings import ConfigError

CONFIG = str(Path(__file__).parents[2] / "configs" / "evaluate.py")


def test_texts_and_numbers_stand_for_tuples():
    found = parse(
        {
            "tasks": "all, form",
            "train_folds": "1-3,7",
            "seeds": 4,
            "budgets": "1 %,10 per class",
            "protocols": "linear",
            "valid_folds": (9,),
            "prompt_languages": "german",
        }
    )
    assert found.prompt_languages == ("german",)
    assert found.tasks == ("all", "form") and found.train_folds == (1, 2, 3, 7)
    assert found.seeds == (4,) and found.valid_folds == (9,)
    assert found.budgets == ("1 %", "10 per class") and found.protocols == ("linear",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "all"}, "did you mean 'tasks'"),
        ({"valid_folds": "x"}, "config.valid_folds: 'x' is no list of numbers"),
        ({"protocols": "knn"}, r"protocols\[0\]: expected 'linear' or"),
        ({"protocols": ""}, "protocols is empty"),
        ({"budgets": ("most",)}, "unknown budget 'most'"),
        ({"budgets": 10}, "10; of what.* '10 %', or '10 per class'"),
        ({"budgets": ("10%", "10 %")}, "budgets names something twice"),
        ({"protocols": "linear,linear"}, "protocols names something twice"),
        ({"seeds": "0,0"}, "seeds names something twice"),
        ({"seeds": (2**64,)}, "seeds must be from 0"),
        ({"attention": {"steps": 0}}, "steps must be at least 1, found 0"),
        ({"attention": {"learning_rate": -1.0}}, "learning_rate must be above 0"),
        ({"level": 95.0}, "level of 0.5 or more, below 1"),
        ({"attention": {"step": 1}}, "config.attention: unknown key 'step'"),
    ],
)
def test_settings_that_cannot_work_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse(values)


def test_quick_is_what_is_done_without_a_config():
    assert parse(config_files.load(f"{CONFIG}:quick", {})) == Evaluation()


def test_the_config_asks_for_every_task_protocol_and_budget():
    found = parse(config_files.load(CONFIG, {"seeds": (3, 4)}))
    assert found.tasks == ("every",) and found.seeds == (3, 4)
    assert len(found.protocols) == 3 and found.budgets == ("1 %", "10 %", "100 %")
    assert "supervised model" in found.baselines


def test_the_argument_of_the_config_changes_settings():
    found = parse(config_files.load(f"{CONFIG}:quick,data=mine,attention.steps=7", {}))
    assert found.data == "mine" and found.attention.steps == 7


def test_a_protocol_is_added_once():
    found = Evaluation(protocols=("zero_shot", "linear"))
    assert found.also("zero_shot") == found
    assert Evaluation().also("zero_shot").protocols == ("linear", "zero_shot")
