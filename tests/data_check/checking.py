"""What do the tests of data-check share? Four pairs, the figures there must be, and rows written as lines."""

import json
from pathlib import Path
from typing import Any

KEYS = {
    "format", "kind", "read", "kept", "rejected", "errors", "left_out", "polarity", "k", "ties", "annotators",
    "agreement", "lengths", "longer_wins", "duplicates", "near_duplicates", "contradictions", "overlap", "languages",
    "samples",
}  # fmt: skip
PAIRS = [
    {"prompt": "What is two and two?", "chosen": "Four, of course.", "rejected": "Five."},
    {"prompt": "What is two and two?", "chosen": "It is 4.", "rejected": "It is five."},
    {"prompt": "Name a colour of the sky.", "chosen": "Blue.", "rejected": "I would rather not say."},
    {"prompt": "Name a colour of the sky.", "chosen": "Blue.", "rejected": "I would rather not say."},
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
