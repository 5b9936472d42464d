"""Figures of AUROCs: what stands where."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from ecgssl_jax.evaluation.html_report.label_scores import label_pictures, lines_of
from ecgssl_jax.evaluation.html_report.scores import budget_curves, encoders_by_task
from tests.evaluation.html_report.material import TRAINED, make_material


def drawn(chart):
    axes = Figure().add_subplot()
    chart.draw(axes)
    return axes


def test_every_encoder_has_its_dot_and_interval():
    material = make_material()
    (chart,) = encoders_by_task(material.board).charts
    lines = [line.get_xdata() for line in drawn(chart).get_lines()]
    expected = []
    for cell in material.cells.values():
        expected += [[cell.interval.low, cell.interval.high], [cell.mean()]]
    for line, values in zip(lines, expected, strict=True):
        assert list(line) == pytest.approx(values)


def test_of_several_budgets_the_dots_are_those_of_the_most_labels():
    material = make_material(budgets=("10 %", "100 %"))
    (chart,) = encoders_by_task(material.board).charts
    assert len(drawn(chart).get_lines()) == 4
    assert material.board.main("labels").budget == "100 %"


def test_budgets_go_from_few_labels_to_many():
    budgets = ("100 %", "10 per class", "1 %", "10 %")
    (picture,) = budget_curves(make_material(budgets=budgets).board)
    (chart,) = picture.charts
    ticks = [text.get_text() for text in drawn(chart).get_xticklabels()]
    assert ticks == ["10 per class", "1 %", "10 %", "100 %"]
    assert budget_curves(make_material().board) == []


def test_labels_are_sorted_and_rare_ones_marked():
    material = make_material()
    lines = lines_of(material, "labels")
    (key,) = (k for k in material.cells if k.encoder == TRAINED)
    cell = material.cells[key]
    assert {line.label: line.value for line in lines} == pytest.approx(cell.per_label())
    values = [line.value for line in lines]
    assert values == sorted(values, reverse=True)
    assert all(set(line.others) == {"random encoder"} for line in lines)
    (picture,) = label_pictures(material)
    assert not any(line.interval.trusted for line in lines)
    assert "not to be trusted" in [entry.text for entry in picture.legend]
    assert "fewer than 30 such patients" in picture.caption


def test_many_labels_are_divided_over_charts_of_equal_axes():
    labels = [f"l{number:02d}" for number in range(2)]
    (picture,) = label_pictures(make_material(labels=labels))
    limits = {drawn(chart).get_xlim() for chart in picture.charts}
    assert len(limits) == 1
    assert all(np.isfinite(each).all() for each in limits)
