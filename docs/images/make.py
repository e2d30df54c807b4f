"""How are the five pictures of the pages made? From a real run, by the system's Chromium, offline (apt install chromium).

    python docs/images/make.py runs/demo runs/data-check.html

The report's first screen, the reward model's page, data-check, inspect and the run's index; each is kept below 150 kB.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1000, 760  # CSS pixels
COLOURS = 64  # the pages have few, and so the pictures are small
LARGEST = 150_000  # bytes


def pages(run: Path, data_check: Path) -> dict[str, Path]:
    """Picture -> page. Raises SystemExit naming the pages that are not there."""
    inspections = sorted((run / "inspect").glob("*.html"), key=lambda path: path.stat().st_mtime)
    found = {
        "report": run / "compare" / "report.html",
        "reward": run / "reward" / "report.html",
        "data-check": data_check,
        "inspect": inspections[-1] if inspections else run / "inspect" / "….html",
        "index": run / "index.html",
    }
    if missing := [str(path) for path in found.values() if not path.is_file()]:
        raise SystemExit(f"not there: {', '.join(missing)}; make all, data-check and inspect make them")
    return found


def shoot(browser: Any, page: Path, picture: Path) -> int:
    """Write the picture of a page's beginning; returns its size in bytes. Raises SystemExit where it is too large for the README."""
    from PIL import Image

    opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    opened.goto(page.resolve().as_uri())
    opened.screenshot(path=picture)
    opened.close()
    with Image.open(picture) as whole:
        few = whole.convert("RGB").quantize(COLOURS)
    few.save(picture, optimize=True)
    if (size := picture.stat().st_size) > LARGEST:
        raise SystemExit(f"{picture}: {size} bytes, above {LARGEST}; show less of the page")
    return size


def main(run: Path, data_check: Path, folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    found = pages(run, data_check)
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("no Chromium here: apt install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, page in found.items():
            picture = folder / f"{name}.png"
            print(f"{picture}: {shoot(browser, page, picture)} bytes")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python docs/images/make.py runs/NAME DATA_CHECK.html")
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(__file__).parent)
