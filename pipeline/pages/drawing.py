"""How does a figure get onto a page? matplotlib's SVG, inlined, in the page's own colours by day and by night, with its numbers beside it."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from pipeline.pages import wide

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

    out, style = io.StringIO(), dict[Any, Any](STYLE) | {"svg.hashsalt": name, "font.family": wide.families()}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks: the page's font has them
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        figure = Canvas(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        paint(figure.add_subplot())
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_inlined(out.getvalue(), name, label))


Box = tuple[float, float, float, float]  # left, low, right, high in pixels of the drawing
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


def label_points(axes: Any, points: Sequence[tuple[str, float, float]], size: float = 8) -> None:
    """Write a name beside each point (name, x, y), where it covers no other name and no point; a line leads to one that had to move away."""
    axes.margins(x=0.12, y=0.15)
    axes.figure.draw_without_rendering()
    unit = axes.figure.dpi / 72  # of a point, as letters are measured
    dots = [axes.transData.transform((x, y)) for _, x, y in points]
    taken: list[Box] = [(x - 4 * unit, y - 4 * unit, x + 4 * unit, y + 4 * unit) for x, y in dots]
    inside: Box = tuple(axes.get_window_extent().extents)
    for (name, x, y), dot in sorted(zip(points, dots, strict=True), key=lambda one: -one[1][1]):
        # the page's font is not known here; 0.62 of its size is a wide letter, and a Chinese one is as wide as it is high
        letters = sum(1.0 if wide.is_wide(letter) else 0.62 for letter in name)
        width, height = letters * size * unit, 1.25 * size * unit
        away = [(far, _beside(dot, side, (7 + far) * unit, width, height)) for far in range(0, 90, 6) for side in SIDES]
        far, at = next((one for one in away if _is_free(one[1], inside, taken)), away[0])
        taken.append(at)
        offset = (at[0] - dot[0]) / unit, (at[1] + height / 2 - dot[1]) / unit
        line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5} if far > 6 else None
        axes.annotate(name, (x, y), offset, textcoords="offset points", fontsize=size, va="center", arrowprops=line)


def _beside(dot: Sequence[float], side: tuple[int, int], away: float, width: float, height: float) -> Box:
    """A box of that size on one side of a dot, `away` from it."""
    left = dot[0] + side[0] * away - (0.0 if side[0] > 0 else width if side[0] < 0 else width / 2)
    low = dot[1] + side[1] * away - height / 2
    return left, low, left + width, low + height


def _is_free(at: Box, inside: Box, taken: Sequence[Box]) -> bool:
    within = at[0] >= inside[0] and at[1] >= inside[1] and at[2] <= inside[2] and at[3] <= inside[3]
    return within and not any(at[0] < b[2] and b[0] < at[2] and at[1] < b[3] and b[1] < at[3] for b in taken)


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
