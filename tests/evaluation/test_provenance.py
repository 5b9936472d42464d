"""What a checkpoint knew of a set, by the contents of the sets."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from ecgssl_jax.evaluation.provenance import provenance_of
from ecgssl_jax.experiment import parse
from ecgssl_jax.methods.base import LabelShape, TextShape
from ecgssl_jax.runs import Run

SELF_SUPERVISED = types.SimpleNamespace(text=None, labels=None)


def prepared(name, content="a"):
    return types.SimpleNamespace(
        name=name,
        metadata={"content_hash": content},
        index={"fold": np.array([3, 1, 2, 2, 3])},
    )


def run(data, contents, *, probe=("mine", "a"), checkpoint="best"):
    """Trained on sets of these contents; the probe selects on its fold 3."""
    name, content = probe
    settings = {"data": name, "train_folds": (1, 2), "valid_folds": (3,)}
    config = {"steps": 1, "batch_size": 1, "model": {}, "method": {}, "data": data}
    experiment = parse(config | {"evaluators": {"probe": settings}})
    return Run(
        experiment=experiment,
        checkpoint=Path("run") / checkpoint / "1",
        step=1,
        data={
            each.name: {
                "name": each.name.rpartition("/")[2],
                "content_hash": contents[each.name],
                "folds": each.folds,
            }
            for each in experiment.data.components
        },
        evaluated={"probe": {"name": name, "content_hash": content}},
        began_with={},
        labels=(),
        records=5,
        vocabulary=None,
    )


def test_the_folds_are_those_of_the_config():
    one = run({"name": "mine", "folds": (1, 2)}, {"mine": "a"})
    found = provenance_of(one, SELF_SUPERVISED, prepared("mine"))
    assert (found.learnt, found.selected_on) == ({"signals": (1, 2)}, (3,))
    assert not found.changed
    whole = run({"name": "mine"}, {"mine": "a"})
    found = provenance_of(whole, SELF_SUPERVISED, prepared("mine"))
    assert found.learnt == {"signals": (1, 2, 3)}


def test_the_component_of_a_mixture_counts():
    mixture = ({"name": "other", "folds": (1,)}, {"name": "mine", "folds": (2,)})
    both = run({"mixture": mixture}, {"other": "b", "mine": "a"})
    found = provenance_of(both, SELF_SUPERVISED, prepared("mine"))
    assert found.learnt == {"signals": (2,)}


def test_sets_of_one_name_are_told_by_their_contents():
    mixture = ({"name": "x/mine", "folds": (1,)}, {"name": "y/mine", "folds": (2,)})
    both = run({"mixture": mixture}, {"x/mine": "a", "y/mine": "b"})
    found = provenance_of(both, SELF_SUPERVISED, prepared("mine", "a"))
    assert found.learnt == {"signals": (1,)} and not found.changed


def test_a_set_of_other_contents_under_the_same_name_is_changed():
    trained = run({"name": "mine"}, {"mine": "a"})
    found = provenance_of(trained, SELF_SUPERVISED, prepared("mine", "new"))
    assert found.changed
    assert not found.learnt and found.selected_on == ()


def test_a_probe_whose_set_has_changed_is_noticed():
    probed = run({"name": "other"}, {"other": "b"}, probe=("mine", "old"))
    found = provenance_of(probed, SELF_SUPERVISED, prepared("mine"))
    assert found.changed and found.selected_on == ()


def test_another_set_was_not_used():
    trained = run({"name": "mine"}, {"mine": "a"})
    found = provenance_of(trained, SELF_SUPERVISED, prepared("foreign", "f"))
    assert not found.changed
    assert not found.learnt and found.selected_on == ()


def test_the_newest_checkpoint_is_selected_by_nothing():
    newest = run({"name": "mine"}, {"mine": "a"}, checkpoint="checkpoints")
    found = provenance_of(newest, SELF_SUPERVISED, prepared("mine"))
    assert found.selected_on == ()


@pytest.mark.parametrize(
    ("asked", "learnt_from"),
    [
        ({}, ("signals",)),
        ({"labels": LabelShape("all", 71)}, ("signals", "labels")),
        ({"text": TextShape(8, 100)}, ("signals", "reports")),
    ],
)
def test_what_is_learnt_from_is_what_the_method_asks_for(asked, learnt_from):
    method = types.SimpleNamespace(**{"text": None, "labels": None, **asked})
    trained = run({"name": "mine"}, {"mine": "a"})
    learnt = provenance_of(trained, method, prepared("mine")).learnt
    assert learnt == dict.fromkeys(learnt_from, (1, 2, 3))


def test_what_a_run_began_with_has_seen_counts_too():
    tuned = run({"name": "mine", "folds": (1,)}, {"mine": "a"})
    first = {
        "learnt_from": ["signals", "reports"],
        "data": {"mine": {"name": "mine", "content_hash": "a", "folds": [2]}},
        "began_with": {},
    }
    second = {
        "learnt_from": ["signals"],
        "data": {"mine": {"name": "mine", "content_hash": "a", "folds": None}},
        "selected_on": {"name": "mine", "content_hash": "a", "folds": [2]},
        "began_with": first,
    }
    tuned = dataclasses.replace(tuned, began_with=second)
    method = types.SimpleNamespace(text=None, labels=LabelShape("all", 71))
    found = provenance_of(tuned, method, prepared("mine"))
    # The run's own probe, and that of the one it began with.
    assert found.selected_on == (2, 3)
    assert found.learnt == {
        "signals": (1, 2, 3),
        "labels": (1,),
        "reports": (2,),
    }
