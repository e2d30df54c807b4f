"""How is the picture of the report made? From a real run, by the system's Chromium, offline (apt install chromium).

    python docs/images/make.py runs/demo/compare/report.html docs/images/report.png

It shows the verdict and the first pairs; the wide table of models between them is left out. It is kept below 150 kB.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1000, 1100  # CSS pixels at most
COLOURS = 64  # the page has few, and so the picture is small
LARGEST = 150_000  # bytes

WITHOUT_MODELS = """() => {
    const range = document.createRange();
    range.setStartBefore(document.querySelector("h2#models"));
    range.setEndBefore(document.querySelector("h2#pairs"));
    range.deleteContents();
}"""
ENDS_OF_ROWS = """() => {
    const after = (a, b) => a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING;
    const head = document.querySelector("h2#pairs");
    const table = [...document.querySelectorAll("table")].find(one => after(head, one));
    return [...table.rows].map(row => row.getBoundingClientRect().bottom + window.scrollY);
}"""


def shoot(report: Path, picture: Path) -> int:
    """Write the picture of `report`; returns its size in bytes. Raises SystemExit where it is too large for the README."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("no Chromium here: apt install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.evaluate(WITHOUT_MODELS)
        height = max(end for end in page.evaluate(ENDS_OF_ROWS) if end <= HEIGHT)  # no row is cut in two
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": height + 8})
        browser.close()
    with Image.open(picture) as whole:
        few = whole.convert("RGB").quantize(COLOURS)
    few.save(picture, optimize=True)
    if (size := picture.stat().st_size) > LARGEST:
        raise SystemExit(f"{picture}: {size} bytes, above {LARGEST}; show less of the page")
    return size


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python docs/images/make.py REPORT.html PICTURE.png")
    print(f"{sys.argv[2]}: {shoot(Path(sys.argv[1]), Path(sys.argv[2]))} bytes")
