"""Are our own rows and TRL's read as they are meant, and each mistake told with its line and field?"""

import json

import pytest
from asked import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

from data.forms.place import Place
from data.forms.table import FORMATS
from data.forms.trl import common_prompt
from data.schema import Completion, DataError, Demonstration, Prompt, Ranking

OURS = ("ranking", "preference", "preference_implicit", "prompt_completion", "messages", "prompt")
USER = {"role": "user", "content": "What color is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}


def only(folder, row):
    loaded = read(write(folder, [row]))
    assert (loaded.read, loaded.problems, loaded.rejects) == (1, [], [])
    return loaded.format, loaded.kind, loaded.rows[0]


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
        ({"chosen": "天空是蓝色的", "rejected": "天空是绿色的"}, "preference_implicit", "天空是", "蓝色的", "绿色的"),
    ],
    ids=["explicit", "explicit-messages", "implicit", "implicit-messages", "no-spaces"],
)
def test_preferences(tmp_path, row, name, prompt, chosen, rejected):
    """The rows of TRL's dataset-format page, and a script without spaces, taken apart by hand."""
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
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "prompt_id": "7", "temperature": 3, "source": "there"}
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


def test_each_has_a_sound_row():
    assert set(GOOD) == set(OURS) <= set(FORMATS)
    assert all(FORMATS[name].kind for name in OURS)


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
    ("preference", {"prompt": USER["content"], "chosen": [USER, BLUE], "rejected": "b"}, "rejected", "part before"),
    ("preference", {"prompt": "p", "chosen": [BLUE], "rejected": "b"}, "rejected", "part before"),
    # 12: implicit prompts that diverge
    ("preference_implicit", {"chosen": "One two", "rejected": "Three four"}, "rejected", "no common beginning"),
    ("preference_implicit", {"chosen": "你好", "rejected": "你好吗"}, "chosen", "nothing is left of it"),
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
    ("messages", {"messages": [{"from": "humn", "value": "a"}, BLUE]}, "messages[0].role", "is no role"),
    ("messages", {"messages": [{**USER, "content": []}, BLUE]}, "messages[0].content", "it is empty"),
    (
        "messages",
        {"messages": [{**USER, "content": [{"type": "image_url", "image_url": {"url": "a"}}]}, BLUE]},
        "messages[0].content[0]",
        "image_url is not supported",
    ),
    (
        "messages",
        {"messages": [{**USER, "content": [{"type": "text", "text": " "}]}, BLUE]},
        "messages[0].content[0].text",
        "it is blank",
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
    path, options = write(tmp_path, rows), {"format": name if explicit else None}
    with pytest.raises(DataError) as caught:
        read(path, **options)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == (str(path), 3, field)
    assert says in str(problem)
    loaded = read(path, **options, skip_bad=True)
    assert [one.id for one in loaded.rows] == ["0", "1", "2"]
    assert loaded.read == 4
    assert loaded.problems == [problem]
    assert json.loads(json.dumps([reject.to_json() for reject in loaded.rejects])) == [
        {"row": row, "file": str(path), "line": 3, "reason": str(problem).split(":3: ", 1)[1]}
    ]


def test_a_long_common_beginning_is_cut_at_white_space_never_inside_a_word():
    """By hand: "The ca" is common, the last space stands before "ca"."""
    at = Place("f", 1, [])
    assert common_prompt("The cat", "The car", at) == (("The", " cat"), ("The", " car"))
    assert common_prompt("A  b", "A  c", at) == (("A", "  b"), ("A", "  c"))


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
    st.sampled_from([None, *OURS]),
)
def test_no_row_leads_to_another_error_or_is_lost(tmp_path_factory, rows, name):
    """Whatever JSON a row holds: each is returned or refused by its line, and only DataError is raised."""
    path = write(tmp_path_factory.getbasetemp(), rows)
    try:
        loaded = read(path, format=name, skip_bad=True)
    except DataError as error:
        assert error.problems
        return
    assert loaded.read == len(rows) == len(loaded.rows) + len(loaded.rejects)
    lines = [int(row.source.rsplit(":", 1)[1]) for row in loaded.rows] + [reject.line for reject in loaded.rejects]
    assert sorted(lines) == list(range(1, len(rows) + 1))
    for row in loaded.rows:
        assert type(row).from_json(row.to_json()) == row
