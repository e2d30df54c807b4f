"""How do tests write a manifest that says something else and is still one? With its seal made again."""

import json
from pathlib import Path
from typing import Any

from pipeline.artifacts.manifest import seal_of, text_of


def changed(folder: Path, **values: Any) -> dict[str, Any]:
    """Replace entries of a folder's manifest: what it says now."""
    path = folder / "manifest.json"
    return rewritten(path, json.loads(path.read_text(encoding="utf-8")) | values)


def rewritten(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    raw = raw | {"seal": seal_of(raw)}
    path.write_text(text_of(raw), encoding="utf-8")
    return raw
