"""How wide are characters that matplotlib's own font lacks? Made for measuring alone: the page's fonts draw them.

matplotlib lays a figure out by the widths of its letters, and its font has none of Chinese, Japanese or Korean: they would be measured
as the box that stands for a missing glyph, six tenths of what they are, and labels would be cut. A font of one empty glyph, as wide as it
is high, stands behind its own; letters are written to the SVG as letters, so that nothing is drawn with it, and a figure has the same
bytes on every machine, whatever fonts it has.
"""

import atexit
import io
import tempfile
from functools import lru_cache
from pathlib import Path

NAME = "Wide for measuring"
WIDE = (  # of Unicode's East Asian wide and full-width characters (UAX #11)
    *((0x1100, 0x115F), (0x2E80, 0x303E), (0x3041, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4CF)),
    *((0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFE30, 0xFE6F), (0xFF01, 0xFF60), (0xFFE0, 0xFFE6)),
)
UNITS = 1000  # of the em


def is_wide(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in WIDE)


@lru_cache(maxsize=1)
def families() -> list[str]:
    """What matplotlib's font.family is to be: its own font, and behind it the one that is as wide as wide characters are."""
    from matplotlib import font_manager

    with tempfile.NamedTemporaryFile(prefix="rlhf-wide-", suffix=".ttf", delete=False) as file:
        file.write(font())
    atexit.register(Path(file.name).unlink, missing_ok=True)
    font_manager.fontManager.addfont(file.name)
    return ["DejaVu Sans", NAME]


def font() -> bytes:
    """The font as a TrueType file."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables._c_m_a_p import CmapSubtable

    made = FontBuilder(UNITS, isTTF=True)
    made.setupGlyphOrder([".notdef", "wide"])
    # format 13 has one glyph for a range of characters, so that the file is small
    every = CmapSubtable.newSubtable(13)
    every.platformID, every.platEncID, every.language = 3, 10, 0
    every.cmap = {code: "wide" for first, last in WIDE for code in range(first, last + 1)}
    made.font["cmap"] = newTable("cmap")
    made.font["cmap"].tableVersion, made.font["cmap"].tables = 0, [every]
    empty = TTGlyphPen(None).glyph()
    made.setupGlyf({".notdef": empty, "wide": empty})
    made.setupHorizontalMetrics({".notdef": (UNITS, 0), "wide": (UNITS, 0)})
    made.setupHorizontalHeader(ascent=880, descent=-120)
    made.setupNameTable({"familyName": NAME, "styleName": "Regular"})
    made.setupOS2(sTypoAscender=880, sTypoDescender=-120)
    made.setupPost()
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()
