"""Figures and tables for people, as Markdown."""

import statistics
from collections.abc import Sequence


def figure(value: float) -> str:
    """A share or an area: .812, 1.000."""
    return f"{value:.3f}".removeprefix("0")


def mean_figure(values: Sequence[float]) -> str:
    """The mean, and of several values their standard deviation in its last digit.

    .812(04) is .812 with .004.
    """
    mean = figure(statistics.fmean(values))
    if len(values) == 1:
        return mean
    return f"{mean}({round(1000 * statistics.stdev(values)):02d})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, so that it reads well as plain text too."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{x:{w}}" for x, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def signed_figure(value: float) -> str:
    """A difference: +.012, -.003."""
    sign = "-" if round(value, 3) < 0 else "+"
    return f"{sign}{figure(abs(value))}"


def minus(text: str) -> str:
    """With the sign that is as wide as a plus, where no terminal shows it."""
    return text.replace("-", "\N{MINUS SIGN}")
