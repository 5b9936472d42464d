"""The colours of the report, in a light and a dark scheme.

Charts are drawn in the colours of the light one. In the page each of them becomes a
variable of CSS, so that one drawing serves both schemes.
"""

import re

# Okabe and Ito's colours, which stay apart for colour-blind readers; in the dark the
# same hues, lighter. No two names have one colour: a drawing must tell them apart.
LIGHT = {
    "page": "#faf9f7",
    "card": "#ffffff",
    "ink": "#1a1d24",
    "faint": "#646b78",
    "pale": "#a9aeb8",
    "line": "#e3e2de",
    "wash": "#f2f1ed",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}
DARK = {
    "page": "#121419",
    "card": "#1a1d24",
    "ink": "#e9ebef",
    "faint": "#a0a7b4",
    "pale": "#5d6472",
    "line": "#2d323c",
    "wash": "#22262f",
    "blue": "#4aa8e8",
    "vermilion": "#f28a4a",
    "green": "#2cc197",
    "purple": "#df9dc4",
    "orange": "#f3b53a",
    "sky": "#9bd8ff",
}
# Of things of equal rank, in this order.
SERIES = ("blue", "vermilion", "green", "purple", "orange", "sky")


def as_variables(drawing: str) -> str:
    """SVG in the colours of the light scheme -> in variables of CSS."""
    names = {colour: name for name, colour in LIGHT.items()}

    def variable(match: re.Match) -> str:
        name = names.get(match[0].lower())
        return match[0] if name is None else f"var(--{name})"

    # Behind '(#' stands the name of an element, not a colour.
    return re.sub(r"(?<!\()#[0-9a-fA-F]{6}\b", variable, drawing)


def style_sheet() -> str:
    """The variables of both schemes: the reader's system decides, or a button."""
    light, dark = (
        "".join(f"--{name}:{colour};" for name, colour in scheme.items())
        for scheme in (LIGHT, DARK)
    )
    return (
        f":root{{color-scheme:light;{light}}}\n"
        "@media (prefers-color-scheme:dark){:root:not([data-scheme=light])"
        f"{{color-scheme:dark;{dark}}}}}\n"
        f":root[data-scheme=dark]{{color-scheme:dark;{dark}}}\n"
        # Paper is white.
        f"@media print{{:root:root:root{{color-scheme:light;{light}--page:#fff;}}}}\n"
    )
