"""Does cleaning remove what it says, count what it removes, and touch nothing else?"""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data.refining.clean import COUNTS, MENDING, REMOVED, Steps, clean, equal_after_truncation, mend
from data.refining.markup import html
from data.schema import Completion, Demonstration, Judgement, Prompt, Ranking

NOTHING = Steps(nfc=False, control_characters=False, duplicates=False)
EVERYTHING = Steps(mojibake=True, html=True, near_duplicates=0.9)


def demonstration(name, prompt, completion):
    return Demonstration(name, prompt, completion, f"f:{name}")


def ranking(name, texts, tiers, prompt="p", annotator=None):
    completions = tuple(Completion(f"c{place}", text) for place, text in enumerate(texts))
    tiers = tuple(tuple(f"c{place}" for place in tier) for tier in tiers)
    return Ranking(name, prompt, completions, tiers, f"f:{name}", annotator)


def counted(counts):
    """The counts that are not zero, without read and kept, after checking that they add up."""
    assert tuple(counts) == COUNTS
    assert counts["read"] == counts["kept"] + sum(counts[name] for name in REMOVED)
    return {name: count for name, count in counts.items() if count and name not in ("read", "kept")}


# Texts


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("Cafe\u0301", "Caf\u00e9"),
        ("a\x00b\x07c\x7fd\x9f", "abcd"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc\x0bd\x0ce\x85f", "a\nb\nc\nd\ne\nf"),
        ("  kept  spaces ", "  kept  spaces "),
        ("e\x00\u0301", "\u00e9"),
        ("\U0001f469\u200d\U0001f680 你好 \ufb01", "\U0001f469\u200d\U0001f680 你好 \ufb01"),
        ("Tom &amp; Jerry <b>schÃ¶n</b>", "Tom &amp; Jerry <b>schÃ¶n</b>"),
    ],
)
def test_what_is_mended_by_default(text, better):
    """U+00E9 is the composed form of e + U+0301 (Unicode NFC); joiners and ligatures are text and stay."""
    assert mend(text, Steps())[0] == better
    assert mend(text, NOTHING) == (text, set())


def test_each_step_is_a_switch_of_its_own():
    """e + U+0301 is NFC's, \\x07 a control character, Ã¶ the UTF-8 of ö read as Latin-1, &amp; HTML's."""
    text = "e\u0301 \x07 &amp; schÃ¶n"
    off = {"nfc": False, "control_characters": False}
    assert mend(text, Steps(**off | {"nfc": True})) == ("\u00e9 \x07 &amp; schÃ¶n", {"nfc"})
    controls = Steps(**off | {"control_characters": True})
    assert mend(text, controls) == ("e\u0301  &amp; schÃ¶n", {"control_characters"})
    assert mend(text, Steps(**off | {"html": True})) == ("e\u0301 \x07 & schÃ¶n", {"html"})
    assert mend("&amp; schÃ¶n", Steps(**off | {"mojibake": True})) == ("&amp; schön", {"mojibake"})
    assert mend(text, EVERYTHING)[1] == {"nfc", "control_characters", "mojibake", "html"}


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("âœ” No problems", "✔ No problems"),
        ("doesnâ€™t", "doesn’t"),
        ("“curly” ﬁne ＷＩＤＥ &lt;", "“curly” ﬁne ＷＩＤＥ &lt;"),
        ("cafÃ©, déjà vu", "café, déjà vu"),
    ],
)
def test_mojibake_is_mended_and_nothing_else(text, better):
    """The first line is the example of ftfy's own documentation; its other fixes stay off."""
    assert mend(text, Steps(mojibake=True))[0] == better


def test_mojibake_is_mended_before_control_characters_go():
    """U+0080 to U+009F are what a wrong decoding leaves: ã + U+0083 + U+0084 is the UTF-8 of ツ."""
    assert mend("ã\x83\x84", Steps(mojibake=True))[0] == "ツ"
    assert mend("ã\x83\x84", Steps())[0] == "ã"


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("Tom &amp; Jerry, caf&eacute; &#233; &#xE9;", "Tom & Jerry, café é é"),
        ("<p>One</p><p>Two</p>", "One\nTwo"),
        ("one<br/>two<BR>three<br />", "one\ntwo\nthree"),
        ("<ul><li>a</li><li>b</li></ul>", "a\nb\n"),
        ("see <a href=\"x.html\" title='y z'>this</a>, <b>bold</b> and word<i>s</i>", "see this, bold and words"),
        ("a<sub>1</sub>", "a1"),
        ("`<b>` makes <b>bold</b>", "`<b>` makes bold"),
        ("<p>code:</p>`x`", "code:\n`x`"),
        ("```html\n<b>&amp;</b>\n``` &amp;", "```html\n<b>&amp;</b>\n``` &"),
        ("word&lt;b&gt;x&lt;/b&gt;", "wordx"),
    ],
)
def test_left_overs_of_html_go(text, better):
    """By hand: a closed paragraph or list item and a line break are a line end unless the text ends there."""
    assert html(text) == better


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "if (a<b && c>d) return",
        "if a <b and c> d",
        "List<String> and Map<b> and x<i>y",
        "http://x.org/?a=1&copy=2&lt=3",
        "&notit; &foo; &; R&D;",
        "<code>a &lt; b</code> <pre><b>x</b></pre>",
        "```\n<p>never closed &amp;",
        "<html><body><p>Hi</p></body></html>",
        "<script>if (a &lt; b) {}</script><p>y</p>",
        "<3 <- -> <> </> <custom-tag> <T>",
        "",
    ],
)
def test_what_only_looks_like_html_stays(text):
    assert html(text) == text


def test_entities_in_entities_are_resolved_to_the_end():
    """&amp;lt; says &lt;, which says <."""
    assert mend("1 &amp;lt; 2 &amp;amp;quot;", Steps(html=True))[0] == '1 < 2 "'


FRAGMENTS = ["&amp;", "lt;", "<b>", "</b>", "<br>", "</p>", "&#96;", "`", "e", "\u0301", "Ã", "©", "\x00", "\r", "\n"]
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from([*FRAGMENTS, " ", "a", "<", ">", "&lt;", "ã\x83\x84", "你"]), max_size=12).map("".join),
)


@hypothesis_settings(deadline=None, derandomize=True, database=None, max_examples=300)
@given(TEXTS, st.booleans(), st.booleans())
def test_mending_is_done_once(text, mojibake, html):
    steps = Steps(mojibake=mojibake, html=html)
    once = mend(text, steps)[0]
    assert mend(once, steps) == (once, set())
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in once)


# Rows


def test_demonstrations_are_cleaned_and_counted():
    """Of six: b repeats a once composed, c and d say nothing, e is changed and f stays: three are left."""
    rows = [
        demonstration("a", "Caf\u00e9", "x"),
        demonstration("b", "Cafe\u0301", "x"),
        demonstration("c", "p", " \x00\n"),
        demonstration("d", "\u00a0", "x"),
        demonstration("e", "p", "x\r\ny"),
        demonstration("f", "p", "x\n y"),
    ]
    done = clean(rows)
    assert done.rows == [rows[0], demonstration("e", "p", "x\ny"), rows[5]]
    assert done.places == [0, 4, 5]
    assert counted(done.counts) == {"nfc": 1, "control_characters": 2, "duplicates": 1, "blank": 2}


def test_a_switch_that_is_off_leaves_rows_as_they_are_but_blank_ones_go():
    rows = [demonstration("a", "Cafe\u0301", "x"), demonstration("b", "Cafe\u0301", "x"), demonstration("c", "p", " ")]
    done = clean(rows, NOTHING)
    assert done.rows == rows[:2] and counted(done.counts) == {"blank": 1}


def test_a_text_without_a_prompt_is_not_blank_but_one_that_lost_its_prompt_is():
    rows = [demonstration("a", "", "x"), demonstration("b", "\x00", "x"), demonstration("c", "", "\x00")]
    done = clean(rows)
    assert done.rows == rows[:1] and counted(done.counts) == {"control_characters": 2, "blank": 2}


def test_messages_are_cleaned_in_every_turn():
    turns = [{"role": "system", "content": "Be\x00 kind."}, {"role": "user", "content": "Hi"}]
    silent = [{"role": "user", "content": "\x01"}]
    done = clean([Prompt("a", turns, "f:1"), Prompt("b", silent, "f:2"), Prompt("c", turns, "f:3")])
    assert [row.prompt[0]["content"] for row in done.rows] == ["Be kind."]
    assert counted(done.counts) == {"control_characters": 3, "blank": 1, "duplicates": 1}


def test_blank_completions_leave_a_ranking_and_the_ranking_goes_when_too_little_is_left():
    """x > "" > y keeps x > y; "" > x and (x, y) > "" have one rank left."""
    done = clean(
        [
            ranking("a", ["y", "\x00", "x"], [[2], [1], [0]]),
            ranking("b", [" ", "x"], [[0], [1]]),
            ranking("c", ["x", "y", ""], [[0, 1], [2]]),
        ]
    )
    assert [(row.id, [one.text for one in row.completions], row.ranking) for row in done.rows] == [
        ("a", ["y", "x"], (("c2",), ("c0",)))
    ]
    assert done.rows[0].ranks() == [1, 0]
    assert counted(done.counts) == {"control_characters": 1, "blank_completions": 3, "too_few_ranks": 2}


def test_equal_completions_stay_once_in_one_rank_and_go_where_ranks_differ():
    """(x, x) > y keeps one x; x > y > x says nothing about x and leaves y alone; x > x > y > z keeps y > z."""
    done = clean(
        [
            ranking("a", ["x", "x", "y"], [[0, 1], [2]]),
            ranking("b", ["x", "y", "x"], [[0], [1], [2]]),
            ranking("c", ["x", "x", "y", "z"], [[0], [1], [2], [3]]),
        ]
    )
    assert [(row.id, row.ranking) for row in done.rows] == [("a", (("c0",), ("c2",))), ("c", (("c2",), ("c3",)))]
    assert counted(done.counts) == {"duplicate_completions": 1, "contradicting_completions": 4, "too_few_ranks": 1}


def test_the_same_judgement_is_a_duplicate_whatever_its_order_and_ids_but_not_by_another_person():
    rows = [
        ranking("a", ["x", "y", "z"], [[0], [1, 2]]),
        ranking("b", ["z", "y", "x"], [[2], [1, 0]]),
        ranking("c", ["x", "y", "z"], [[0], [1, 2]], annotator="me"),
        ranking("d", ["x", "y", "z"], [[0], [1], [2]]),
        ranking("e", ["x", "y", "z"], [[0], [1, 2]], prompt="q"),
    ]
    done = clean(rows)
    assert [row.id for row in done.rows] == ["a", "c", "d", "e"]
    assert counted(done.counts) == {"duplicates": 1}
    assert clean(rows, Steps(duplicates=False)).rows == rows


def test_near_duplicates_go_from_the_similarity_that_is_asked_for():
    """Of the cat sat on the mat yes. there are 23 runs of five; with another last character 22 of 24 are shared."""
    rows = [demonstration(name, "The cat sat on the mat", end) for name, end in (("a", "yes."), ("b", "yes!"))]
    rows.append(demonstration("c", "Something else altogether", "no"))
    done = clean(rows, Steps(near_duplicates=0.91))
    assert [row.id for row in done.rows] == ["a", "c"] and done.places == [0, 2]
    assert counted(done.counts) == {"near_duplicates": 1}
    assert clean(rows, Steps(near_duplicates=0.92)).rows == rows
    assert clean(rows).rows == rows


def test_near_duplicates_of_two_people_are_two_judgements():
    rows = [
        ranking("a", ["The cat sat on the mat.", "A dog"], [[0], [1]], annotator="me"),
        ranking("b", ["The cat sat on the mat!", "A dog"], [[0], [1]], annotator="you"),
        ranking("c", ["The cat sat on the mat?", "A dog"], [[0], [1]], annotator="me"),
    ]
    assert [row.id for row in clean(rows, Steps(near_duplicates=0.6)).rows] == ["a", "b"]


def test_clean_rows_stay_as_they_are():
    rows = [ranking("a", ["x", "y"], [[0], [1]]), ranking("b", ["x", "w"], [[1], [0]])]
    done = clean(rows)
    assert done.rows == rows and done.places == [0, 1]
    assert counted(done.counts) == {}
    assert clean(done.rows) == done
    assert clean([]).rows == [] and set(clean([]).counts.values()) == {0}


@st.composite
def rows(draw):
    """Rankings of two or three completions and demonstrations, of short strange texts."""
    made = []
    for number in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            made.append(demonstration(str(number), draw(TEXTS), draw(TEXTS)))
        else:
            texts = draw(st.lists(TEXTS, min_size=2, max_size=3))
            order = draw(st.permutations(range(len(texts))))
            tiers = [[one] for one in order] if draw(st.booleans()) else [order[:-1], order[-1:]]
            made.append(ranking(str(number), texts, tiers, prompt=draw(st.sampled_from(["p", "q"]))))
    return made


@hypothesis_settings(deadline=None, derandomize=True, database=None, max_examples=150)
@given(rows(), st.sampled_from([Steps(), EVERYTHING, NOTHING, Steps(html=True, duplicates=False)]))
def test_cleaning_is_done_once_and_accounts_for_every_row(given, steps):
    done = clean(given, steps)
    counted(done.counts)
    assert done.counts["read"] == len(given) and done.counts["kept"] == len(done.rows)
    assert done.places == sorted(set(done.places))
    assert [given[place].id for place in done.places] == [row.id for row in done.rows]
    again = clean(done.rows, steps)
    assert again.rows == done.rows
    assert counted(again.counts) == {}


@hypothesis_settings(deadline=None, derandomize=True, database=None, max_examples=50)
@given(rows(), st.sampled_from(sorted(MENDING)))
def test_a_mending_step_counts_the_rows_that_it_changes(given, name):
    """Whether they are kept or not; the step alone."""
    step = MENDING[name]
    texts = [[row.prompt, *(one.text for one in getattr(row, "completions", ()))] for row in given]
    texts = [[*said, getattr(row, "completion", "")] for said, row in zip(texts, given, strict=True)]
    done = clean(given, Steps(**dict.fromkeys(("nfc", "control_characters", "duplicates"), False) | {name: True}))
    assert done.counts[name] == sum(any(step(text) != text for text in said) for said in texts)


def judgement(name, completion, liked):
    return Judgement(name, "p", completion, liked, f"f:{name}")


def test_judgements_are_mended_and_what_was_liked_and_disliked_is_no_repetition():
    """b repeats a once both are composed; c says a's words and thinks otherwise; d is blank. e is nearly a."""
    long = "one two three four five six seven eight nine ten caf\u00e9"
    rows = [
        judgement("a", long, True),
        judgement("b", long.replace("\u00e9", "e\u0301"), True),
        judgement("c", long, False),
        judgement("d", " \x07", True),
        judgement("e", f"{long}!", True),
        judgement("f", f"{long}?", False),
    ]
    done = clean(rows, Steps())
    assert [(row.id, row.completion) for row in done.rows][:2] == [("a", long), ("c", long)]
    assert counted(done.counts) == {"control_characters": 1, "nfc": 1, "blank": 1, "duplicates": 1}
    nearly = clean(rows, Steps(near_duplicates=0.8))
    assert [(row.id, row.liked) for row in nearly.rows] == [("a", True), ("c", False)]
    assert nearly.counts["near_duplicates"] == 2


def letters(prompt, completion):
    """One token a character."""
    return [ord(char) for char in prompt + completion]


def test_completions_alike_within_max_length_are_removed():
    """After "p" and two letters, abX = abY. In a they differ in rank, in b they are tied, in c only they are ranked."""
    rankings = [
        ranking("a", ["abX", "abY", "b", "c"], [[0], [1], [2], [3]]),
        ranking("b", ["abX", "abY", "b"], [[0, 1], [2]]),
        ranking("c", ["abX", "abY"], [[0], [1]]),
        ranking("d", ["aX", "aY"], [[0], [1]]),
    ]
    kept, removed = equal_after_truncation(rankings, letters, 3)
    assert [(row.id, row.ranking) for row in kept] == [
        ("a", (("c2",), ("c3",))),
        ("b", (("c0",), ("c2",))),
        ("d", (("c0",), ("c1",))),
    ]
    assert removed == 2 + 1 + 2
    assert equal_after_truncation(rankings, letters, 4) == (rankings, 0)
    assert equal_after_truncation(rankings, letters, 1) == ([], 4 + 3 + 2 + 2)


def test_truncation_to_nothing_is_a_programmers_mistake():
    with pytest.raises(ValueError, match="max_length"):
        equal_after_truncation([], letters, 0)
