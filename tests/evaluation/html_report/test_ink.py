"""Colours as variables, in both schemes."""

import re

import pytest

from ecgssl_jax.evaluation.html_report.ink import (
    DARK,
    LIGHT,
    SERIES,
    as_variables,
    style_sheet,
)


def luminance(colour):
    """Relative, as WCAG 2.1 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_texts_and_marks_stand_out_from_what_is_behind_them(scheme):
    for behind in ("page", "card", "wash"):
        assert contrast(scheme["ink"], scheme[behind]) > 12
        assert contrast(scheme["faint"], scheme[behind]) > 4.5
    for name in SERIES:
        assert contrast(scheme[name], scheme["card"]) > 2


def test_colours_become_variables_and_references_do_not():
    assert len(set(LIGHT.values())) == len(LIGHT) and LIGHT.keys() == DARK.keys()
    drawing = (
        f'<path fill="{LIGHT["blue"].upper()}" stroke="#123456" d="url(#d55e00)"/>'
    )
    expected = '<path fill="var(--blue)" stroke="#123456" d="url(#d55e00)"/>'
    assert as_variables(drawing) == expected


def test_both_schemes_define_every_variable_and_paper_is_light():
    sheet = style_sheet()
    for name in LIGHT:
        assert len(re.findall(rf"--{name}:", sheet)) >= 4
    assert "prefers-color-scheme:dark" in sheet and "@media print" in sheet
