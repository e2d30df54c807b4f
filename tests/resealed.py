"""How do tests write a manifest that says something else and is still one? With its seal made again."""

import json
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import sha256
from pipeline.artifacts.manifest import seal_of, text_of


def changed(folder: Path, **values: Any) -> dict[str, Any]:
    """Replace entries of a folder's manifest: what it says now."""
    path = folder / "manifest.json"
    return rewritten(path, json.loads(path.read_text(encoding="utf-8")) | values)


def rewritten(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    raw = raw | {"seal": seal_of(raw)}
    path.write_text(text_of(raw), encoding="utf-8")
    return raw


def refilled(folder: Path) -> dict[str, Any]:
    """Have a folder's manifest list the files that lie in it now, as if the stage had published them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    listed = [{"path": str(f.relative_to(folder)), "size": f.stat().st_size, "sha256": sha256(f)} for f in files]
    return changed(folder, files=listed)
