"""What is told on the terminal while something runs? Lines about what falls back, was changed, or takes long, each once."""

import os
import sys

_TOLD: set[str] = set()


def tell(line: str) -> None:
    """Write `line` to stderr, by the first process alone, and only once however often it is told."""
    if os.environ.get("RANK", "0") == "0" and line not in _TOLD:
        _TOLD.add(line)
        print(line, file=sys.stderr, flush=True)
