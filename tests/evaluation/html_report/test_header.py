"""What the head of a report says of its figures."""

import dataclasses
import re

import pytest

from ecgssl_jax.evaluation.html_report.header import header, verdicts
from ecgssl_jax.evaluation.intervals import Interval
from ecgssl_jax.evaluation.retrieval import Retrieval
from tests.evaluation.html_report.material import (
    TRAINED,
    make_material,
    without_labels,
)


def plain(markup):
    return re.sub(r"<[^>]+>", "", markup)


def with_difference(difference, low, high):
    """The trained encoder is so much ahead of the random one."""
    material = make_material()
    cells = {}
    for key, cell in material.cells.items():
        value = 0.8 + difference * (key.encoder == TRAINED)
        scores = {
            "auroc": dataclasses.replace(cell.answers[0].scores["auroc"], value=value)
        }
        against = {}
        if key.encoder == TRAINED:
            against = {"random encoder": Interval(low=low, high=high, level=0.95)}
        cells[key] = dataclasses.replace(
            cell,
            answers=[dataclasses.replace(cell.answers[0], scores=scores)],
            interval=Interval(low=0.78, high=0.83, level=0.95),
            against=against,
        )
    return dataclasses.replace(material, cells=cells)


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (
            (0.02, 0.01, 0.03),
            (
                "labels: .820 [.780, .830] by a linear probe, +.020 [+.010, +.030] more "
                "than the random encoder"
            ),
        ),
        (
            (-0.02, -0.03, -0.01),
            (
                "labels: .780 [.780, .830] by a linear probe, −.020 [−.030, −.010] "
                "against the random encoder"
            ),
        ),
        (
            (0.02, -0.01, 0.05),
            (
                "labels: .820 [.780, .830] by a linear probe, +.020 [−.010, +.050] against the random encoder: "
                "other patients might have put them the other way round"
            ),
        ),
    ],
)
def test_one_sentence_says_what_the_training_was_worth(difference, text):
    (found,) = verdicts(with_difference(*difference))
    assert plain(found) == text


def test_a_model_that_predicts_is_judged_by_its_own_predictions():
    material = make_material(
        protocols=("linear", "predictions"), method={"name": "supervised"}
    )
    (found,) = verdicts(material)
    assert "by its own predictions" in plain(found)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ("10 %", "by a linear probe, 10 % of the labels"),
        ("10 per class", "by a linear probe, labels of 10 per class"),
    ],
)
def test_fewer_labels_are_named(budget, text):
    (found,) = verdicts(make_material(budgets=(budget,)))
    assert text in plain(found)


def test_without_labels_the_sentence_is_of_the_retrieval():
    found = Retrieval(
        recall={1: 0.25}, chance={1: 0.1}, num_queries=9, num_candidates=9
    )
    (text,) = verdicts(without_labels(retrieval={"ECG to report": found}))
    assert plain(text) == "ECG to report: recall@1 .250, where a random order has .100"


@pytest.mark.parametrize(
    ("random", "spectrum", "ends"),
    [
        (
            (0.02, 0.01, 0.03),
            (-0.06, -0.02),
            "random encoder, but −.040 [−.060, −.020] against the log spectrum",
        ),
        (
            (0.02, 0.01, 0.03),
            (-0.06, 0.01),
            (
                "random encoder, and −.040 [−.060, +.010] against the log spectrum: other "
                "patients might have put them the other way round"
            ),
        ),
        (
            (0.02, -0.01, 0.03),
            (-0.06, -0.02),
            "way round, and −.040 [−.060, −.020] against the log spectrum",
        ),
    ],
)
def test_the_distance_from_the_spectrum_is_not_kept_back(random, spectrum, ends):
    material = with_difference(*random)
    behind = Interval(low=spectrum[0], high=spectrum[1], level=0.95)
    cells = dict(material.cells)
    for key, cell in material.cells.items():
        if key.encoder == TRAINED:
            against = {**cell.against, "log spectrum": behind}
            cells[key] = dataclasses.replace(cell, against=against)
        scores = {
            "auroc": dataclasses.replace(cell.answers[0].scores["auroc"], value=0.86)
        }
        better = dataclasses.replace(cell.answers[0], scores=scores)
        spectrum = key._replace(encoder="log spectrum")
        cells[spectrum] = dataclasses.replace(cell, answers=[better], against={})
    (found,) = verdicts(dataclasses.replace(material, cells=cells))
    assert plain(found).endswith(ends)


def test_the_standing_of_the_figures_is_said():
    material = make_material()
    standing = {"kind": "caution", "title": "No <valid> figures", "why": "It saw all."}
    document = {**material.document, "standing": standing}
    text = header(dataclasses.replace(material, document=document))
    expected = (
        '<div class="standing caution"><b>No &lt;valid&gt; figures</b>'
        "<span>It saw all.</span></div>"
    )
    assert expected in text
