"""How far is it? A progress bar with the time to go."""

import os
import sys

from tqdm import tqdm


def bar(total: int, what: str, unit: str, start: int = 0) -> tqdm:
    """A progress bar with the time to go; quiet when standard error is not a terminal and on other processes than the first."""
    quiet = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    return tqdm(total=total, initial=start, desc=what, unit=unit, disable=quiet, dynamic_ncols=True, leave=False)
