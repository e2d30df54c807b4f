"""What do rows of several formats look like, in which containers do they lie, and which mistakes are made in them?"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .outcome import Case, Wrong

Row = dict[str, Any]
BOM = b"\xef\xbb\xbf"


def user(text: Any) -> Row:
    return {"role": "user", "content": text}


def assistant(text: Any) -> Row:
    return {"role": "assistant", "content": text}


def rated(model: str, response: str, score: Any) -> Row:
    aspects = {name: {"Rating": "3"} for name in ("instruction_following", "honesty", "truthfulness", "helpfulness")}
    return {"model": model, "response": response, "annotations": aspects, "overall_score": score}


PAIR = {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Berlin."}
CHAT = {"prompt": [user("Name a river.")], "chosen": [assistant("The Rhine.")], "rejected": [assistant("Berlin.")]}
RANKING = {"prompt": "Name a river.", "completions": ["Rhine", "Berlin", "Elbe"], "ranking": [[0, 2], [1]]}
DEMO = {"prompt": "Name a river.", "completion": "The Rhine."}
TALK = {"messages": [user("Hi"), assistant("Hello!"), user("A river?"), assistant("The Rhine.")]}
IMPLICIT = {"chosen": "The river is the Rhine.", "rejected": "The river is Berlin."}
ASKED = {"prompt": "Name a river."}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A river?\n\nAssistant: The Rhine.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A river?\n\nAssistant: Berlin.",
}
ULTRA = {"instruction": "Name a river.", "completions": [rated("a", "Rhine", 8.0), rated("b", "Berlin", 2.5)]}
SHP = {"history": "Name a river.", "human_ref_A": "The Rhine.", "human_ref_B": "Berlin.", "labels": 1}
NECTAR = {
    "prompt": "\n\nHuman: A river?\n\nAssistant: ",
    "answers": [{"answer": "Berlin", "model": "a", "rank": 2.0}, {"answer": "Rhine", "model": "b", "rank": 1.0}],
}
WEBGPT = {"question": "A river?", "answer_0": "Rhine", "answer_1": "Berlin", "score_0": 0.5, "score_1": -0.5}
STEER3 = {"context": [user("A river?")], "response1": "Rhine", "response2": "Berlin", "overall_preference": -2}
ARENA = {
    "conversation_a": [user("A river?"), assistant("Rhine")],
    "conversation_b": [user("A river?"), assistant("Berlin")],
    "winner": "model_a",
}
RATINGS = {"prompt": "A river?", "completions": ["Rhine", "Berlin"], "ratings": [[4, 5], [1, 2]]}
ALPACA = {"instruction": "Name a river.", "input": "", "output": "The Rhine."}
SHAREGPT = {"conversations": [{"from": "human", "value": "A river?"}, {"from": "gpt", "value": "The Rhine."}]}
TLDR = {
    "info": {"post": "I saw a river.", "title": "River", "subreddit": "rivers"},
    "summaries": [{"text": " Saw a river."}, {"text": " Berlin."}],
    "choice": 0,
}
LABELLED: Row = {
    "data": {"prompt": "A river?", "items": [{"id": "r", "body": "Rhine"}, {"id": "b", "body": "Berlin"}]},
    "annotations": [
        {"was_cancelled": False, "completed_by": 1, "result": [{"type": "ranker", "value": {"ranker": ["r", "b"]}}]}
    ],
}
PKU = {"prompt": "A river?", "response_0": "Rhine", "response_1": "Berlin", "better_response_id": 0}


def without(row: Row, key: str) -> Row:
    return {name: value for name, value in row.items() if name != key}


# Containers


def dumped(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def lines(rows: Sequence[Any]) -> bytes:
    return b"".join(dumped(row) + b"\n" for row in rows)


def gzipped(raw: bytes) -> bytes:
    """The same bytes today and tomorrow."""
    return gzip.compress(raw, mtime=0)


def array(rows: Sequence[Any]) -> bytes:
    return b"[\n" + b",\n".join(map(dumped, rows)) + b"\n]\n"


def untidy(rows: Sequence[Any]) -> bytes:
    """A byte order mark, CRLF, a blank line after every row, no final newline."""
    return BOM + b"\r\n \t\r\n".join(map(dumped, rows))


def table(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    raw = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), raw)
    return raw.getvalue()


CONTAINERS: dict[str, tuple[str, Any, Any]] = {
    "J": ("jsonl", lines, lambda place: place),
    "A": ("json", array, lambda place: place + 1),
    "1": ("oneline.json", lambda rows: dumped(list(rows)), lambda place: place),
    "G": ("jsonl.gz", lambda rows: gzipped(lines(rows)), lambda place: place),
    "B": ("untidy.jsonl", untidy, lambda place: 2 * place - 1),
    "C": ("csv", table, lambda place: place + 1),
    "P": ("parquet", parquet, lambda place: place),
}
"""By letter: the ending, how rows are written, and the line on which row number n (from 1) then stands."""


# Mistakes


class Mistake(NamedTuple):
    """A wrong row, the second of three, among sound ones. `containers` are letters of CONTAINERS."""

    kind: int
    name: str
    format: str
    good: Row
    bad: Row
    field: str
    says: str
    containers: str = "JAGB"


# fmt: off
MISTAKES = [
    Mistake(6, "misspelt", "preference", PAIR, {"prompt": "p", "choosen": "a", "rejected": "b"}, "chosen", "choosen"),
    Mistake(6, "misspelt-prompt", "preference", PAIR, {**without(PAIR, "prompt"), "propmt": "p"}, "prompt", "propmt"),
    Mistake(6, "misspelt-case", "prompt_completion", DEMO, {"Prompt": "p", "completion": "a"}, "prompt", "Prompt"),
    Mistake(6, "misspelt-role", "messages", TALK, {"messages": [{"rol": "user", "content": "a"}, assistant("b")]},
            "messages[0].role", "key is missing", "J1G"),
    Mistake(7, "no-chosen", "preference", PAIR, without(PAIR, "chosen"), "chosen", "the key is missing"),
    Mistake(7, "no-prompt", "ranking", RANKING, without(RANKING, "prompt"), "prompt", "the key is missing", "J1AGB"),
    Mistake(7, "no-completion", "prompt_completion", DEMO, ASKED, "completion", "the key is missing"),
    Mistake(7, "no-label", "shp", SHP, without(SHP, "labels"), "labels", "the key is missing"),
    Mistake(7, "no-rank", "nectar", NECTAR, {**NECTAR, "answers": [{"answer": "a"}, {"answer": "b", "rank": 1}]},
            "answers[0].rank", "the key is missing", "JG"),
    Mistake(7, "no-output", "alpaca", ALPACA, {**without(ALPACA, "output"), "outputs": 1}, "output",
            "the key is missing"),
    Mistake(8, "null", "preference", PAIR, {**PAIR, "chosen": None}, "chosen", "it is null", "JAGBP1"),
    Mistake(8, "blank", "preference", PAIR, {**PAIR, "rejected": " \t "}, "rejected", "it is blank", "JAGBPC1"),
    Mistake(8, "empty", "prompt_completion", DEMO, {**DEMO, "completion": ""}, "completion", "it is blank", "JAGBPC"),
    Mistake(8, "blank-wide", "prompt", ASKED, {"prompt": "\u3000\u2003\u00a0"}, "prompt", "it is blank", "JAGBPC"),
    Mistake(8, "blank-turn", "messages", TALK, {"messages": [user("  "), assistant("b")]}, "messages[0].content",
            "it is blank", "JAGBP"),
    Mistake(8, "blank-of-k", "ranking", RANKING, {**RANKING, "completions": ["a", " ", "c"]}, "completions[1]",
            "blank", "JAGBP"),
    Mistake(8, "null-history", "shp", SHP, {**SHP, "history": None}, "history", "it is null", "JAGBP"),
    Mistake(8, "null-response", "ultrafeedback", ULTRA,
            {**ULTRA, "completions": [rated("a", "Rhine", 8.0), {**rated("b", "", 2.5), "response": None}]},
            "completions[1].response", "it is null", "JAGP"),
    Mistake(9, "number", "preference", PAIR, {**PAIR, "chosen": 3}, "chosen", "a number, not a text"),
    Mistake(9, "truth", "preference", PAIR, {**PAIR, "rejected": False}, "rejected", "true or false, not a text"),
    Mistake(9, "object", "prompt_completion", DEMO, {**DEMO, "prompt": {"a": "b"}}, "prompt",
            "an object, not a text"),
    Mistake(9, "list-of-texts", "prompt_completion", DEMO, {**DEMO, "prompt": ["a"]}, "prompt[0]", "a text, not an"),
    Mistake(9, "text-for-list", "ranking", RANKING, {**RANKING, "completions": "a"}, "completions",
            "a text, not a list"),
    Mistake(9, "text-for-talk", "messages", TALK, {"messages": "Hi"}, "messages", "a text, not a list of messages"),
    Mistake(9, "content-list", "messages", TALK, {"messages": [user(["a"]), assistant("b")]}, "messages[0].content",
            "a list, not a text"),
    Mistake(9, "number-instruction", "alpaca", ALPACA, {**ALPACA, "instruction": 7}, "instruction", "not a text"),
    Mistake(10, "equal", "preference", PAIR, {**PAIR, "rejected": PAIR["chosen"]}, "rejected", "it equals chosen",
            "JAGBCP1"),
    Mistake(10, "equal-but-spaces", "preference", PAIR, {**PAIR, "rejected": "The Rhine. \n"}, "rejected",
            "it equals chosen", "JAGBP"),
    Mistake(10, "equal-talks", "preference", CHAT, {**CHAT, "rejected": CHAT["chosen"]}, "rejected",
            "it equals chosen", "JAGBP"),
    Mistake(10, "equal-implicit", "preference_implicit", IMPLICIT, {"chosen": "a b", "rejected": "a b"}, "rejected",
            "it equals chosen", "JAGBCP"),
    Mistake(10, "equal-hh", "hh_rlhf", HH, {**HH, "rejected": HH["chosen"]}, "rejected", "it equals chosen", "JAGBP"),
    Mistake(10, "equal-shp", "shp", SHP, {**SHP, "human_ref_B": "The Rhine."}, "human_ref_B", "equals", "JAGBCP"),
    Mistake(10, "same-text-two-ranks", "ranking", RANKING, {**RANKING, "completions": ["a", "a", "c"]}, "completions",
            "the same text stands in two ranks", "JAGBP"),
    Mistake(11, "repeated", "preference", PAIR, {**PAIR, "chosen": "Name a river. The Rhine."}, "chosen",
            "it repeats the prompt", "JAGBCP"),
    Mistake(12, "diverge", "preference_implicit", IMPLICIT, {"chosen": "One two", "rejected": "Three four"},
            "rejected", "no common beginning", "JAGBCP"),
    Mistake(12, "diverge-hh", "hh_rlhf", HH, {**HH, "rejected": HH["rejected"].replace("A river", "A town")},
            "rejected", "part before their last answer", "JAGBP"),
    Mistake(12, "diverge-arena", "chatbot_arena", ARENA, {**ARENA, "conversation_b": [user("?"), assistant("a")]},
            "conversation_b", "part before their last answer", "JAGBP"),
    Mistake(12, "nothing-left", "preference_implicit", IMPLICIT, {"chosen": "你好", "rejected": "你好吗"}, "chosen",
            "nothing is left of it", "JAGBCP"),
    Mistake(13, "role", "messages", TALK, {"messages": [{"role": "human", "content": "a"}, assistant("b")]},
            "messages[0].role", 'did you mean "user"?', "JAGBP"),
    Mistake(13, "role-typo", "messages", TALK, {"messages": [user("a"), {"role": "asistant", "content": "b"}]},
            "messages[1].role", 'did you mean "assistant"?', "JAGBP"),
    Mistake(13, "role-tool", "messages", TALK, {"messages": [user("a"), {"role": "tool", "content": "b"}]},
            "messages[1].role", '"tool" is no role', "JAGBP"),
    Mistake(13, "role-null", "messages", TALK, {"messages": [{"role": None, "content": "a"}, assistant("b")]},
            "messages[0].role", "it is null", "JAGBP"),
    Mistake(13, "speaker", "sharegpt", SHAREGPT,
            {"conversations": [{"from": "humna", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "conversations[0].from", '"humna" is no role', "JAGBP"),
    Mistake(14, "two-in-a-row", "messages", TALK, {"messages": [user("a"), user("b"), assistant("c")]}, "messages[1]",
            "two turns of the user in a row", "JAGBP"),
    Mistake(14, "user-last", "messages", TALK, {"messages": [user("a"), assistant("b"), user("c")]}, "messages",
            "the last turn is not the assistant's", "JAGBP"),
    Mistake(14, "assistant-first", "messages", TALK, {"messages": [assistant("b")]}, "messages[0]",
            "the assistant speaks before the user", "JAGBP"),
    Mistake(14, "late-system", "messages", TALK,
            {"messages": [user("a"), {"role": "system", "content": "s"}, assistant("c")]}, "messages[1]",
            "the system message is not the first", "JAGBP"),
    Mistake(14, "no-turns", "messages", TALK, {"messages": []}, "messages", "the list of messages is empty", "JAGBP"),
    Mistake(14, "answered-prompt", "preference", CHAT, {**CHAT, "prompt": [user("a"), assistant("b")]}, "prompt",
            "the last turn is not the user's", "JAGBP"),
    Mistake(14, "user-last-hh", "hh_rlhf", HH, {**HH, "chosen": HH["chosen"] + "\n\nHuman: So?"}, "chosen",
            "the last turn is not the assistant's", "JAGBP"),
    Mistake(15, "not-all-ranked", "ranking", RANKING, {**RANKING, "ranking": [[0], [1]]}, "ranking",
            '"c2" stands nowhere in it', "JAGBP"),
    Mistake(15, "ranked-twice", "ranking", RANKING, {**RANKING, "ranking": [[0, 2], [1, 0]]}, "ranking",
            '"c0" stands twice in it', "JAGBP"),
    Mistake(15, "unknown-place", "ranking", RANKING, {**RANKING, "ranking": [[0, 2], [7]]}, "ranking",
            'names "7", which is no completion', "JAGBP"),
    Mistake(15, "unknown-item", "label_studio", LABELLED,
            {**LABELLED, "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["r", "x"]}}]}]},
            "annotations[0].result[0].value.ranker[1]", '"x", which is no item', "JAG"),
    Mistake(16, "one-completion", "ranking", RANKING, {**RANKING, "completions": ["a"], "ranking": [[0]]},
            "completions", "there are fewer than two", "JAGBP"),
    Mistake(16, "all-tied", "ranking", RANKING, {**RANKING, "ranking": [[0, 1, 2]]}, "ranking",
            "all completions are tied", "JAGBP"),
    Mistake(16, "one-answer", "nectar", NECTAR, {**NECTAR, "answers": NECTAR["answers"][:1]}, "answers",
            "there are fewer than 2", "JAGBP"),
    Mistake(17, "scores", "ranking", RANKING, {**RANKING, "ranking": [0.5, 0.1, 0.9]}, "ranking",
            "it holds scores, not ranks"),
    Mistake(17, "from-one", "ranking", RANKING, {**RANKING, "ranking": [[1, 3], [2]]}, "ranking",
            "it counts the completions from 1", "JAGBP"),
    Mistake(17, "rank-zero", "nectar", NECTAR,
            {**NECTAR, "answers": [{"answer": "a", "rank": 0.0}, {"answer": "b", "rank": 1.0}]}, "answers[0].rank",
            "not from 1 to 2", "JAG"),
    Mistake(17, "label-two", "shp", SHP, {**SHP, "labels": 2}, "labels", "none of 0, 1", "JAGBCP"),
    Mistake(17, "choice-two", "tldr", TLDR, {**TLDR, "choice": 2}, "choice", "none of 0, 1", "JAGBP"),
    Mistake(17, "rating-word", "ratings", RATINGS, {**RATINGS, "ratings": [["good"], [1]]}, "ratings[0][0]",
            "not a number", "JAGB"),
    Mistake(17, "too-few-ratings", "ratings", RATINGS, {**RATINGS, "ratings": [[4]]}, "ratings",
            "there are 1 for 2 completions", "JAGBP"),
    Mistake(17, "not-opposite", "webgpt", WEBGPT, {**WEBGPT, "score_1": 0.5}, "score_1", "not the opposite",
            "JAGBCP"),
    Mistake(17, "preference-nine", "helpsteer3", STEER3, {**STEER3, "overall_preference": 9}, "overall_preference",
            "not from -3 to 3", "JAGBP"),
    Mistake(17, "winner", "chatbot_arena", ARENA, {**ARENA, "winner": "model_c"}, "winner", '"model_c" is none of',
            "JAGBP"),
    Mistake(18, "contrary", "preference", PAIR, {**PAIR, "chosen": "Berlin.", "rejected": "The Rhine."}, "ranking",
            "ranked the other way round on line", "JAGBCP1"),
    Mistake(18, "contrary-hh", "hh_rlhf", HH, {"chosen": HH["rejected"], "rejected": HH["chosen"]}, "ranking",
            "ranked the other way round on line", "JAGBP"),
    Mistake(18, "contrary-k", "ranking", RANKING, {**RANKING, "ranking": [[1], [2, 0]]}, "ranking",
            "ranked the other way round on line", "JAGBP"),
    Mistake(18, "same-id", "preference", {**PAIR, "id": "x"}, {**PAIR, "id": "x"}, "id",
            "the id is also that of line", "JAGBCP"),
]
# fmt: on


def mistakes_in_rows() -> Iterator[Case]:
    for mistake in MISTAKES:
        for letter in mistake.containers:
            ending, write, line_of = CONTAINERS[letter]
            # An id stands once, but for the row whose mistake it is.
            last = {**mistake.good, "id": "y"} if "id" in mistake.good else mistake.good
            wrong = Wrong(line_of(2), mistake.field, mistake.says)
            name = f"row-{mistake.name}.{ending}"
            content = write([mistake.good, mistake.bad, last])
            yield Case(name, content, 3, 2, mistake.format, (wrong,), kind=mistake.kind)


GOOD = dumped(PAIR)


def nested(depth: int) -> bytes:
    """A row that is `depth` objects and lists deep, itself among them."""
    return GOOD[:-1] + b', "meta": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
