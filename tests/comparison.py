"""Comparisons made by hand: rows whose figures can be reckoned on paper, and a page read as a browser reads it."""

import html.parser
import json
from pathlib import Path
from typing import Any

from pipeline.comparison.pairing import Opinion
from pipeline.report import exports, numbers
from pipeline.report.findings import Report

Sample = dict[str, Any]


def sample(model: str, prompt: int, vader: float, **changes: Any) -> Sample:
    row: Sample = {
        "prompt_id": f"p{prompt:02}",
        "prompt": f"Opening {prompt}",
        "model": model,
        "completion": f" {model} {prompt}",
        "length": 10,
        "eos": True,
        "seed": 0,
        "kl": None if model == "base" else 0.0 if model == "sft" else 4.0,
        "scores": {"reward": 2 * vader, "vader": vader},
        "tokens": [prompt, 1000 + prompt, 2000 + prompt],
    }
    return row | changes


def healthy(prompts: int = 40) -> list[Sample]:
    """vader: base 0; sft 0.1 on even prompts and -0.1 on odd; ppo 0.5 on all but every tenth, where -0.5."""
    rows = []
    for i in range(prompts):
        rows.append(sample("base", i, 0.0))
        rows.append(sample("sft", i, 0.1 if i % 2 == 0 else -0.1))
        rows.append(sample("ppo", i, -0.5 if i % 10 == 0 else 0.5))
    return rows


def models(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"perplexity": 20.0, "sha256": f"hash of {name}"} for name in names or ("base", "sft", "ppo")}


def opinions(judges: list[str] | None = None) -> list[Opinion]:
    names = ["vader"] if judges is None else judges
    return [Opinion("reward", "optimised"), *(Opinion(name, "independent") for name in names)]


def summarise(samples: list[Sample], judges: list[str] | None = None, **more: Any) -> Report:
    names = list(dict.fromkeys(row["model"] for row in samples))
    given = {"provenance": {"command": "make compare RUN=x", "seeds": [0]}, "draws": 200} | more
    return numbers.summarise(samples, models(*names), opinions(judges), **given)


def changed(rows: list[Sample], model: str, **changes: Any) -> list[Sample]:
    return [row | changes if row["model"] == model else row for row in rows]


class Page(html.parser.HTMLParser):
    """Collects a page's elements, attributes and text as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.data: dict[str, str] = {}
        self.within: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.within = (dict(attrs).get("id") or "script") if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self.within = None

    def handle_data(self, data: str) -> None:
        if self.within is None:
            self.text += data
        else:
            self.data[self.within] = self.data.get(self.within, "") + data

    @property
    def ids(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name == "id"]

    @property
    def fetched(self) -> list[str]:
        """What a browser would ask for elsewhere; a link to the run's index is asked for by who follows it."""
        asked = [value or "" for name, value in self.attributes if name in ("src", "href", "xlink:href")]
        return [value for value in asked if not value.startswith(("#", "data:image/png", "../index.html"))]


def written(rows: list[Sample], folder: Path, judges: list[str] | None = None, **more: Any) -> Page:
    exports.write(summarise(rows, judges, **more), rows, opinions(judges), folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def browser(page: Page) -> dict[str, Any]:
    """What the example browser is given."""
    return json.loads(page.data["browser-data"])
