"""Which completions are tied when each has a score?"""

from collections.abc import Sequence
from fractions import Fraction

Score = Fraction | float | int


def ranked(scores: Sequence[Score], tie_gap: float = 0.0) -> tuple[tuple[int, ...], ...]:
    """Positions in `scores` as tiers, the highest scores first.

    A score joins a tier when it equals the tier's best or lies less than `tie_gap` below it. Differences are those of
    the decimal numbers as written: 2.2 and 1.7 are 0.5 apart, as they are not in binary.
    """
    exact: Sequence[Score] = scores
    least: Score = 0
    # Most rows are pairs without a gap; numbers of one type need no fraction to be told apart.
    if tie_gap or len(set(map(type, scores))) > 1:
        exact = [_exact(score) for score in scores]
        least = _exact(tie_gap)
    made: list[list[int]] = []
    for place in sorted(range(len(exact)), key=lambda place: -exact[place]):
        below = exact[made[-1][0]] - exact[place] if made else None
        if below is not None and (below < least or below == 0):
            made[-1].append(place)
        else:
            made.append([place])
    return tuple(tuple(tier) for tier in made)


def _exact(score: Score) -> Fraction:
    return Fraction(str(score)) if isinstance(score, float) else Fraction(score)
