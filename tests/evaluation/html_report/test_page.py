"""Parts of the page by themselves."""

import base64
import hashlib
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from ecgssl_jax.evaluation.html_report.page import (
    Section,
    facts_list,
    in_rows,
    page,
    png,
    table,
)


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (4, 4), (5, 5), (6, 3), (7, 4), (8, 4), (11, 4)]
)
def test_no_row_of_charts_is_nearly_empty(count, columns):
    assert in_rows(count) == columns


def test_no_script_may_run_but_the_pages_own():
    found = page("<t>", "", [Section(name="a", title="<A>", parts=["x"])], "")
    assert "<title>&lt;t&gt;</title>" in found and "<h2>&lt;A&gt;</h2>" in found
    (script,) = re.findall("<script>(.*?)</script>", found, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in found
    assert "default-src &#x27;none&#x27;" in found


def test_tables_have_heads_and_facts_are_escaped():
    found = table(["A", "B"], [("own", ["one", "1"])], label='"T"')
    assert '<tr class="own"><th scope="row">one</th><td>1</td></tr>' in found
    assert 'aria-label="&quot;T&quot;"' in found
    assert "<dt>&lt;a&gt;</dt><dd>&amp;</dd>" in facts_list({"<a>": "&"})


def test_a_picture_is_what_lies_within_the_axes():
    figure = Figure(figsize=(4, 2), facecolor="red")
    figure.add_axes((0.25, 0.25, 0.5, 0.5)).set_axis_off()
    figure.axes[0].imshow(np.zeros((1, 1)), aspect="auto", cmap="gray")
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(png(figure, dpi=100))).convert("RGB")
    assert image.size == (200, 100)
    assert {image.getpixel(corner) for corner in ((0, 0), (199, 99))} == {(0, 0, 0)}
