"""Are counts those of a list, samples fair, and figures those by hand, without all rows in memory?"""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from data.schema import Completion, Prompt, Ranking
from pipeline.data_check import figures as data_check_figures
from pipeline.data_check.tally import Tally

# The tally


def rankings() -> st.SearchStrategy[list[Ranking]]:
    def made(which: list[tuple[int, list[int], str | None]]) -> list[Ranking]:
        rows = []
        for number, (prompt, ranks, who) in enumerate(which):
            completions = tuple(Completion(f"c{n}", f"text {n}") for n in range(len(ranks)))
            tiers = tuple(tuple(f"c{n}" for n, own in enumerate(ranks) if own == rank) for rank in sorted(set(ranks)))
            rows.append(Ranking(f"r{number}", f"prompt {prompt}", completions, tiers, f"f:{number}", who))
        return rows

    one = st.tuples(
        st.integers(0, 3), st.lists(st.integers(0, 2), min_size=2, max_size=4), st.sampled_from([None, "A", "B"])
    )
    return st.lists(one, max_size=12).map(made)


@given(rankings(), st.sets(st.integers(0, 11)))
def test_counts_are_those_of_a_list(rows: list[Ranking], dropped: set[int]) -> None:
    """With some rows dropped at the end, and records written and read in parts of three."""
    import pipeline.data_check.tally as module

    tally = Tally()
    before = module.WAITING, module.CHUNK
    module.WAITING, module.CHUNK = 2, 3
    try:
        for number, row in enumerate(rows):
            tally.take(number, row)
        for number in dropped & set(range(len(rows))):
            tally.drop(number, contradiction=True)
        kept = [row for number, row in enumerate(rows) if number not in dropped]
        assert tally.kept == len(kept) and tally.sample() == kept
        assert tally.contradictions == len(rows) - len(kept)
        assert tally.completions() == Counter(len(row.completions) for row in kept)
        pairs = [[a == b for n, a in enumerate(row.ranks()) for b in row.ranks()[:n]] for row in kept]
        assert tally.ties() == {
            "rankings": sum(any(one) for one in pairs),
            "pairs": sum(map(sum, pairs)),
            "of_pairs": sum(map(len, pairs)),
        }
        said = {(row.prompt, row.annotator, tuple(map(frozenset, row.ranking))) for row in kept}
        assert tally.repeated("said") == len(kept) - len(said)
        assert tally.repeated("prompt") == len(kept) - len({row.prompt for row in kept})
        assert tally.annotators()["busiest"] == Counter(row.annotator for row in kept if row.annotator)
        assert tally.judged() == ([row for row in kept if row.annotator], True)
        assert tally.first() == [row for number, row in enumerate(rows[:30]) if number not in dropped][:3]
    finally:
        module.WAITING, module.CHUNK = before
        tally.close()


def drawn(seed: int, count: int = 60, size: int = 20) -> list[int]:
    tally = Tally(size=size, seed=seed)
    for number in range(count):
        tally.take(number, Prompt(str(number), f"p{number}", f"f:{number}"))
    tally.close()
    return [int(row.id) for row in tally.sample()]


def test_a_sample_is_fair_ordered_and_the_same_for_a_seed() -> None:
    """Each of 60 rows is in a sample of 20 with a chance of 1/3: of 900 samples in 300, standard deviation 14."""
    assert drawn(1) == drawn(1) == sorted(drawn(1)) and len(set(drawn(1))) == 20
    assert drawn(1) != drawn(2)
    counts = Counter(number for seed in range(900) for number in drawn(seed))
    assert len(counts) == 60 and all(230 < count < 370 for count in counts.values())


def test_of_many_items_some_are_kept_with_all_their_rankings() -> None:
    """Of 31 places 30 are filled by ten items; what was left out before must not take the last in part."""
    tally = Tally(size=31, seed=0)
    completions = (Completion("a", "x"), Completion("b", "y"))
    for number in range(300):
        who = f"person {number // 100}"
        tally.take(number, Ranking(str(number), f"p{number % 100}", completions, (("a",), ("b",)), "f:1", who))
    found, complete = tally.judged()
    tally.close()
    assert not complete and len(found) == 30
    assert set(Counter(row.prompt for row in found).values()) == {3}


def test_one_item_ranked_by_everybody_does_not_fill_the_memory() -> None:
    tally = Tally(size=10, seed=0)
    completions = (Completion("a", "x"), Completion("b", "y"))
    for number in range(50):
        tally.take(number, Ranking(str(number), "p", completions, (("a",), ("b",)), "f:1", str(number)))
    found, complete = tally.judged()
    tally.close()
    assert len(found) == 10 and not complete


# Figures


def test_a_distribution_by_hand() -> None:
    """Of 1 to 20 the nineteenth is the smallest that 95% do not exceed."""
    found = data_check_figures.distribution(list(range(20, 0, -1)))
    assert found == {
        "median": 10.5,
        "p95": 19,
        "max": 20,
        "histogram": [[1, 1, 1], [2, 3, 2], [4, 7, 4], [8, 15, 8], [16, 31, 5]],
    }
    assert data_check_figures.distribution([0, 0]) == {"median": 0.0, "p95": 0, "max": 0, "histogram": [[0, 0, 2]]}
    assert data_check_figures.distribution([]) is None


def test_pairs_tied_or_equally_long_do_not_count_as_longer() -> None:
    """Ranks 0 1 1 and lengths 5 5 9: the tied pair is left out, 5 against 5 is equal, the longer 9 loses to 5."""
    completions = tuple(Completion(f"c{n}", "x") for n in range(3))
    row = Ranking("r", "p", completions, (("c0",), ("c1", "c2")), "f:1")
    found = data_check_figures.longer_wins([row], [data_check_figures.Lengths(3, (5, 5, 9), False)])
    assert (found["longer"], found["pairs"], found["equal_length"], found["win_rate"]) == (0, 1, 1, 0.0)
