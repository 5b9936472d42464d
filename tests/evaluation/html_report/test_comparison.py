"""The page of a comparison: what it says of whom."""

import dataclasses
import re

import pytest
from matplotlib.figure import Figure

from ecgssl_jax.evaluation.html_report.comparison import (
    Compared,
    make_sections,
    verdicts,
    write,
)
from ecgssl_jax.evaluation.html_report.scores import distances_by_task
from ecgssl_jax.evaluation.standing import Standing
from ecgssl_jax.evaluation.summary import Row, summarise
from tests.evaluation.evaluated import STANDING, answer, logits, reported
from tests.evaluation.html_report.parsed import Page

NAMES = ("one", "two", "three")


def make_compared(*, budgets=("100 %",), names=NAMES, **changes) -> Compared:
    """Of rows that are worse and worse, and of a baseline."""
    asked = reported()
    rows = [
        Row(
            encoder=name,
            answers=[
                (None, answer(logits(noise, 3, asked), asked, budget=x))
                for x in budgets
            ],
        )
        for noise, name in enumerate(["log spectrum of one", *names], 1)
    ]
    cells = summarise(
        rows, [asked], pairs=[(x, names[0]) for x in names[1:]], draws=100, level=0.95
    )
    document = {
        "data": "mine",
        "runs": {name: [f"runs/{name}"] for name in names},
        "notes": ["Read me."],
        "command": ["/somewhere/ecgssl_jax/compare.py", "runs/one", "runs/<two>"],
        "git_revision": None,
        "devices": "1 x cpu",
        "processes": 1,
        "versions": {"ecgssl_jax": "0.1.0"},
    }
    made = Compared(
        cells=cells,
        rows=dict.fromkeys(names, 1),
        standings={name: [STANDING] for name in names},
        document=document,
        date="2026-01-31",
    )
    return dataclasses.replace(made, **changes)


def test_the_page_is_sound_and_its_figures_lie_beside_it(tmp_path):
    path = write(tmp_path, make_compared(budgets=("10 %", "100 %")))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert "http:" not in text and "https:" not in text
    assert "python -m ecgssl_jax.compare runs/one" in text and "<two>" not in text
    found = {path.stem for path in (tmp_path / "report").iterdir()}
    assert found == {"encoders", "distances", "budgets-linear"}


def test_distances_are_those_from_the_first_row():
    found = make_compared()
    (chart,) = distances_by_task(found.board).charts
    axes = Figure().add_subplot()
    chart.draw(axes)
    zero, *lines = (list(line.get_xdata()) for line in axes.get_lines())
    means = {key.encoder: cell.mean() for key, cell in found.cells.items()}
    expected = []
    for key, cell in found.cells.items():
        if key.encoder in NAMES[1:]:
            interval = cell.against["one"]
            expected += [
                [interval.low, interval.high],
                [means[key.encoder] - means["one"]],
            ]
    assert zero == [0, 0]
    for line, values in zip(lines, expected, strict=True):
        assert line == pytest.approx(values)


def test_one_row_alone_has_a_page_without_distances():
    found = make_compared(names=("one",))
    assert distances_by_task(found.board) is None
    assert [x.name for x in make_sections(found)] == ["results", "notes", "reproduce"]


def test_the_sentences_begin_with_the_first_row():
    texts = [re.sub(r"<[^>]+>", "", x) for x in verdicts(make_compared())]
    assert texts[0].startswith("labels, by a linear probe: one .") and len(texts) == 3
    assert all("against one" in text or "than one" in text for text in texts[1:])


def test_standings_that_differ_say_whose_they_are(tmp_path):
    other = Standing("caution", "Selection fold", "It chose.")
    standings = {"one": [STANDING], "two": [STANDING, other], "three": [other]}
    text = write(tmp_path, make_compared(standings=standings)).read_text("utf-8")
    assert "<b>one, two: Validation folds</b>" in text
    assert "<b>two, three: Selection fold</b>" in text


def test_more_rows_than_colours_are_told_apart_by_their_marks():
    names = tuple(f"r{number}" for number in range(8))
    styles = make_compared(names=names).board.styles
    assert len({styles[name] for name in names}) == len(names)
