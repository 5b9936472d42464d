"""Answers: what a probe may see, and that figures are those of its logits."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecgssl_jax.evaluation.budget import Budget, draw
from ecgssl_jax.evaluation.questions import question
from ecgssl_jax.evaluation.scoring import Own, answers
from ecgssl_jax.evaluation.settings import AttentionSettings, Evaluation
from ecgssl_jax.evaluation.split import final_split, validation_split
from tests.evaluation.labelled import labelled_set

SPLIT = validation_split((1, 2, 3), (4,))
SHORT = AttentionSettings(steps=40, evaluate_every=10, learning_rate=0.05)
PROTOCOLS = ("linear", "neighbours", "attention")


def asked_of(prepared, split=SPLIT):
    return question(prepared, "labels", split)


def answered(features, *questions, split=SPLIT, seeds=(0,), **settings):
    settings = Evaluation(**{"attention": SHORT, **settings})
    return list(answers(features, questions, split, settings, seeds))


def as_features(pooled):
    """With one token that is the pooled feature."""
    return {"pooled": pooled, "tokens": pooled[:, None]}


def test_scores_are_those_of_the_logits_of_the_reported_records():
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    for found in answered(as_features(features), asked, protocols=PROTOCOLS):
        report = asked.fold == 4
        assert found.logits.shape == (report.sum(), 2)
        for column, name in enumerate(asked.classes):
            known = asked.known[report, column]
            truth = asked.labels[report, column][known], found.logits[known, column]
            scores = {key: each.per_label[name] for key, each in found.scores.items()}
            assert scores["auroc"] == pytest.approx(roc_auc_score(*truth))
            expected = average_precision_score(*truth)
            assert scores["average_precision"] == pytest.approx(expected)
        assert found.scores["auroc"].value > 0.8


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_that_nothing_taught_are_told(protocol):
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    (found,) = answered(as_features(features), asked, protocols=(protocol,))
    assert found.unfitted == ()
    labels = asked.labels.copy()
    labels[asked.fold != 4, 1] = 0
    (found,) = answered(
        as_features(features),
        dataclasses.replace(asked, labels=labels),
        protocols=(protocol,),
    )
    assert found.unfitted == asked.classes[1:]
    assert asked.classes[1] in found.scores["auroc"].per_label


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reported_records_change_nothing_in_the_probe(protocol):
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    (one,) = answered(as_features(features), asked, protocols=(protocol,))
    turned = features.copy()
    turned[prepared.index["fold"] == 4] *= -1
    (other,) = answered(as_features(turned), asked, protocols=(protocol,))
    assert other.selection == one.selection and other.settings == one.settings
    # The same probe ranks mirrored records the other way round.
    assert one.scores["auroc"].value > 0.8 and other.scores["auroc"].value < 0.5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_that_are_unknown_or_outside_the_budget_count_for_nothing(protocol):
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    fitted = asked.part((1, 2, 3))
    drawn = fitted.copy()
    drawn[fitted] = draw(
        Budget(share=0.2),
        asked.patient[fitted],
        asked.labels[fitted],
        asked.known[fitted],
        population=asked.population,
        seed=0,
    )

    def logits(changed):
        labels = np.where(changed, 1 - asked.labels, asked.labels)
        other = dataclasses.replace(asked, labels=labels)
        ask = {"protocols": (protocol,), "budgets": ("20 %",)}
        return answered(as_features(features), other, **ask)[0].logits

    # The selecting fold, 3, has all of its labels.
    unused = ~asked.known | (asked.part((1, 2)) & ~drawn)[:, None]
    expected = logits(np.zeros_like(unused))
    np.testing.assert_array_equal(logits(unused), expected)
    used = asked.known & (asked.part((1, 2)) & drawn)[:, None]
    assert not np.array_equal(logits(used), expected)


def test_tasks_are_answered_as_if_each_were_asked_alone():
    prepared, features = labelled_set(800)
    first = asked_of(prepared)
    # A task of other records, with one label.
    some = first.rows % 4 < 3
    second = dataclasses.replace(
        first,
        name="some",
        classes=("b",),
        **{
            name: getattr(first, name)[some]
            for name in ("rows", "record_id", "fold", "patient", "labels", "known")
        },
    )
    second = dataclasses.replace(
        second, labels=second.labels[:, 1:], known=second.known[:, 1:]
    )
    ask = {"protocols": ("linear", "neighbours"), "budgets": ("30 %", "100 %")}
    together = answered(as_features(features), first, second, **ask)
    alone = answered(as_features(features), second, **ask)
    found = [each for each in together if each.task == "some"]
    assert [x.records for x in found] == [x.records for x in alone]
    for one, other in zip(found, alone, strict=True):
        assert (
            one.logits.shape
            == other.logits.shape
            == (
                (second.fold == 4).sum(),
                1,
            )
        )
        # But for the standardisation, which is that of all rows.
        value, expected = (x.scores["auroc"].value for x in (one, other))
        assert value == pytest.approx(expected, abs=0.03)


def test_what_draws_nothing_is_answered_once_and_what_does_for_each_seed():
    prepared, features = labelled_set()
    found = answered(
        as_features(features),
        asked_of(prepared),
        seeds=(0, 1),
        protocols=("linear", "attention"),
        budgets=("20 %", "100 %"),
    )
    assert [(x.protocol, x.budget, x.seed) for x in found] == [
        ("linear", "20 %", 0),
        ("linear", "20 %", 1),
        ("linear", "100 %", None),
        ("attention", "20 %", 0),
        ("attention", "20 %", 1),
        ("attention", "100 %", 0),
        ("attention", "100 %", 1),
    ]
    # Folds 1-3 have 60 patients of 2 records each; the attention probe is not fitted
    # to fold 3, which selects.
    assert [each.records for each in found[:3]] == [24, 24, 120]
    assert found[5].records == 80
    assert not np.array_equal(found[0].logits, found[1].logits)


def test_for_the_test_folds_probes_are_not_fitted_to_those_that_select():
    prepared, features = labelled_set()
    split = final_split((1, 2), (3,), (4,))
    asked = asked_of(prepared, split)
    for found in answered(
        as_features(features), asked, split=split, protocols=PROTOCOLS
    ):
        assert found.records == 80
    turned = dataclasses.replace(
        asked,
        labels=np.where((asked.fold == 3)[:, None], 1 - asked.labels, asked.labels),
    )
    one, other = (
        answered(as_features(features), each, split=split)[0]
        for each in (asked, turned)
    )
    # Mirrored labels select another strength, but are not fitted.
    assert max(other.selection.values()) < 0.5 < max(one.selection.values())
    assert other.scores["auroc"].value > 0.8


def test_protocols_without_their_features_are_left_out():
    prepared, features = labelled_set()
    found = answered({"pooled": features}, asked_of(prepared), protocols=PROTOCOLS)
    assert [each.protocol for each in found] == ["linear", "neighbours"]


def test_fewer_labels_take_fewer_steps_of_the_attention_probe():
    prepared, features = labelled_set()
    found = answered(
        as_features(features),
        asked_of(prepared),
        protocols=("attention",),
        budgets=("5 %", "50 %", "100 %"),
    )
    looks = [list(each.selection) for each in found]
    assert looks == [
        ["1", "2", "3", "4"],
        ["5", "10", "15", "20"],
        ["10", "20", "30", "40"],
    ]


def test_tokens_that_are_not_valid_count_for_nothing():
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    valid = np.array([[True, False, False]]).repeat(len(features), axis=0)
    found = []
    for scale in (0, 5):
        noise = scale * np.random.default_rng(1).normal(size=(len(features), 2, 2))
        tokens = np.concatenate([features[:, None], noise], axis=1)
        given = {"tokens": tokens.astype(np.float32), "tokens_valid": valid}
        found += answered(given, asked, protocols=("attention",))
    np.testing.assert_array_equal(found[0].logits, found[1].logits)


def test_features_that_are_not_finite_are_refused():
    prepared, features = labelled_set()
    features[2] = np.nan
    with pytest.raises(ValueError, match="have features that are not finite"):
        answered({"pooled": features}, asked_of(prepared))


def test_own_predictions_are_scored_as_they_are_for_their_own_task():
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    ask = {"protocols": ("predictions",), "budgets": ("20 %",)}
    settings = Evaluation(**ask)
    for own_columns, columns in (
        ({"labels": slice(None)}, slice(None)),
        ({"other": slice(0, 2), "labels": slice(2, 4)}, slice(2, 4)),
        ({"all": slice(None)}, None),
        (None, None),
    ):
        own = None
        if own_columns is not None:
            budget = Budget(share=0.3)
            own = Own(columns=own_columns, budget=budget, seed=7, records=50)
        # Of several tasks, the columns of each.
        wide = np.concatenate([features, -features], axis=1)
        logits = -features if columns == slice(None) else wide
        given = {"pooled": features, "logits": logits}
        found = list(answers(given, [asked], SPLIT, settings, (0, 1), own=own))
        assert len(found) == (columns is not None)
        for each in found:
            # By the labels that the model learned from, not those that probes have.
            found = (each.protocol, each.budget, each.seed, each.records)
            assert found == ("predictions", "30 %", 7, 50)
            expected = -features[asked.rows[asked.fold == 4]]
            np.testing.assert_array_equal(each.logits, expected)
            assert each.scores["auroc"].value < 0.2


def test_zero_shot_is_answered_once_without_labels_or_budget():
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    zero_shot = SimpleNamespace(logits=lambda pooled, task: -pooled)
    ask = {"protocols": ("zero_shot",), "budgets": ("20 %", "100 %")}
    settings, given = Evaluation(**ask), {"pooled": features}
    assert not list(answers(given, [asked], SPLIT, settings, (0, 1)))
    (found,) = answers(given, [asked], SPLIT, settings, (0, 1), zero_shot=zero_shot)
    assert (found.protocol, found.budget, found.seed) == ("zero_shot", "0 %", None)
    assert found.records == 0 and not found.selection
    expected = -features[asked.rows[asked.fold == 4]]
    np.testing.assert_array_equal(found.logits, expected)


def test_an_attention_probe_tells_what_it_looked_at_where_it_is_surest():
    prepared, features = labelled_set()
    asked = asked_of(prepared)
    tokens = np.stack([features, -features, 0 * features], axis=1)
    with_tokens = {"pooled": features, "tokens": tokens}
    (found,) = answered(with_tokens, asked, protocols=("attention",))
    assert set(found.looks) == {"a", "b"}
    reported = asked.only(SPLIT.report)
    for column, name in enumerate(asked.classes):
        look = found.looks[name]
        positive = reported.known[:, column] & (reported.labels[:, column] == 1)
        assert positive[look.place]
        highest = found.logits[positive, column].max()
        assert found.logits[look.place, column] == highest
        assert look.attention.shape == (3,)
        assert look.attention.sum() == pytest.approx(1)
    (found,) = answered(with_tokens, asked)
    assert found.looks == {}
