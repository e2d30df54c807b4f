"""Are the embedded reviews read as people wrote them, split before they are ranked, and ranked as people rated them?"""

import gzip
import io
import tarfile

import pytest

from data.reviews import INNER_ARCHIVE, RATINGS, TEXTS, Review, build, load, tiers
from data.schema import Completion, DataError, Ranking


def packed(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)


def archive(folder, texts, ratings):
    """A source archive like vaderSentiment's, with the two files as given; their folder tries to climb out."""
    inner = packed({f"../../evil/{TEXTS}": texts, f"../../evil/{RATINGS}": ratings, "evil.py": b"raise SystemExit"})
    path = folder / "vader.tar.gz"
    path.write_bytes(packed({"v/README": b"", f"v/additional_resources/{INNER_ARCHIVE}": inner}))
    return path


GOOD_TEXTS = b"1\t0.5\tA  ''great''  film &amp; more\r\n2\t-1.0\tEnds here\r\n"
GOOD_RATINGS = b"1\t0.5\t0.5\t[0, 1]\r\n2\t-1.0\t0\t[-1, -1, -1]\r\n"


def test_reviews_are_read_and_mended(tmp_path):
    """Line 3 is cp1252 (0x96 is an en dash there, no UTF-8); line 4 is UTF-8 for what cp1252 made of UTF-8's é."""
    texts = GOOD_TEXTS + b"7\t4\tGood \x96 na\xefve\r\n" + "\r\n8\t0.333333333\tClichÃ©s, MÃ¼nch\n".encode()
    ratings = GOOD_RATINGS + b"8\t0.33333333333\t0\t[0, 0, 1]\r\n\r\n7\t4.0\t0\t[4]\r\n"
    assert load(archive(tmp_path, texts, ratings)) == [
        Review("1", 'A "great" film & more', (0, 1), f"{TEXTS}:1"),
        Review("2", "Ends here", (-1, -1, -1), f"{TEXTS}:2"),
        Review("7", "Good \u2013 na\u00efve", (4,), f"{TEXTS}:3"),
        Review("8", "Clich\u00e9s, M\u00fcnch", (0, 0, 1), f"{TEXTS}:5"),
    ]
    assert not (tmp_path.parent / "evil").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["vader.tar.gz"]


@pytest.mark.parametrize(
    ("texts", "ratings", "file", "line", "field"),
    [
        (b"", b"3\t0.50001\t0\t[0, 1]\n", RATINGS, 3, "mean"),
        (b"", b"3\tnan\t0\t[0, 1]\n", RATINGS, 3, "mean"),
        (b"", b"3\t2.5\t0\t[0, 5]\n", RATINGS, 3, "ratings"),
        (b"", b"3\t0\t0\t[]\n", RATINGS, 3, "ratings"),
        (b"", b"3\t0\t0\t[0, '1']\n", RATINGS, 3, "ratings"),
        (b"", b"3\t0\t0\n", RATINGS, 3, "line"),
        (b"", b"2\t0\t0\t[0]\n", RATINGS, 3, "id"),
        (b"", b"3\t0\t0\t[0]\n", RATINGS, None, "id"),
        (b"3\t0\tNew\n", b"", TEXTS, 3, "id"),
        (b"2\t-1.0\tAgain\n", b"", TEXTS, 3, "id"),
        (b"3\t0.1\tNew\n", b"3\t0\t0\t[0]\n", TEXTS, 3, "mean"),
        (b"3\tx\tNew\n", b"3\t0\t0\t[0]\n", TEXTS, 3, "mean"),
        (b"3\t0\t  \n", b"3\t0\t0\t[0]\n", TEXTS, 3, "text"),
        (b"3\t0\tA\tB\n", b"3\t0\t0\t[0]\n", TEXTS, 3, "line"),
        (b"3\t0\tA\x81\n", b"3\t0\t0\t[0]\n", TEXTS, 3, "line"),
    ],
)
def test_a_broken_file_is_told_by_its_line(tmp_path, texts, ratings, file, line, field):
    path = archive(tmp_path, GOOD_TEXTS + texts, GOOD_RATINGS + ratings)
    with pytest.raises(DataError) as caught:
        load(path)
    assert [(one.file, one.line, one.field) for one in caught.value.problems] == [(file, line, field)]


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", packed({"v/README": b""}), packed({INNER_ARCHIVE: b"no archive"}), packed({"x": b"1"})[:-9]],
)
def test_a_broken_archive_is_one_problem(tmp_path, content):
    path = tmp_path / "vader.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert [one.file for one in caught.value.problems] == [str(path)]


def test_an_absent_archive_is_one_problem(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "absent.tar.gz")


def rated(name, *ratings, text="Some film words"):
    return Review(name, text, ratings, f"{TEXTS}:{name}")


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ({"a": (0,), "b": (2,), "c": (1,)}, [["b"], ["c"], ["a"]]),
        ({"a": (2, 1), "b": (2, 2), "c": (1, 2)}, [["b"], ["a", "c"]]),
        ({"a": (0, 1, 0, 1, 0), "b": (0, 0, 0, 0, 1), "c": (0, 1, 0, 0, 0)}, [["a", "b", "c"]]),
        # 1.0, 0.6, 0.2: the third is 0.8 below the first of the tier, only 0.4 below its neighbour.
        ({"a": (1,), "b": (1, 1, 1, 0, 0), "c": (1, 0, 0, 0, 0)}, [["a", "b"], ["c"]]),
        # 11/5 and 17/10 are 0.5 apart, though 2.2 - 1.7 is not in floating point on every machine.
        ({"a": (2, 2, 2, 2, 3), "b": (1, 2, 2, 2, 2, 2, 2, 2, 1, 1)}, [["a"], ["b"]]),
    ],
)
def test_a_tier_reaches_half_a_point_below_its_first(ratings, expected):
    reviews = [rated(name, *given_) for name, given_ in ratings.items()]
    assert tiers(reviews, 0.5) == tuple(tuple(tier) for tier in expected)


def test_every_gap_is_exact():
    """Means 7/10 and 6/10 are 1/10 apart; in floating point 0.7 - 0.6 is less than 0.1, and 0.1 is more than 1/10."""
    assert 0.7 - 0.6 < 0.1
    reviews = [rated("a", *[1] * 7, *[0] * 3), rated("b", *[1] * 6, *[0] * 4)]
    assert tiers(reviews, 0.1) == (("a",), ("b",))


WORDS = ["The", "A", "This"]
REVIEWS = [
    Review(
        str(n), f"{WORDS[n % 3]} film{n % 7} is{n % 2} number {n} of many", ((n * 7) % 9 - 4, (n * 5) % 9 - 4), f"f:{n}"
    )
    for n in range(120)
]
SETTINGS = {"max_words": None, "eval_fraction": 0.3, "seed": 1}


def test_demonstrations_are_the_reviews_cut_after_the_opening():
    data = build(REVIEWS, **SETTINGS)
    texts = {review.id: review for review in REVIEWS}
    rows = data.demonstrations_train + data.demonstrations_eval
    assert len(rows) == len(REVIEWS)
    for row in rows:
        review = texts[row.id.removeprefix("demonstration-")]
        assert row.prompt + row.completion == review.text
        assert len(row.prompt.split()) == 3
        assert row.completion.startswith(" number ")
        assert row.source == review.source


def test_no_review_of_one_side_is_seen_on_the_other():
    data = build(REVIEWS, **SETTINGS)
    train, held_out = (
        {row.prompt + row.completion for row in demonstrations}
        for demonstrations in (data.demonstrations_train, data.demonstrations_eval)
    )
    assert train and held_out and not train & held_out
    for rankings, side in ((data.rankings_train, train), (data.rankings_eval, held_out)):
        assert rankings
        assert {row.prompt + one.text for row in rankings for one in row.completions} <= side
    assert not {row.prompt for row in data.prompts_train} & {row.prompt for row in data.prompts_eval}


def test_a_text_keeps_its_side_whatever_its_id_and_whatever_stands_beside_it():
    def held_out(reviews):
        return {row.prompt + row.completion for row in build(reviews, **SETTINGS).demonstrations_eval}

    renamed = [review._replace(id=f"x{review.id}") for review in REVIEWS]
    assert held_out(REVIEWS) == held_out(renamed[::-1])
    assert held_out(REVIEWS[:60]) == held_out(REVIEWS) & {review.text for review in REVIEWS[:60]}


def test_rankings_hold_each_review_once_by_opening_and_order_them_by_mean():
    data = build(REVIEWS, **SETTINGS)
    means = {review.id: sum(review.ratings) / 2 for review in REVIEWS}
    seen = [one.id for row in data.rankings_train + data.rankings_eval for one in row.completions]
    assert len(seen) == len(set(seen))
    for row in data.rankings_train + data.rankings_eval:
        assert row.prompt in WORDS
        assert 2 <= len(row.completions) <= 4
        assert all(one.text.startswith(" film") for one in row.completions)
        assert all(one.rating == means[one.id] for one in row.completions)
        ranks = dict(zip((one.id for one in row.completions), row.ranks(), strict=True))
        for a in ranks:
            for b in ranks:
                if means[a] - means[b] >= 0.5 and ranks[a] >= ranks[b]:
                    pytest.fail(f"{a} is rated {means[a]}, {b} {means[b]}, but ranked {ranks[a]} and {ranks[b]}")
    left = data.counts["alone"] + data.counts["all_tied_reviews"]
    assert len(seen) + left == len(REVIEWS)


def test_the_same_seed_gives_the_same_data_and_another_does_not():
    assert build(REVIEWS, **SETTINGS) == build(REVIEWS, **SETTINGS)
    other = build(REVIEWS, max_words=None, eval_fraction=0.3, seed=2)
    assert {row.id for row in other.demonstrations_eval} != {
        row.id for row in build(REVIEWS, **SETTINGS).demonstrations_eval
    }


def test_a_group_is_shuffled_before_it_is_cut():
    """36 orders of 36 are possible by chance with probability 1/36!, so the file's own order means no shuffle."""
    reviews = [Review(str(n), f"The {n} film", (n % 9 - 4,)) for n in range(36)]
    data = build(reviews, max_words=None, eval_fraction=0.0, seed=0)
    order = [int(one.id) for row in data.rankings_train for one in row.completions]
    assert len(order) > 30
    assert order != sorted(order)
    best = [row.ranks().index(0) for row in data.rankings_train]
    assert len(set(best)) > 1


def test_what_is_left_out_is_counted():
    """By hand, all in train. Ids 0 to 4 open with "The" (4, of one word, has no rest), 5 and 6 with "A" and agree, 7 is
    alone with its opening, 8 repeats 7, 9 has six words. Of "The", 0 to 3 make one ranking of two tiers."""
    reviews = [
        rated("0", 4, text="The film is good"),
        rated("1", 4, text="The film is great"),
        rated("2", -4, text="The film"),
        rated("3", -4, text="The end is"),
        rated("4", 0, text="The"),
        rated("5", 1, text="A b c d"),
        rated("6", 1, text="A b c e"),
        rated("7", 1, text="So b c d"),
        rated("8", 2, text="So b c d"),
        rated("9", 2, text="The film is good but long"),
    ]
    data = build(reviews, max_words=5, eval_fraction=0.0, seed=0)
    assert data.counts == {
        "reviews": 10,
        "too_many_words": 1,
        "duplicates": 1,
        "reviews_train": 8,
        "reviews_eval": 0,
        "too_short": 3,
        "too_short_to_rank": 1,
        "alone": 1,
        "all_tied_rankings": 1,
        "all_tied_reviews": 2,
        "openings_also_in_train": 0,
    }
    assert len(data.demonstrations_train) == 5
    assert len(data.rankings_train) == 1
    assert [row.prompt for row in data.prompts_train] == ["The film is", "A b c", "So b c"]
    ranking = data.rankings_train[0]
    assert [set(tier) for tier in ranking.ranking] == [{"0", "1"}, {"2", "3"}]
    assert ranking.prompt == "The"
    assert {one.text for one in ranking.completions} == {" film is good", " film is great", " film", " end is"}


def test_a_rest_of_two_makes_a_smaller_ranking_and_a_rest_of_one_none():
    """6 = 4 + 2 and 5 = 4 + 1, with means so far apart that nothing ties."""
    for number, sizes, alone in ((6, [2, 4], 0), (5, [4], 1)):
        reviews = [Review(str(n), f"The {n} film", (n - 3,)) for n in range(number)]
        data = build(reviews, max_words=None, eval_fraction=0.0, seed=0)
        assert sorted(len(row.completions) for row in data.rankings_train) == sizes
        assert data.counts["alone"] == alone


def test_longer_openings_are_whole_words():
    reviews = [Review(str(n), f"The best film {n}", (n,)) for n in range(2)]
    data = build(reviews, opening_words=2, prompt_words=1, max_words=None, eval_fraction=0.0, seed=0)
    assert data.rankings_train[0].prompt == "The best"
    assert {one.text for one in data.rankings_train[0].completions} == {" film 0", " film 1"}
    assert data.demonstrations_train[0].prompt == "The"


@pytest.mark.parametrize("wrong", [{"k": 1}, {"tie_gap": 0.0}, {"opening_words": 0}, {"prompt_words": 0}])
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        build([], **{**SETTINGS, **wrong})


def ranking(*ratings):
    completions = tuple(Completion(str(n), f" {n}", ratings=one) for n, one in enumerate(ratings))
    return Ranking("r", "p", completions, tuple((one.id,) for one in completions), "f:1")
