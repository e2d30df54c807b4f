"""Which lines of JSON are broken, and which only look so?"""

import json
from collections.abc import Iterator

from .outcome import Case, Wrong, accepted
from .rows import (
    ALPACA,
    ARENA,
    ASKED,
    BOM,
    CHAT,
    CONTAINERS,
    DEMO,
    GOOD,
    HH,
    IMPLICIT,
    LABELLED,
    NECTAR,
    PAIR,
    RANKING,
    RATINGS,
    SHAREGPT,
    SHP,
    STEER3,
    TALK,
    TLDR,
    ULTRA,
    WEBGPT,
    Row,
    array,
    dumped,
    lines,
    nested,
    rated,
)


def second_line(name: str, raw: bytes, field: str, says: str, kind: int = 1) -> Case:
    """A broken line between two sound ones."""
    content = GOOD + b"\n" + raw + b"\n" + GOOD + b"\n"
    return Case(f"line-{name}.jsonl", content, 3, 2, "preference", (Wrong(2, field, says),), kind=kind)


def broken_lines() -> Iterator[Case]:
    cut = "the JSON is cut off"
    for name, raw in {
        "in-a-text": b'{"prompt": "Name a ri',
        "in-a-key": b'{"prompt": "a", "cho',
        "after-a-comma": b'{"prompt": "a",',
        "after-a-colon": b'{"prompt":',
        "before-the-brace": GOOD[:-1],
        "in-an-escape": b'{"prompt": "a\\',
        "brace-alone": b"{",
    }.items():
        yield second_line(f"cut-{name}", raw, "line", cut)
    for name, raw, fix in [
        ("extra-brace", GOOD + b"}", "write one row a line"),
        ("two-objects", GOOD + b" " + GOOD, "write one row a line"),
        ("two-objects-close", GOOD + GOOD, "write one row a line"),
        ("object-comma", GOOD + b",", "write one row a line"),
        ("semicolon", GOOD + b";", "write one row a line"),
        ("trailing-comma", GOOD[:-1] + b", }", "take out the comma"),
        ("trailing-comma-list", GOOD[:-1] + b', "tags": ["a", ]}', "take out the comma"),
        ("comment-slashes", GOOD[:-1] + b" // the best }", "take the comment out"),
        ("comment-only", b"// rows of Tuesday", "take the comment out"),
        ("comment-hash", b"# rows of Tuesday", "take the comment out"),
        ("comment-block", b'{"prompt": /* which? */ "a"}', "take the comment out"),
        ("single-quotes", b"{'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}", "double quotes"),
        ("single-quoted-value", b"{\"prompt\": 'a'}", "double quotes"),
        ("python-true", GOOD[:-1] + b', "flag": True}', "true, false and null"),
        ("python-none", GOOD[:-1] + b', "flag": None}', "true, false and null"),
        ("bare-keys", b'{prompt: "a"}', "mend it"),
        ("missing-comma", b'{"prompt": "a" "chosen": "b"}', "mend it"),
        ("missing-colon", b'{"prompt" "a"}', "mend it"),
        ("missing-brace", GOOD[1:], "write one row a line"),
        ("leading-zero", GOOD[:-1] + b', "n": 012}', "mend it"),
        ("plus", GOOD[:-1] + b', "n": +1}', "mend it"),
        ("bare-point", GOOD[:-1] + b', "n": .5}', "mend it"),
        ("hex", GOOD[:-1] + b', "n": 0x1F}', "mend it"),
        ("undefined", GOOD[:-1] + b', "n": undefined}', "mend it"),
        ("capital-null", GOOD[:-1] + b', "n": NULL}', "mend it"),
        ("raw-tab", GOOD[:-1] + b', "n": "a\tb"}', r"\t"),
        ("raw-control", GOOD[:-1] + b', "n": "a\x01b"}', "not JSON"),
        ("raw-return", GOOD[:-1] + b', "n": "a\rb"}', r"\n"),
        ("raw-nul", b"".join([GOOD[:-1], b', "n": "', b"x" * 5000, b'\0"}']), "not JSON"),
        ("wrong-escape", GOOD[:-1] + b', "n": "C:\\new\\x"}', "backslash"),
        ("short-escape", GOOD[:-1] + b', "n": "\\u12"}', "mend it"),
        ("bom-inside", BOM + GOOD, "byte order mark"),
        ("record-separator", b"\x1e" + GOOD, "mend it"),
        ("ndjson-data", b"data: " + GOOD, "mend it"),
        ("tsv", b"Name a river.\tThe Rhine.\tBerlin.", "mend it"),
        ("csv", b"Name a river.,The Rhine.,Berlin.", "mend it"),
        ("xml", b"<row><prompt>a</prompt></row>", "mend it"),
        ("word", b"prompt", "mend it"),
    ]:
        yield second_line(name, raw, "line", fix)
    for name, raw, says in [
        ("a-list", b'["a", "b"]', "the row is a list"),
        ("a-text", b'"a"', "the row is a text"),
        ("a-number", b"17", "the row is a number"),
        ("null", b"null", "the row is null"),
        ("true", b"true", "the row is true or false"),
        ("nan-alone", b"NaN", "the row is a number"),
    ]:
        yield second_line(name, raw, "line", says, 9)
    for name, raw, field in [
        ("nan", GOOD[:-1] + b', "score": NaN}', "score"),
        ("infinity", GOOD[:-1] + b', "score": [1, Infinity]}', "score[1]"),
        ("minus-infinity", GOOD[:-1] + b', "score": {"a": -Infinity}}', "score.a"),
        ("too-large", GOOD[:-1] + b', "score": 1e400}', "score"),
        ("too-small", GOOD[:-1] + b', "score": -1e400}', "score"),
    ]:
        yield second_line(name, raw, field, "the number is not finite", 17)
    yield second_line(
        "too-many-digits", GOOD[:-1] + b', "n": ' + b"9" * 5000 + b"}", "line", "more than 4300 digits", 17
    )
    for name, raw, field in [
        ("half-pair", GOOD[:-1] + b', "n": "\\ud83d"}', "n"),
        ("wrong-half", GOOD[:-1] + b', "n": "\\udc00\\ud83d"}', "n"),
        ("half-pair-key", GOOD[:-1] + b', "\\ud83d": "a"}', "line"),
        ("half-pair-prompt", b'{"prompt": "a\\udfff", "chosen": "b", "rejected": "c"}', "prompt"),
    ]:
        yield second_line(name, raw, field, "key is not text" if field == "line" else "half a surrogate pair", 4)
    for name, raw in {
        "latin-1": '{"prompt": "Wo fließt er?"}'.encode("latin-1"),
        "windows": b'{"prompt": "it\x92s"}',
        "gbk": '{"prompt": "河"}'.encode("gbk"),
        "overlong": b'{"prompt": "\xc0\x80"}',
        "surrogate-bytes": b'{"prompt": "\xed\xa0\xbd\xed\xb8\x80"}',
        "beyond-unicode": b'{"prompt": "\xf4\x90\x80\x80"}',
        "cut-character": '{"prompt": "河'.encode()[:-1],
        "lone-continuation": b'{"prompt": "\x80"}',
    }.items():
        yield second_line(f"not-utf8-{name}", raw, "line", "is not UTF-8", 4)
    for name, raw, field in [
        ("twice", b'{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}', "prompt"),
        ("twice-the-same", b'{"prompt": "a", "prompt": "a", "chosen": "c", "rejected": "d"}', "prompt"),
        ("thrice", b'{"prompt":"a","prompt":"b","prompt":"c","chosen":"c","rejected":"d"}', "prompt"),
        ("twice-spaced", b'{"prompt" : "a", "prompt": "b", "chosen": "c", "rejected": "d"}', "prompt"),
        ("twice-tabbed", b'{"prompt"\t:"a","prompt":"b","chosen":"c","rejected":"d"}', "prompt"),
        ("twice-escaped", b'{"prompt": "a", "\\u0070rompt": "b", "chosen": "c", "rejected": "d"}', "prompt"),
        ("twice-inside", GOOD[:-1] + b', "meta": {"n": 1, "n": 2}}', "n"),
        ("twice-deep", GOOD[:-1] + b', "meta": [[{"a": {"n": 1, "n": 2}}]]}', "n"),
        ("twice-colon-text", b'{"prompt": ":", "prompt": ":)", "chosen": "c", "rejected": "d"}', "prompt"),
        ("twice-quoted-colon", b'{"prompt": "\\":", "chosen": "c", "rejected": "d", "rejected": "e"}', "rejected"),
        ("twice-backslash", b'{"a\\\\": 1, "prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}', "prompt"),
        ("twice-backslash-key", GOOD[:-1] + b', "a\\\\": 1, "a\\\\": 2}', "a\\"),
        ("twice-empty-key", GOOD[:-1] + b', "": 1, "": 2}', ""),
    ]:
        yield second_line(name, raw, field, "the key stands twice", 20)
    for depth in (201, 1000, 100_000):
        yield second_line(f"deep-{depth}", nested(depth), "line", "nested more than 200 deep", 9)
    yield second_line(
        "deep-objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "line", "nested more than 200 deep", 9
    )


def with_text(text: str) -> bytes:
    """Rows that hold `text` in the prompt, as it is and in escapes."""
    return dumped({**PAIR, "prompt": text}) + b"\n" + json.dumps({**PAIR, "prompt": text + "2"}).encode()


def sound_lines() -> Iterator[Case]:
    yield accepted("sound-bare.jsonl", GOOD)
    yield accepted("sound-newline.jsonl", GOOD + b"\n")
    yield accepted("sound-bom.jsonl", BOM + GOOD + b"\n")
    yield accepted("sound-crlf.jsonl", GOOD + b"\r\n" + GOOD + b"\r\n", 2)
    yield accepted("sound-mixed-ends.jsonl", GOOD + b"\r\n" + GOOD + b"\n" + GOOD, 3)
    yield accepted("sound-blank-lines.jsonl", b"\n\r\n \t\n" + GOOD + b"\n\n\n" + GOOD + b"\n  \n", 2)
    yield accepted("sound-bom-blank.jsonl", BOM + b"\n" + GOOD + b"\n")
    yield accepted("sound-indented.jsonl", b"  " + GOOD + b"  \n\t" + GOOD + b"\t\n", 2)
    yield accepted("sound-5000-blank-lines.jsonl", b"\n" * 5000 + GOOD)
    yield accepted("sound-compact.jsonl", json.dumps(PAIR, separators=(",", ":")).encode() + b"\n")
    yield accepted("sound-spaced.jsonl", b'{ "prompt" : "a" , "chosen" : "b" , "rejected" : "c" }\n')
    for name in ("sound-named.csv", "sound-named.json", "sound-named.txt", "sound-named", "sound-named.parquet"):
        yield accepted(name, lines([PAIR, PAIR]), 2)
    for name, text in {
        "chinese": "你好，世界",
        "arabic": "اذكر نهرًا",
        "hebrew-marks": "\u200fשלום\u202e abc\u202c",
        "combining": "\u0301 e\u0301 \u0300\u0301\u0302",
        "lone-combining": "\u0303",
        "emoji": "👩\u200d👩\u200d👧 \U0001f3f4\U000e0067\U000e0062",
        "line-separators": "a\u2028b\u2029c\u0085d",
        "nul": "a\u0000b",
        "controls": "a\u0001\u001b[31m\u007f\u009f",
        "bom-in-text": "a\ufeffb",
        "noncharacters": "\ufffe\uffff\U0010ffff",
        "private": "\ue000\U000f0000",
        "replacement": "\ufffd",
        "quotes": 'say "hi": \\"',
        "backslashes": "C:\\new\\",
        "colon": '": ":',
        "html": "<script>alert(1)</script> &amp; &#x41;",
        "braces": '{"prompt": "a"}',
        "none": "None",
        "na": "NA",
        "nan": "NaN",
        "zero": "0",
        "long": "river " * 200_000,
    }.items():
        yield accepted(f"text-{name}.jsonl", with_text(text), 2)
    yield accepted("text-spaces-around.jsonl", with_text("  \n a river \t "), 2)
    for name, value in {
        "minus-zero": b"-0",
        "minus-zero-float": b"-0.0",
        "zero": b"0.0",
        "exponent": b"1E5",
        "tiny": b"1e-400",
        "large": b"18446744073709551616",
        "64-bit": b"18446744073709551615",
        "minus-64-bit": b"-9223372036854775809",
        "4000-digits": b"9" * 4000,
        "many-decimals": b"0." + b"3" * 400,
        "null": b"null",
        "list": b"[]",
        "object": b"{}",
        "numbers": b"[" + b"1.5, " * 20_000 + b"0]",
        "empty-key": b'{"": {"": 0}}',
    }.items():
        yield accepted(f"beside-{name}.jsonl", GOOD + b"\n" + GOOD[:-1] + b', "meta": ' + value + b"}\n", 2)
    keys = b", ".join(b'"key%d": %d' % (n, n) for n in range(100_000))
    yield accepted("beside-100000-keys.jsonl", GOOD + b"\n" + GOOD[:-1] + b", " + keys + b"}\n", 2)
    answers = [f"answer {n}" for n in range(20_000)]
    long = {"prompt": "p", "completions": answers, "ranking": [[n] for n in range(20_000)]}
    yield accepted("many-completions.jsonl", dumped(long), 1, "ranking")
    yield accepted("many-turns.jsonl", dumped({"messages": TALK["messages"] * 5000}), 1, "messages")
    yield accepted("beside-case.jsonl", GOOD[:-1] + b', "PROMPT": 1, "Length": 2}\n')
    yield accepted("beside-composed.jsonl", GOOD[:-1] + ', "é": 1, "e\u0301": 2}\n'.encode())
    yield accepted("beside-deep.jsonl", GOOD + b"\n" + nested(200), 2)
    yield accepted("repeated-rows.jsonl", GOOD + b"\n" + GOOD + b"\n" + GOOD, 3)
    yield accepted("greeting-returned.jsonl", lines([{"prompt": "Hello", "chosen": "Hello you", "rejected": "No"}]))
    yield accepted(
        "two-annotators.jsonl",
        lines(
            [
                {**PAIR, "annotator": "x"},
                {"prompt": PAIR["prompt"], "chosen": "Berlin.", "rejected": "The Rhine.", "annotator": "y"},
            ]
        ),
        2,
    )
    for name, row in {
        "preference": CHAT, "ranking": RANKING, "prompt_completion": DEMO, "messages": TALK, "prompt": ASKED,
        "preference_implicit": IMPLICIT, "hh_rlhf": HH, "ultrafeedback": ULTRA, "shp": SHP, "nectar": NECTAR,
        "webgpt": WEBGPT, "helpsteer3": STEER3, "chatbot_arena": ARENA, "ratings": RATINGS, "alpaca": ALPACA,
        "sharegpt": SHAREGPT, "tldr": TLDR, "label_studio": LABELLED,
    }.items():  # fmt: skip
        for letter in "JA1GBP":
            if letter == "P" and name in ("ratings",):
                continue
            ending, write, _ = CONTAINERS[letter]
            yield accepted(f"format-{name}.{ending}", write([row, row, row]), 3, name)
    yield accepted(
        "tied-webgpt.jsonl", lines([WEBGPT, {**WEBGPT, "score_0": 0, "score_1": 0}]), 2, "webgpt", left_out=1
    )
    yield accepted(
        "tied-arena.jsonl", lines([ARENA, {**ARENA, "winner": "tie (bothbad)"}]), 2, "chatbot_arena", left_out=1
    )
    yield accepted(
        "tied-steer.jsonl", lines([STEER3, {**STEER3, "overall_preference": 0}]), 2, "helpsteer3", left_out=1
    )
    unrated = {**ULTRA, "completions": [rated("a", "Rhine", 8.0)]}
    yield accepted("unrated-ultra.jsonl", lines([ULTRA, unrated]), 2, "ultrafeedback", left_out=1)
    cancelled = {**LABELLED, "annotations": [{**LABELLED["annotations"][0], "was_cancelled": True}]}
    yield accepted("cancelled.json", array([LABELLED, cancelled]), 2, "label_studio", left_out=1)
    yield accepted("tree.jsonl", lines(tree()), 4, "openassistant", left_out=1, kept=1)


def tree() -> list[Row]:
    """A question with two answers, ranked the second first, and a question after the better one that nobody answered."""
    said = [
        ("q", None, "prompter", None),
        ("a", "q", "assistant", 1),
        ("b", "q", "assistant", 0),
        ("c", "b", "prompter", None),
    ]
    return [
        {"message_id": name, "parent_id": parent, "text": f"Text {name}", "role": role, "rank": rank, "deleted": False}
        for name, parent, role, rank in said
    ]
