"""How sure is a mean whose values come in groups, and who of two won? One formula each, for rankings and for comparisons.

Values of one group resemble each other (pairs of a ranking share completions, samples of a prompt share it), so whole groups are
what the bootstrap draws. numpy alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_CELLS = 4_000_000  # resampled groups held at once: bounds memory at about 64 MB, whatever their number

Floats = NDArray[np.float64]


def outcomes(difference: Floats, tie: float = 0.0) -> Floats:
    """(N,) float64 of score differences (N,): 1 above `tie`, 0 below -`tie`, ½ between, both ends included."""
    return np.where(difference > tie, 1.0, np.where(difference < -tie, 0.0, 0.5))


def resamples(groups: int, draws: int, seed: int, cells: int = 1) -> Iterator[NDArray[np.int64]]:
    """`draws` bootstrap samples of `groups` groups, in chunks (rows, groups) int64 of indices.

    A chunk has at most 4,000,000 / `cells` entries: `cells` is how many numbers a caller makes of each.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // (groups * cells))
    for start in range(0, draws, rows):
        yield rng.integers(groups, size=(min(rows, draws - start), groups))


def percentile_ends(values: Floats) -> tuple[float, float]:
    """The middle 95% of bootstrap replicates (draws,) float64 (Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def ratio_ends(above: Floats, below: Floats, draws: int, seed: int) -> tuple[float, float]:
    """95% percentile bootstrap of Σ above / Σ below over groups, whose sums they are, (G,) float64 each, the latter ≥ 0.

    With counts below, this is the interval of a mean. Raises ValueError when a resample's denominator is 0.
    """
    parts = []
    for picked in resamples(len(above), draws, seed):
        divisor = below[picked].sum(axis=1)
        if (divisor == 0).any():
            raise ValueError("a resample has nothing to divide by: too few prompts have a denominator above 0")
        parts.append(above[picked].sum(axis=1) / divisor)
    return percentile_ends(np.concatenate(parts))
