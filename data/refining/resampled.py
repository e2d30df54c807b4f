"""How sure are the figures of agreement? Items are drawn again with replacement, and the figures taken of what was drawn.

An item (a prompt with its completions) is what is drawn: its judgements hang together, so that pairs drawn one by one would
look surer than they are.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

DRAWS, SEED = 500, 20_011
MOST = 12
"""Values beyond which alpha gets no interval: its matrix has as many rows and columns."""
FEWEST = 5
"""Items below which drawing them again says nothing."""
Interval = tuple[float, float]


def intervals(
    orders: Sequence[tuple[int, int]], units: Sequence[Sequence[tuple[float, ...]]]
) -> tuple[Interval | None, Interval | None]:
    """95% intervals of the share of pairs put alike and of ordinal alpha; None where there is nothing to draw from.

    `orders`: of each item how many pairs were put alike and how many opposite. `units`: of each item the ranks that each of
    its completions was given.
    """
    if len(orders) < FEWEST:
        return None, None
    values = {value: place for place, value in enumerate(sorted({v for item in units for unit in item for v in unit}))}
    counted = np.asarray(orders, dtype=np.float64)
    tables = np.stack([_coincidences(item, values) for item in units]) if len(values) <= MOST else None
    chance = np.random.default_rng(SEED)
    shares: list[float] = []
    alphas: list[float] = []
    for _ in range(DRAWS):
        times = np.bincount(chance.integers(0, len(orders), len(orders)), minlength=len(orders)).astype(np.float64)
        alike, opposite = times @ counted
        if alike + opposite:
            shares.append(float(alike / (alike + opposite)))
        if tables is not None and (found := ordinal((times @ tables).reshape(len(values), len(values)))) is not None:
            alphas.append(found)
    return _middle(shares), _middle(alphas)


def _middle(found: Sequence[float]) -> Interval | None:
    if len(found) < DRAWS // 2:
        return None
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _coincidences(units: Sequence[tuple[float, ...]], values: dict[float, int]) -> np.ndarray:
    """The coincidence matrix (values by values, flat) of one item: each ordered pair of a unit weighs 1 / (m - 1)."""
    table = np.zeros((len(values), len(values)))
    for unit in units:
        counts = Counter(unit)
        for one, many in counts.items():
            for other, more in counts.items():
                table[values[one], values[other]] += many * (more - (one == other)) / (len(unit) - 1)
    return table.ravel()


def ordinal(coincidences: np.ndarray) -> float | None:
    """Ordinal alpha of a coincidence matrix, by its definition; None where all values are the same."""
    totals = coincidences.sum(axis=1)
    middle = np.cumsum(totals) - totals / 2
    squared = (middle[:, None] - middle[None, :]) ** 2
    expected = float(totals @ squared @ totals)
    return 1 - float((totals.sum() - 1) * (coincidences * squared).sum() / expected) if expected else None
