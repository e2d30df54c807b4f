"""Is each format read as its makers mean it, and each mistake told with its file, line and field?"""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import checks
from data.checks import Place
from data.formats import FORMATS, to_rows
from data.schema import Completion, DataError, Demonstration, Prompt, Ranking

USER = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}
HH = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: "


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def only(folder, row):
    loaded = to_rows(write(folder, [row]))
    assert (loaded.read, loaded.problems, loaded.rejects) == (1, [], [])
    return loaded.format, loaded.kind, loaded.rows[0]


def problems_of(folder, rows, format=None):
    """What is wrong with `rows`, as (line, field, text)."""
    source = write(folder, rows)
    with pytest.raises(DataError) as caught:
        to_rows(source, format)
    assert all(problem.file == source for problem in caught.value.problems)
    return [(problem.line, problem.field, str(problem)) for problem in caught.value.problems]


def pair(prompt, chosen, rejected):
    return prompt, (Completion("c0", chosen), Completion("c1", rejected)), (("c0",), ("c1",))


@pytest.mark.parametrize(
    ("row", "name", "prompt", "chosen", "rejected"),
    [
        (
            {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
            "preference",
            "The sky is",
            " blue.",
            " green.",
        ),
        (
            {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
            "preference",
            [USER],
            "It is blue.",
            "It is green.",
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            "preference_implicit",
            "The sky is",
            " blue.",
            " green.",
        ),
        (
            {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
            "preference_implicit",
            [USER],
            "It is blue.",
            "It is green.",
        ),
        (
            {"chosen": HH + "I do.", "rejected": HH + "I do not."},
            "preference_implicit",
            HH[:-1],
            " I do.",
            " I do not.",
        ),
        ({"chosen": "天空是蓝色的", "rejected": "天空是绿色的"}, "preference_implicit", "天空是", "蓝色的", "绿色的"),
    ],
    ids=["explicit", "explicit-messages", "implicit", "implicit-messages", "hh-rlhf", "no-spaces"],
)
def test_preferences(tmp_path, row, name, prompt, chosen, rejected):
    """The rows of TRL's dataset-format page, hh-rlhf, and a script without spaces, taken apart by hand."""
    found, kind, ranking = only(tmp_path, row)
    assert (found, kind) == (name, "rankings")
    assert (ranking.prompt, ranking.completions, ranking.ranking) == pair(prompt, chosen, rejected)
    assert ranking.id == ranking.source == f"{tmp_path}/rows.jsonl:1"


@pytest.mark.parametrize(
    ("row", "name", "prompt", "completion"),
    [
        ({"prompt": "The sky is", "completion": " blue."}, "prompt_completion", "The sky is", " blue."),
        ({"prompt": [USER], "completion": [BLUE]}, "prompt_completion", [USER], "It is blue."),
        ({"prompt": [USER], "completion": "It is blue."}, "prompt_completion", [USER], "It is blue."),
        ({"messages": [USER, BLUE]}, "messages", [USER], "It is blue."),
        ({"messages": [USER, GREEN, USER, BLUE]}, "messages", [USER, GREEN, USER], "It is blue."),
        (
            {"prompt": [USER], "completion": [GREEN, USER, BLUE]},
            "prompt_completion",
            [USER, GREEN, USER],
            "It is blue.",
        ),
    ],
)
def test_demonstrations(tmp_path, row, name, prompt, completion):
    found, kind, demonstration = only(tmp_path, {"id": 7, **row})
    assert (found, kind) == (name, "demonstrations")
    assert demonstration == Demonstration("7", prompt, completion, f"{tmp_path}/rows.jsonl:1")


@pytest.mark.parametrize("prompt", ["The sky is", [USER], [{"role": "system", "content": "Be brief."}, USER]])
def test_prompts(tmp_path, prompt):
    assert only(tmp_path, {"id": "a", "prompt": prompt}) == (
        "prompt",
        "prompts",
        Prompt("a", prompt, f"{tmp_path}/rows.jsonl:1"),
    )


def test_our_ranking_by_positions_and_by_ids(tmp_path):
    """[[2], [0, 3], [1]] puts the third first, ties the first and fourth, and puts the second last."""
    texts = ["a", "b", "c", "d"]
    row = {"messages": [USER], "completions": texts, "ranking": [[2], [0, 3], [1]], "annotator": 5}
    _, _, ranking = only(tmp_path, row)
    assert ranking.prompt == [USER]
    assert ranking.ranks() == [1, 2, 0, 1]
    assert ranking.annotator == "5"
    objects = [{"id": text * 2, "text": text, "model": "m", "ratings": [1, 2.5]} for text in texts]
    _, _, ranking = only(tmp_path, {"prompt": "p", "completions": objects, "ranking": [["cc"], ["aa", "dd"], ["bb"]]})
    assert ranking.completions[0] == Completion("aa", "a", "m", (1.0, 2.5))
    assert ranking.ranking == (("cc",), ("aa", "dd"), ("bb",))


@pytest.mark.parametrize(
    "row",
    [
        Ranking("r", [USER], (Completion("a", "x", "m", (1.0,)), Completion("b", "y")), (("b",), ("a",)), "f:1", "me"),
        Demonstration("d", [USER], "x", "f:1"),
        Demonstration("d", "p", " x", "f:1"),
        Prompt("p", "x", "f:1"),
    ],
)
def test_what_we_write_we_read(tmp_path, row):
    _, _, again = only(tmp_path, row.to_json())
    assert {**again.to_json(), "source": ""} == {**row.to_json(), "source": ""}
    assert again.source == f"{tmp_path}/rows.jsonl:1"


def test_other_keys_are_metadata(tmp_path):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "prompt_id": "7", "rating": 3, "score_chosen": 1.5}
    assert only(tmp_path, row)[0] == "preference"
    assert only(tmp_path, {"prompt": "p", "reject": False})[0] == "prompt"
    assert only(tmp_path, {"chosen": "a b", "rejected": "a c", "prompt_id": "7"})[0] == "preference_implicit"


def test_a_greeting_returned_is_no_repeated_prompt(tmp_path):
    assert only(tmp_path, {"prompt": "Hello", "chosen": "Hello you", "rejected": "Hello?"})[0] == "preference"


GOOD = {
    "ranking": {"prompt": "p", "completions": ["a", "b", "c"], "ranking": [[2], [0], [1]]},
    "preference": {"prompt": "What is one and one?", "chosen": "Two.", "rejected": "Three."},
    "preference_implicit": {"chosen": "What is it? Two.", "rejected": "What is it? Three."},
    "prompt_completion": {"prompt": "p", "completion": "c"},
    "messages": {"messages": [USER, BLUE]},
    "prompt": {"prompt": "p"},
}
CHAT = {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}


def test_every_format_has_an_example():
    assert set(GOOD) == set(FORMATS)


BAD = [
    # 6, 7: keys
    (
        "preference",
        {"prompt": "p", "choosen": "a", "rejected": "b"},
        "chosen",
        'missing; did you write "choosen" for it?',
    ),
    ("preference", {"prompt": "p", "rejected": "b"}, "chosen", "the key is missing; give every row this key"),
    ("prompt_completion", {"prompt": "p"}, "completion", "the key is missing"),
    ("ranking", {"completions": ["a", "b"], "ranking": [[0], [1]]}, "prompt", "the key is missing"),
    ("ranking", {"prompt": "p", "messages": [USER], **GOOD["ranking"]}, "messages", "the row has a prompt as well"),
    # 8, 9: texts
    ("preference", {**GOOD["preference"], "chosen": None}, "chosen", "it is null"),
    ("preference", {**GOOD["preference"], "rejected": " \n"}, "rejected", "it is blank"),
    ("preference", {**GOOD["preference"], "chosen": 3}, "chosen", "it is a number, not a text"),
    ("prompt_completion", {"prompt": {"a": "b"}, "completion": "c"}, "prompt", "it is an object, not a text"),
    ("prompt_completion", {"prompt": "p", "completion": True}, "completion", "it is true or false, not a text"),
    ("prompt", {"prompt": ["a"]}, "prompt[0]", "the message is a text, not an object"),
    ("ranking", {**GOOD["ranking"], "completions": ["a", " ", "c"]}, "completions[1]", "it is blank"),
    ("ranking", {**GOOD["ranking"], "completions": ["a", ["b"], "c"]}, "completions[1]", "it is a list, not a text"),
    ("ranking", {**GOOD["ranking"], "completions": "a"}, "completions", "it is a text, not a list"),
    ("messages", {"messages": [{"role": "user", "content": ["a"]}, BLUE]}, "messages[0].content", "it is a list"),
    ("messages", {"messages": "hi"}, "messages", "it is a text, not a list of messages"),
    ("prompt", {"prompt": "p", "id": [1]}, "id", "it is a list, not a text"),
    # 10: equals
    ("preference", {"prompt": "p", "chosen": "a b", "rejected": "a b "}, "rejected", "it equals chosen"),
    ("preference", {**CHAT, "rejected": [BLUE]}, "rejected", "it equals chosen"),
    ("preference_implicit", {"chosen": "a b", "rejected": "a b"}, "rejected", "it equals chosen"),
    (
        "ranking",
        {**GOOD["ranking"], "completions": ["a", "b", "a"]},
        "completions",
        "the same text stands in two ranks",
    ),
    # 11: prompt repeated
    (
        "preference",
        {"prompt": "What is 2+2?", "chosen": "What is 2+2? 4", "rejected": "What is 2+2? 5"},
        "chosen",
        "it repeats the prompt",
    ),
    ("preference", {**CHAT, "chosen": [USER, BLUE]}, "chosen", "it repeats the prompt"),
    ("preference", {"prompt": USER["content"], "chosen": [USER, BLUE], "rejected": "b"}, "chosen", "it repeats"),
    (
        "preference",
        {"prompt": "p", "chosen": [BLUE], "rejected": "b"},
        "chosen",
        "a list of messages, the prompt a text",
    ),
    # 12: implicit prompts that diverge
    ("preference_implicit", {"chosen": "One two", "rejected": "Three four"}, "rejected", "no common beginning"),
    ("preference_implicit", {"chosen": "你好", "rejected": "你好吗"}, "chosen", "nothing is left of it"),
    (
        "preference_implicit",
        {"chosen": "\n\nHuman: What a\n\nAssistant: x", "rejected": "\n\nHuman: What b\n\nAssistant: y"},
        "rejected",
        "part before their last answer",
    ),
    (
        "preference_implicit",
        {"chosen": HH + "a\n\nHuman: b\n\nAssistant: c", "rejected": HH + "d"},
        "rejected",
        "part before their last answer",
    ),
    (
        "preference_implicit",
        {"chosen": [USER, BLUE], "rejected": [{**USER, "content": "Why?"}, GREEN]},
        "rejected",
        "part before their last answer",
    ),
    ("preference_implicit", {"chosen": [USER, BLUE], "rejected": "b"}, "chosen", "it is a list, not a text"),
    # 13, 14: roles and turns
    ("messages", {"messages": [{**USER, "role": "asistant"}, BLUE]}, "messages[0].role", 'did you mean "assistant"?'),
    ("messages", {"messages": [{**USER, "role": "human"}, BLUE]}, "messages[0].role", 'did you mean "user"?'),
    ("messages", {"messages": [{**USER, "role": "tool"}, BLUE]}, "messages[0].role", "use system, user, assistant"),
    (
        "messages",
        {"messages": [{"from": "human", "value": "a"}, BLUE]},
        "messages[0]",
        "the message has from and value",
    ),
    ("messages", {"messages": [{"role": "user", "contents": "a"}, BLUE]}, "messages[0].content", "the key is missing"),
    ("messages", {"messages": [USER, {**BLUE, "tool_calls": [1]}]}, "messages[1].tool_calls", "not supported"),
    ("messages", {"messages": [USER, USER, BLUE]}, "messages[1]", "two turns of the user in a row"),
    ("messages", {"messages": [USER, BLUE, GREEN]}, "messages[2]", "two turns of the assistant in a row"),
    ("messages", {"messages": [BLUE]}, "messages[0]", "the assistant speaks before the user"),
    (
        "messages",
        {"messages": [{**USER, "role": "system"}, BLUE]},
        "messages[1]",
        "the assistant speaks before the user",
    ),
    ("messages", {"messages": [USER, {**USER, "role": "system"}, BLUE]}, "messages[1]", "the system message is not"),
    ("messages", {"messages": [USER, BLUE, USER]}, "messages", "the last turn is not the assistant's"),
    ("messages", {"messages": []}, "messages", "the list of messages is empty"),
    ("prompt", {"prompt": [USER, BLUE]}, "prompt", "the last turn is not the user's"),
    ("preference", {**CHAT, "chosen": [{**USER, "content": "More?"}]}, "chosen[0]", "two turns of the user in a row"),
    ("preference", {**CHAT, "chosen": []}, "chosen", "the list of messages is empty"),
    ("preference", {**CHAT, "chosen": [GREEN, USER, BLUE]}, "rejected", "part before their last answer"),
    # 15 to 17: rankings
    ("ranking", {**GOOD["ranking"], "ranking": [[0], [1]]}, "ranking", '"c2" stands nowhere in it'),
    ("ranking", {**GOOD["ranking"], "ranking": [[0], [1], [2, 0]]}, "ranking", '"c0" stands twice in it'),
    ("ranking", {**GOOD["ranking"], "ranking": [[0], [1], [3]]}, "ranking", 'it names "3", which is no completion'),
    ("ranking", {**GOOD["ranking"], "ranking": [["c0"], ["c1"], ["x"]]}, "ranking", 'it names "x"'),
    ("ranking", {**GOOD["ranking"], "ranking": [[0], [-1], [2]]}, "ranking", 'it names "-1"'),
    ("ranking", {**GOOD["ranking"], "ranking": [[1], [2], [3]]}, "ranking", "it counts the completions from 1"),
    ("ranking", {**GOOD["ranking"], "ranking": [[0, 1, 2]]}, "ranking", "all completions are tied"),
    ("ranking", {**GOOD["ranking"], "ranking": [0.5, 0.1, 2]}, "ranking", "it holds scores, not ranks"),
    ("ranking", {**GOOD["ranking"], "ranking": [[0.5], [0.1], [2]]}, "ranking", "it holds scores, not ranks"),
    ("ranking", {**GOOD["ranking"], "ranking": [2, 0, 1]}, "ranking", "it is no list of lists"),
    ("ranking", {**GOOD["ranking"], "ranking": [[0], [], [1, 2]]}, "ranking", "it is no list of lists"),
    ("ranking", {**GOOD["ranking"], "ranking": [[0], [True], [2]]}, "ranking", "neither position nor id"),
    ("ranking", {**GOOD["ranking"], "ranking": []}, "ranking", "it is empty"),
    ("ranking", {**GOOD["ranking"], "ranking": "abc"}, "ranking", "it is a text, not a list"),
    ("ranking", {"prompt": "p", "completions": ["a"], "ranking": [[0]]}, "completions", "there are fewer than two"),
    (
        "ranking",
        {"prompt": "p", "completions": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "ranking": [["a"]]},
        "completions",
        'the id "a" stands twice',
    ),
    (
        "ranking",
        {"prompt": "p", "completions": [{"text": "x", "ratings": [1, "2"]}, "y"], "ranking": [[0], [1]]},
        "completions[0].ratings",
        "it is no list of numbers",
    ),
]


@pytest.mark.parametrize(("name", "row", "field", "says"), BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("explicit", [False, True], ids=["detected", "explicit"])
def test_a_mistake_is_told_with_its_line_and_field(tmp_path, name, row, field, says, explicit):
    """Each stands on line 3 among sound rows of its format, whether that is said or found."""
    rows = [{"id": str(number), **GOOD[name]} for number in range(3)]
    rows.insert(2, row)
    problems = problems_of(tmp_path, rows, name if explicit else None)
    assert len(problems) == 1, problems
    line, where, text = problems[0]
    assert (line, where) == (3, field)
    assert says in text
    loaded = to_rows(f"{tmp_path}/rows.jsonl", name if explicit else None, skip_bad=True)
    assert [one.id for one in loaded.rows] == ["0", "1", "2"]
    assert loaded.read == 4
    assert [str(problem) for problem in loaded.problems] == [text]
    assert json.loads(json.dumps([reject.to_json() for reject in loaded.rejects])) == [
        {"row": row, "file": f"{tmp_path}/rows.jsonl", "line": 3, "reason": text.split(":3: ", 1)[1]}
    ]


def test_all_problems_come_together_in_the_order_of_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(GOOD["preference"])
    path.write_text(f'{good}\n{{"prompt": \n{{"prompt": "p", "chosen": "", "rejected": 1}}\n{good}\nNaN\n')
    with pytest.raises(DataError) as caught:
        to_rows(str(path))
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [
        (2, "line"),
        (3, "chosen"),
        (3, "rejected"),
        (5, "line"),
    ]
    loaded = to_rows(str(path), skip_bad=True)
    assert (loaded.read, len(loaded.rows)) == (5, 2)
    assert [problem.line for problem in loaded.problems] == [2, 3, 3, 5]
    assert [(reject.line, reject.row is None) for reject in loaded.rejects] == [(2, True), (3, False), (5, True)]


def test_a_file_cut_off_is_refused_even_with_skip_bad_and_its_rows_are_checked_too(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,\nb,c\nd,"e\n')
    with pytest.raises(DataError) as caught:
        to_rows(str(path), skip_bad=True)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(2, "completion"), (4, "row")]


def test_nothing_usable_is_refused_even_with_skip_bad(tmp_path):
    source = write(tmp_path, [{"prompt": "", "completion": ""}])
    with pytest.raises(DataError, match="it is blank"):
        to_rows(source, skip_bad=True)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p", "completon": "c"}, 'did you mean "completion" where it says "completon"?'),
        ({"propmt": "p", "chosen": "a", "rejected": "b"}, 'did you mean "prompt" where it says "propmt"?'),
        ({"Prompt": "p"}, 'did you mean "prompt" where it says "Prompt"?'),
        ({" prompt": "p"}, 'did you mean "prompt" where it says " prompt"?'),
        ({"question": "q"}, "no format is known with the keys question; write one of the formats ranking"),
        ({"text": "q", "label": 1}, "no format is known with the keys text, label"),
    ],
)
def test_rows_of_no_format_are_told_the_nearest_key(tmp_path, row, says):
    """A misspelt key must not turn demonstrations into prompts or leave a prompt out."""
    problems = problems_of(tmp_path, [row, row])
    assert [(line, field) for line, field, _ in problems] == [(1, "keys")]
    assert says in problems[0][2]


def test_a_misspelt_key_in_one_row_is_no_other_format(tmp_path):
    problems = problems_of(
        tmp_path, [GOOD["preference_implicit"]] * 2 + [{"propmt": "p", "chosen": "a b", "rejected": "a c"}]
    )
    assert [(line, field) for line, field, _ in problems] == [(3, "keys")]
    assert 'did you mean "prompt" where it says "propmt"?' in problems[0][2]


def test_rows_that_fit_two_formats_name_both(tmp_path):
    row = {**CHAT, "messages": [USER, BLUE]}
    problems = problems_of(tmp_path, [row])
    assert "fits two formats, preference and messages" in problems[0][2]
    assert 'format: "preference" or format: "messages"' in problems[0][2]
    assert to_rows(write(tmp_path, [row]), "preference").format == "preference"
    assert to_rows(write(tmp_path, [row]), "messages").format == "messages"


def test_a_row_of_another_format_among_many_is_named(tmp_path):
    rows = [{"prompt": "p"}, {"prompt": "q"}, GOOD["prompt_completion"]]
    problems = problems_of(tmp_path, rows)
    assert [(line, field) for line, field, _ in problems] == [(3, "keys")]
    assert "looks like prompt_completion among rows of the format prompt" in problems[0][2]
    rows = [GOOD["preference"], GOOD["preference"], {**GOOD["preference"], "messages": [USER, BLUE]}]
    assert "fits two formats" in problems_of(tmp_path, rows)[0][2]


def test_an_unknown_format_suggests_the_nearest(tmp_path):
    source = write(tmp_path, [GOOD["prompt"]])
    with pytest.raises(DataError, match='there is no format "preferences"; did you mean "preference"'):
        to_rows(source, "preferences")


def test_an_id_stands_once(tmp_path):
    rows = [{"id": 1, "prompt": "a"}, {"prompt": "b"}, {"id": "1", "prompt": "c"}]
    assert problems_of(tmp_path, rows) == [
        (3, "id", f'{tmp_path}/rows.jsonl:3: id: "1" is also the id of the row on line 1; give every row its own id')
    ]
    loaded = to_rows(f"{tmp_path}/rows.jsonl", skip_bad=True)
    assert [row.prompt for row in loaded.rows] == ["a", "b"]


def test_labels_that_contradict_are_named_unless_two_people_gave_them(tmp_path):
    """c > a > b on line 1 is contradicted by a > c on line 3; the same order again, or another prompt, is not."""
    one = {"prompt": "p", "completions": ["a", "b", "c"], "ranking": [[2], [0], [1]]}
    same = {"prompt": "p", "completions": ["b", "a"], "ranking": [[1], [0]]}
    other = {"prompt": " p ", "completions": ["a", "c"], "ranking": [[0], [1]]}
    elsewhere = {"prompt": "P", "completions": ["a", "c"], "ranking": [[0], [1]]}
    problems = problems_of(tmp_path, [one, same, other, elsewhere])
    assert [(line, field) for line, field, _ in problems] == [(3, "ranking")]
    assert "ranked the other way round on line 1" in problems[0][2]
    people = [{**row, "annotator": name} for row, name in ((one, "x"), (other, "y"))]
    assert len(to_rows(write(tmp_path, people)).rows) == 2
    assert len(problems_of(tmp_path, [{**row, "annotator": "x"} for row in (one, other)])) == 1


def test_rows_of_one_line_arrays_and_csv_are_told_apart(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD["prompt_completion"]] * 3))
    loaded = to_rows(str(path))
    assert [row.id for row in loaded.rows] == [f"{path}:{number}" for number in (1, 2, 3)]
    assert loaded.read == 3
    path.write_text("prompt,chosen,rejected\np,a,b\nq,c,d\n")
    assert [row.source for row in to_rows(str(path)).rows] == [f"{path}:2", f"{path}:3"]


def test_the_smoke_data_is_sound():
    """48 rankings of three or four short answers, with ties and two scripts, the best at no favoured place."""
    loaded = to_rows(str(Path(__file__).parents[1] / "data" / "smoke.jsonl"))
    assert (loaded.format, loaded.kind, len(loaded.rows)) == ("ranking", "rankings", 48)
    assert len({ranking.prompt for ranking in loaded.rows}) == 48
    assert {len(ranking.completions) for ranking in loaded.rows} == {3, 4}
    assert sum(any(len(tier) > 1 for tier in ranking.ranking) for ranking in loaded.rows) >= 4
    assert sum(not ranking.prompt.isascii() for ranking in loaded.rows) >= 4
    best_first = sum(ranking.ranks()[0] == 0 for ranking in loaded.rows)
    assert 10 <= best_first <= 24


def test_a_long_common_beginning_is_cut_at_white_space_never_inside_a_word():
    """By hand: "The ca" is common, the last space stands before "ca"."""
    at = Place("f", 1, [])
    assert checks.common_prompt("The cat", "The car", at) == (("The", " cat"), ("The", " car"))
    assert checks.common_prompt("A  b", "A  c", at) == (("A", "  b"), ("A", "  c"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "b", "user", "assistant", "c0", " "]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "id", "ratings", "model"]), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ["prompt", "messages", "completion", "completions", "ranking", "chosen", "rejected", "id", "annotator", "other"]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5), min_size=1, max_size=4),
    st.sampled_from([None, *FORMATS]),
)
def test_no_row_leads_to_another_error_or_is_lost(tmp_path_factory, rows, name):
    """Whatever JSON a row holds: each is returned or refused by its line, and only DataError is raised."""
    source = write(tmp_path_factory.mktemp("any"), rows)
    try:
        loaded = to_rows(source, name, skip_bad=True)
    except DataError as error:
        assert error.problems
        return
    assert loaded.read == len(rows) == len(loaded.rows) + len(loaded.rejects)
    lines = [int(row.source.rsplit(":", 1)[1]) for row in loaded.rows] + [reject.line for reject in loaded.rejects]
    assert sorted(lines) == list(range(1, len(rows) + 1))
    for row in loaded.rows:
        assert type(row).from_json(row.to_json()) == row
