"""What do the tests of stage data share? Rows that no other row resembles, and what a manifest says of them."""

import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.artifacts.manifest import Manifest

KINDS = ("demonstrations", "rankings", "prompts")


def said(kind: str, number: int) -> str:
    """Eight letters that no other (kind, number) has."""
    return "".join(random.Random(f"{kind}{number}").choices(string.ascii_letters, k=8))


def preferences(kind: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """Rows with ids and prompts of their own."""
    texts = [said(kind, n) for n in range(count)]
    return [
        {"id": f"{kind}-{n}", "prompt": f"Say {text}:", "chosen": f" {text}!", "rejected": " no"} | more
        for n, text in enumerate(texts)
    ]


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return name


Made = tuple[Manifest, dict[str, list[dict[str, Any]]]]
Stage = Callable[..., Made]


def checks(manifest: Manifest) -> dict[str, tuple[str, float]]:
    return {check["name"]: (check["result"], check["figure"]) for check in manifest.gate["checks"]}


def removed(manifest: Manifest) -> dict[str, int]:
    """Counts that are not zero and say more than what was read and kept."""
    counts = manifest.data["counts"]
    return {name: count for name, count in counts.items() if count and not name.endswith(("read", "kept"))}


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]
