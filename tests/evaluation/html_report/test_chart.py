"""Charts as SVG of a page, and on a sheet."""

import re
from xml.etree import ElementTree

import numpy as np

from ecgssl_jax.evaluation.html_report.chart import (
    Chart,
    Entry,
    plain,
    sheet,
    shortened,
    svg,
    tidy,
)
from ecgssl_jax.evaluation.html_report.ink import LIGHT


def chart(text="0.87512345", title="T"):
    def draw(axes):
        tidy(axes)
        x = np.linspace(0, 1, 7)
        axes.plot(x, x**2, color=LIGHT["blue"], marker="o")
        axes.text(0.5, 0.5, plain(text), color=LIGHT["ink"])

    return Chart(draw=draw, label="rises <steeply> & well", title=title)


def test_a_chart_is_an_image_with_its_words_and_fetches_nothing():
    found = svg(chart(), "one")
    root = ElementTree.fromstring(found)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "T: rises <steeply> & well"
    assert "http" not in found and "xmlns" not in found and "font-family" not in found


def test_colours_of_the_scheme_are_variables():
    found = svg(chart(), "one")
    assert "var(--blue)" in found and "var(--ink)" in found
    assert not re.findall(r"#[0-9a-f]{6}", found)


def test_coordinates_are_rounded_and_texts_are_not():
    found = svg(chart(), "one")
    assert ">0.87512345<" in found
    assert not re.findall(r'd="[^"]*\d\.\d{3}', found)


def test_the_same_chart_gives_the_same_bytes_and_names_keep_charts_apart():
    one, again, other = svg(chart(), "one"), svg(chart(), "one"), svg(chart(), "two")
    assert one == again
    names = [re.findall(r' id="([^"]+)"', each) for each in (one, other)]
    assert names[0] and len(set(names[0])) == len(names[0])
    assert not set(names[0]) & set(names[1])
    for found, own in zip((one, other), names, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', found)) <= {
            pair for name in own for pair in ((name, ""), ("", name))
        }


def test_texts_of_data_are_escaped_and_no_formulas():
    found = svg(chart(text="<script>$x^2$", title="$\\frac$"), "one")
    assert "&lt;script&gt;$x^2$" in found and "<script" not in found
    assert "$\\frac$" in found


def test_a_sheet_holds_all_charts_with_title_and_legend():
    legend = [Entry(colour="blue", mark=mark, text=mark) for mark in ("dot", "dashes")]
    figure = sheet([chart()] * 3, title="All", legend=legend, columns=2)
    assert len(figure.axes) == 3
    (own,) = figure.legends
    assert [text.get_text() for text in own.get_texts()] == ["dot", "dashes"]
    assert figure.texts[0].get_text() == "All"
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0 and boxes[2].y1 < boxes[0].y0


def test_long_names_lose_their_middle():
    assert shortened("ECG", 3) == "ECG"
    one, other = (shortened(f"electrical axis: {x}", 12) for x in ("left", "right"))
    assert (one, other) == ("elec…s: left", "elec…: right")
