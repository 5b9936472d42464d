"""Attention lies over the stretch of the signal that its token is of."""

import dataclasses

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from ecgssl_jax.evaluation.html_report.attention import attention_picture, token_times
from tests.evaluation.html_report.material import make_material


def test_tokens_share_the_time_of_all_windows():
    material = make_material()
    np.testing.assert_allclose(token_times(material, 5), [0, 2, 4, 6, 8, 10])
    # Windows of 4 s: two of them, and half of a third.
    material = dataclasses.replace(material, crop=400)
    assert token_times(material, 6)[-1] == 12


def test_shades_lie_at_their_tokens_and_are_as_dark_as_these_count():
    picture = attention_picture(make_material(protocols=("attention",)))
    (chart,) = picture.charts
    axes = Figure().add_subplot()
    chart.draw(axes)
    shades = [x for x in axes.collections if isinstance(x, PolyCollection)]
    spans = [x.get_paths()[0].get_extents().intervalx.tolist() for x in shades]
    assert spans == [[0, 2], [2, 4], [4, 6]]
    opacity = [x.get_alpha() for x in shades]
    assert opacity == pytest.approx([0.75, 0.75 * 2 / 7, 0.75 / 7])
    assert "most attention from 0.0 to 2.0 s" in chart.label
    material = make_material(protocols=("attention",))
    record = material.reported("labels").record_id[2]
    assert f"a: record {record}, lead II" in chart.title


def test_the_first_lead_is_shown_where_the_second_is_missing():
    material = make_material(protocols=("attention",))
    material.prepared.index["lead_valid"][:, :2] = 0
    (chart,) = attention_picture(material).charts
    assert chart.title.endswith("lead III")


def test_there_is_no_picture_without_the_probe_or_an_order_in_time():
    assert attention_picture(make_material()) is None
    of_leads = make_material(protocols=("attention",), ordered_tokens=False)
    assert attention_picture(of_leads) is None
