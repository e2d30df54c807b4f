"""How does a figure get onto a page? matplotlib's SVG, inlined, in the page's own colours by day and by night, with its numbers beside it."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

# Colours that stand for the page's own (style.css.j2) until the SVG is written.
INK = {
    name: f"#0{place}0{place}0{place}"
    for place, name in enumerate(("text", "soft", "line", "accent", "good", "bad", "even", "page"), 1)
}
TEXT, SOFT, LINE, ACCENT, GOOD, BAD, EVEN, PAGE = INK.values()
SIZE = (4.4, 2.9)  # inches; on a phone the figure is about as wide as this, so that its letters keep their size
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # letters stay letters: small, searchable, in the page's font
    "text.parse_math": False,  # a $ in somebody's tag is a dollar
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Figure:
    """A drawing and what it draws. `rows` are as long as `columns`; text, numbers or None."""

    title: str
    note: str
    svg: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def draw(name: str, label: str, paint: Callable[[Any], None], size: tuple[float, float] = SIZE) -> Markup:
    """One pair of axes as inline SVG, the same bytes for the same input. `paint` is given the axes.

    `name` (letters and dashes, unique on the page) begins every id; `label` is what a screen reader says.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    out, style = io.StringIO(), dict[Any, Any](STYLE) | {"svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks: the page's font has them
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        figure = Canvas(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        paint(figure.add_subplot())
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_inlined(out.getvalue(), name, label))


def _inlined(svg: str, name: str, label: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style).*?</\1>\s*", "", body, flags=re.DOTALL)  # a style here would be the page's
    body = re.sub(r" font-family: [^;]*;", "", body)
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None
    body = re.sub(
        r"<svg[^>]*>", lambda _: f'<svg {box.group()} role="img" aria-label="{escape(label)}">', body, count=1
    )
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
    for ink, colour in INK.items():
        body = body.replace(colour, f"var(--{ink})")
    return re.sub(r"\n\s*", "\n", body).strip()
