"""The page: sections of figures and tables, in one HTML file that needs nothing else."""

import base64
import contextlib
import dataclasses
import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from matplotlib.figure import Figure

from ecgssl_jax import plots
from ecgssl_jax.evaluation.html_report import ink
from ecgssl_jax.evaluation.html_report.chart import Chart, Entry, sheet, svg
from ecgssl_jax.output_folder import whole_file


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A figure of charts, with a title and a sentence that says what it shows.

    Attributes:
      name: of its file, and of its place in the page.
      legend: of all charts.
      width: px that a chart needs to be legible.
      columns: charts in a row, at most; fewer where there is no room.
      least: px, below which a chart scrolls instead of shrinking.
    """

    name: str
    title: str
    caption: str
    charts: Sequence[Chart]
    legend: Sequence[Entry] = ()
    width: int = 300
    columns: int = 3
    least: int = 0

    def html(self) -> str:
        drawn = "".join(
            svg(chart, f"{self.name}-{number}")
            for number, chart in enumerate(self.charts)
        )
        kind = "charts single" if self.columns == 1 else "charts"
        return (
            f'<figure id="{escape(self.name)}">'
            f"{_caption(self.title, self.caption)}{legend(self.legend)}"
            f'<div class="{kind}" style="--width:{self.width}px;'
            f'--columns:{self.columns};--least:{self.least}px">{drawn}</div>'
            "</figure>"
        )

    def save(self, folder: Path) -> None:
        """Writes NAME.png."""
        figure = sheet(
            self.charts, title=self.title, legend=self.legend, columns=self.columns
        )
        plots.save(figure, folder / f"{self.name}.png")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Slip:
    """A piece of ECG paper: PNG, and what it shows in words; `body` is HTML below it."""

    png: bytes
    label: str
    body: str = ""

    def html(self) -> str:
        data = base64.b64encode(self.png).decode()
        return (
            f'<div class="slip"><img alt="{escape(self.label)}" '
            f'src="data:image/png;base64,{data}"><div>{self.body}</div></div>'
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """A figure of pieces of ECG paper, some in a row.

    Attributes:
      rows: each with a heading, HTML, and its slips.
    """

    name: str
    title: str
    caption: str
    rows: Sequence[tuple[str, Sequence[Slip]]]

    def html(self) -> str:
        body = "".join(
            f'<div class="strip"><div class="about">{about}</div>'
            f'<div class="slips">{"".join(slip.html() for slip in slips)}</div></div>'
            for about, slips in self.rows
        )
        return (
            f'<figure id="{escape(self.name)}">'
            f"{_caption(self.title, self.caption)}{body}</figure>"
        )

    def save(self, folder: Path) -> None:
        """Writes NAME-ROW-SLIP.png."""
        folder.mkdir(parents=True, exist_ok=True)
        for row, (_, slips) in enumerate(self.rows, 1):
            for number, slip in enumerate(slips):
                (folder / f"{self.name}-{row}-{number}.png").write_bytes(slip.png)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A part of the page.

    Attributes:
      name: of its place in the page.
      title: its heading, and what the contents call it.
      lead: what is to be seen, in a sentence or two; empty for nothing.
      parts: figures, or HTML.
    """

    name: str
    title: str
    lead: str = ""
    parts: Sequence[Picture | Gallery | str]

    def html(self) -> str:
        parts = "".join(
            part if isinstance(part, str) else part.html() for part in self.parts
        )
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        return (
            f'<section id="{escape(self.name)}"><h2>{escape(self.title)}</h2>'
            f"{lead}{parts}</section>\n"
        )


def escape(text: str) -> str:
    """Text from anywhere, for any place in the page but a script."""
    return html.escape(str(text), quote=True)


def _caption(title: str, text: str) -> str:
    return (
        f"<figcaption><h3>{escape(title)}</h3>"
        f'<p class="caption">{escape(text)}</p></figcaption>'
    )


def legend(entries: Sequence[Entry]) -> str:
    if not entries:
        return ""
    items = "".join(
        f'<li><i class="{entry.mark}" style="--own:var(--{entry.colour})"></i>'
        f"{escape(entry.text)}</li>"
        for entry in entries
    )
    return f'<ul class="legend">{items}</ul>'


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and what belongs to them, plain text, side by side."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def table(
    header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, label: str
) -> str:
    """A table that scrolls in its own box; cells and heads are HTML.

    Args:
      rows: (class of CSS, cells), the first cell of which is the row's head.
    """
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr class="{kind}"><th scope="row">{first}</th>'
        + "".join(f"<td>{cell}</td>" for cell in rest)
        + "</tr>"
        for kind, (first, *rest) in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def in_rows(count: int, most: int = 5) -> int:
    """How many of so many equal charts stand in a row, so that no row is nearly empty."""
    rows = -(-count // most)
    return -(-count // rows)


def png(figure: Figure, *, dpi: int, colours: int = 48) -> bytes:
    """What is within the axes of a drawing of few colours, as a small file."""
    from PIL import Image

    drawn = io.BytesIO()
    (axes,) = figure.axes
    within = axes.get_position().transformed(figure.transSubfigure)
    within = within.transformed(figure.dpi_scale_trans.inverted())
    figure.savefig(drawn, format="png", dpi=dpi, bbox_inches=within)
    found = io.BytesIO()
    image = Image.open(drawn).convert("RGB").quantize(colours)
    image.save(found, format="png", optimize=True)
    return found.getvalue()


def write_page(
    folder: Path, *, title: str, header: str, sections: Sequence[Section], footer: str
) -> Path:
    """Writes report.html, and its figures into the folder `report`; returns its path.

    An earlier page and its figures are deleted.

    Args:
      title: plain text.
      header, footer: HTML.
    """
    pictures = folder / "report"
    delete_page(folder)
    for section in sections:
        for part in section.parts:
            if not isinstance(part, str):
                part.save(pictures)
    with whole_file(folder / "report.html") as partial:
        partial.write_text(page(title, header, sections, footer), encoding="utf-8")
    return folder / "report.html"


def delete_page(folder: Path) -> None:
    """Deletes report.html and its figures, where there are any."""
    for path in (folder / "report.html", *folder.glob("report/*.png")):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or not empty
        (folder / "report").rmdir()


def page(title: str, header: str, sections: Sequence[Section], footer: str) -> str:
    """The whole document.

    Args:
      title: plain text.
      header, footer: HTML.
    """
    files = resources.files("ecgssl_jax.evaluation.html_report")
    style = ink.style_sheet() + files.joinpath("style.css").read_text("utf-8")
    script = files.joinpath("scheme.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing is fetched, and no script runs but the one below.
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    contents = "".join(
        f'<li><a href="#{escape(each.name)}">{escape(each.title)}</a></li>'
        for each in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>{header}</header>\n"
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n'
        f"<main>\n{''.join(each.html() for each in sections)}</main>\n"
        f"<footer>{footer}</footer>\n<script>{script}</script>\n</body>\n</html>\n"
    )
