"""Are ids given twice and labels that contradict each other found, however many rows lie between them?"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.refining import across
from data.refining.across import Across, folded
from data.schema import Completion, Prompt, Ranking, prompt_key


def ranking(prompt, *tiers, annotator=None, id="f:1"):
    """Tiers of texts, best first; the ids are the texts."""
    completions = tuple(Completion(text, text) for tier in tiers for text in tier)
    return Ranking(id, prompt, completions, tuple(tuple(tier) for tier in tiers), "f:1", annotator)


def problems(rows, file="f"):
    """(number, field, sentence) of every clash; row number n stands on line n + 1."""
    found = Across()
    for number, row in enumerate(rows):
        found.add(number, row, file, number + 1)
    told = list(found.problems())
    found.close()
    assert all((problem.file, problem.line) == (file, number + 1) for number, problem in told)
    return [(number, problem.field, problem.problem) for number, problem in told]


def test_an_id_stands_once():
    rows = [Prompt(name, "p", "f:9") for name in ("1", "2", "1", "f:9", "f:9", "2", "1")]
    assert problems(rows) == [
        (2, "id", "the id is also that of line 1"),
        (5, "id", "the id is also that of line 2"),
        (6, "id", "the id is also that of line 1"),
    ]


def test_labels_that_contradict_are_named_unless_two_people_gave_them():
    """c > a > b in row 0 is contradicted by a > c; the same order again, another prompt or a tie is not."""
    one = ranking("p", "c", "a", "b")
    same, tie, elsewhere = ranking("p", "a", "b"), ranking("p", ["a", "c"]), ranking("P", "a", "c")
    other = ranking(" p ", "a", "c")
    assert problems([one, same, tie, elsewhere, other]) == [
        (4, "ranking", "two completions are ranked the other way round on line 1")
    ]
    people = [ranking("p", *"cab", annotator="x"), ranking("p", *"ac", annotator="y")]
    assert problems(people) == []
    assert len(problems([ranking("p", *"cab", annotator="x"), ranking("p", *"ac", annotator="x")])) == 1


def test_a_row_that_clashes_clashes_with_no_row_after_it():
    """Row 1 goes against row 0 and is out; row 2 agrees with row 0, row 3 goes against rows 0 and 2: the first is named.
    Row 4 turns round what only row 1 said."""
    rows = [
        ranking("p", *"ab"),
        ranking("p", *"ba", "c"),
        ranking("p", *"ab"),
        ranking("p", *"ba"),
        ranking("p", *"ca"),
    ]
    assert [(number, what[-6:]) for number, _, what in problems(rows)] == [(1, "line 1"), (3, "line 1")]
    again = [ranking("p", *"ab", id="x"), ranking("p", *"ba", id="x"), ranking("p", *"ba")]
    assert [(number, field) for number, field, _ in problems(again)] == [(1, "id"), (2, "ranking")]


def test_the_other_file_is_named():
    found = Across()
    for number, (file, line) in enumerate([("a", 1), ("a", 2), ("b", 1), ("b", 2), ("a", 3)]):
        found.add(number, Prompt("x" if number in (1, 3, 4) else f"{number}", "p", ""), file, line)
    assert [(problem.file, problem.line, problem.problem) for _, problem in found.problems()] == [
        ("b", 2, 'the id is also that of line 2 of "a"'),
        ("a", 3, "the id is also that of line 2"),
    ]


def brute(rows):
    """Numbers of the rows that clash, by comparing every row with all before it that stand."""
    ids, better, out = set(), set(), []
    clashing = set()
    for number, row in enumerate(rows):
        if row.id != row.source and row.id in ids:
            clashing.add(number)
        ids.add(row.id)
    for number, row in enumerate(rows):
        if number in clashing:
            out.append(number)
            continue
        ranks = dict(zip((one.text for one in row.completions), row.ranks(), strict=True))
        mine = {(row.annotator, prompt_key(row.prompt), a, b) for a in ranks for b in ranks if ranks[a] < ranks[b]}
        if any((who, key, b, a) in better for who, key, a, b in mine):
            out.append(number)
        else:
            better |= mine
    return out


@st.composite
def tiers(draw):
    made = []
    for text in draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=4, unique=True)):
        if made and draw(st.booleans()):
            made[-1].append(text)
        else:
            made.append([text])
    return made


ROWS = st.lists(
    st.tuples(st.sampled_from("pq"), tiers(), st.sampled_from([None, "x"]), st.integers(0, 30)), max_size=15
)


@pytest.mark.parametrize("buffered", [1 << 12, 8])
def test_it_finds_what_comparing_every_row_with_every_other_finds(monkeypatch, buffered):
    """With the second size everything goes through the temporary file."""
    monkeypatch.setattr(across, "BUFFERED", buffered)

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(ROWS)
    def check(drawn):
        rows = [
            ranking(prompt, *order, annotator=who, id=f"{id}" if id < 8 else "f:1") for prompt, order, who, id in drawn
        ]
        assert [number for number, _, _ in problems(rows)] == brute(rows)

    check()


def test_a_clash_is_found_over_many_rows():
    """Two of 20,000 rows with an id, two with a pair, planted far apart; all others are different."""
    rows = [ranking(f"p{n}", *"ab", id=f"i{n}") for n in range(20_000)]
    rows[19_998] = ranking("p3", *"ba", id="i19998")
    rows[19_999] = ranking("p19999", *"ab", id="i7")
    assert [(number, field, what[-6:]) for number, field, what in problems(rows)] == [
        (19_998, "ranking", "line 4"),
        (19_999, "id", "line 8"),
    ]


WORDS = st.text(alphabet="ab| \t\n\u3000\u00e9e\u0301\u2028\x1c", max_size=8)
PROMPTS = WORDS | st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": WORDS}), max_size=2
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(PROMPTS, PROMPTS)
def test_prompts_are_folded_into_one_when_they_have_one_key(first, second):
    assert (folded(first) == folded(second)) == (prompt_key(first) == prompt_key(second))
