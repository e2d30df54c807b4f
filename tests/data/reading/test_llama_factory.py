"""Are entries of LLaMA-Factory's dataset_info.json read as it reads them, and refused where something would be lost?"""

import json
from pathlib import Path
from typing import Any

import pytest

from data.loading import Loaded, to_rows
from data.reading import llama_factory, sources
from data.reading.options import Options
from data.schema import DataError

ALPACA = [
    {"question": "Name a fruit.", "more": "A yellow one.", "answer": "A banana.", "rules": "Be brief."},
    {"question": "Count to two.", "more": "", "answer": "One, two.", "rules": ""},
]
COLUMNS = {"prompt": "question", "query": "more", "response": "answer", "system": "rules"}
SPOKEN = [{"talk": [{"who": "GUEST", "says": "Hi"}, {"who": "HOST", "says": "Hello!"}], "motto": "Be kind."}]
TAGS = {"role_tag": "who", "content_tag": "says", "user_tag": "GUEST", "assistant_tag": "HOST"}


def listing(folder: Path, rows: list[dict[str, Any]], name: str = "rows.json", **entry: Any) -> str:
    """A folder with these rows and a dataset_info.json that has `mine` and `other` in it; the source of `mine`."""
    (folder / name).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    info = {"other": {"file_name": "other.json"}, "mine": {"file_name": name, **entry}}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    return f"{folder}#mine"


def read(source: str, **options: Any) -> Loaded:
    return to_rows(source, Options(**options))


def problems_of(source: str) -> list[tuple[str, int | None, str, str]]:
    with pytest.raises(DataError) as caught:
        read(source)
    return [(Path(one.file).name, one.line, one.field, one.problem) for one in caught.value.problems]


@pytest.mark.parametrize("spelling", ["{}#mine", "{}/#mine", "{}/dataset_info.json#mine"])
def test_alpaca_with_columns(tmp_path, spelling: str) -> None:
    listing(tmp_path, ALPACA, columns=COLUMNS)
    loaded = read(spelling.format(tmp_path))
    assert (loaded.format, loaded.kind, loaded.read, loaded.account.used) == ("alpaca", "demonstrations", 2, 2)
    first, second = loaded.rows
    assert first.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a fruit.\n\nA yellow one."},
    ]
    assert (second.prompt, second.completion) == ("Count to two.", "One, two.")
    assert Path(first.source.rpartition(":")[0]) == tmp_path / "rows.json"


def test_without_columns_the_names_are_alpaca_s(tmp_path) -> None:
    """A system column is read only where the entry names it, as there."""
    rows = [{"instruction": "Add 1.", "input": "2", "output": "3", "system": "Ignored."}]
    (made,) = read(listing(tmp_path, rows)).rows
    assert (made.prompt, made.completion) == ("Add 1.\n\n2", "3")


def test_a_column_that_is_not_named_is_not_read(tmp_path) -> None:
    rows = [{"instruction": "Add 1.", "input": "2", "output": "3", "id": "x"}]
    (made,) = read(listing(tmp_path, rows, columns={"prompt": "instruction", "response": "output"})).rows
    assert (made.prompt, made.id) == ("Add 1.", f"{tmp_path}/rows.json:1")


def test_alpaca_ranking(tmp_path) -> None:
    rows = [{"instruction": "Name a fruit.", "input": "", "good": "An apple.", "bad": "A stone.", "output": "x"}]
    columns = {"prompt": "instruction", "query": "input", "chosen": "good", "rejected": "bad", "response": "output"}
    loaded = read(listing(tmp_path, rows, ranking=True, columns=columns))
    assert (loaded.format, loaded.kind) == ("alpaca_preference", "rankings")
    assert [one.text for one in loaded.rows[0].completions] == ["An apple.", "A stone."]


def test_plain_texts_to_go_on_training_with(tmp_path) -> None:
    """How their c4_demo is listed: the only column is the prompt, and it is what is learnt."""
    loaded = read(listing(tmp_path, [{"body": "A text."}], columns={"prompt": "body"}))
    assert (loaded.format, loaded.rows[0].prompt, loaded.rows[0].completion) == ("text", "", "A text.")


def test_sharegpt_with_tags(tmp_path) -> None:
    source = listing(
        tmp_path, SPOKEN, formatting="sharegpt", columns={"messages": "talk", "system": "motto"}, tags=TAGS
    )
    loaded = read(source)
    assert loaded.format == "sharegpt"
    assert loaded.rows[0].prompt == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert loaded.rows[0].completion == "Hello!"


def test_sharegpt_without_columns_or_tags(tmp_path) -> None:
    rows = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}]
    assert read(listing(tmp_path, rows, formatting="sharegpt")).rows[0].completion == "Hello!"


@pytest.mark.parametrize("formatting", ["sharegpt", "openai"])
def test_roles_and_contents(tmp_path, formatting: str) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    more = {"tags": tags} if formatting == "sharegpt" else {}
    loaded = read(listing(tmp_path, rows, formatting=formatting, columns={"messages": "messages"}, **more))
    assert (loaded.rows[0].prompt, loaded.rows[0].completion) == ([{"role": "user", "content": "Hi"}], "Hello!")


def test_sharegpt_ranking_with_tags(tmp_path) -> None:
    rows = [
        {"talk": SPOKEN[0]["talk"][:1], "yes": {"who": "HOST", "says": "Hello!"}, "no": {"who": "HOST", "says": "Go."}}
    ]
    columns = {"messages": "talk", "chosen": "yes", "rejected": "no"}
    loaded = read(listing(tmp_path, rows, formatting="sharegpt", ranking=True, columns=columns, tags=TAGS))
    assert loaded.format == "sharegpt_preference"
    assert [one.text for one in loaded.rows[0].completions] == ["Hello!", "Go."]


def test_mistakes_are_told_of_the_file_with_its_own_columns(tmp_path) -> None:
    bad = [{**ALPACA[0], "answer": ""}, {**ALPACA[1], "question": 3}, {"more": "", "answer": "x", "rules": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ALPACA, *bad]))
    info = {"mine": {"file_name": "rows.jsonl", "columns": COLUMNS}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert problems_of(f"{tmp_path}#mine") == [
        ("rows.jsonl", 3, "answer", "it is blank"),
        ("rows.jsonl", 4, "question", "it is a number, not a text"),
        ("rows.jsonl", 5, "question", "the key is missing"),
    ]


def test_mistakes_in_messages(tmp_path) -> None:
    rows = [{"talk": [{"who": "GUEST", "says": "Hi"}, {"who": "CAT", "says": "Mew"}]}]
    source = listing(tmp_path, rows, formatting="sharegpt", columns={"messages": "talk"}, tags=TAGS)
    assert problems_of(source) == [("rows.json", 1, "talk[1].from", '"CAT" is no role')]


def test_the_user_s_own_words_come_first(tmp_path) -> None:
    source = listing(tmp_path, ALPACA, columns=COLUMNS)
    assert read(source, columns={"output": "more"}, skip_bad=True).rows[0].completion == "A yellow one."
    made = read(
        source, columns={"prompt": "question", "completion": "rules"}, format="prompt_completion", skip_bad=True
    )
    assert (made.format, made.rows[0].prompt, made.rows[0].completion) == (
        "prompt_completion",
        "Name a fruit.",
        "Be brief.",
    )


def test_a_file_that_is_there_comes_before_an_entry(tmp_path) -> None:
    """A file whose name begins with # lies beside a listing."""
    listing(tmp_path, ALPACA)
    path = tmp_path / "#mine"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    assert read(str(path)).format == "prompt_completion"


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ({"hf_hub_url": "org/name"}, "org/name#train"),
        ({"hf_hub_url": "org/name", "subset": "en", "split": "test", "file_name": "rows.json"}, "org/name:en#test"),
        ({"hf_hub_url": "org/name", "ms_hub_url": "org/other", "revision": "v2"}, "org/name@v2#train"),
    ],
)
def test_the_hub(tmp_path, entry: dict[str, Any], source: str) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    found = llama_factory.find(f"{tmp_path}#mine")
    assert found is not None and found.source == source
    assert sources.HUB.fullmatch(source)


@pytest.mark.parametrize(
    ("entry", "field", "problem"),
    [
        ({"script_url": "loader"}, "mine.script_url", "loading scripts are not run"),
        ({"ms_hub_url": "org/name"}, "mine.ms_hub_url", "only the Hugging Face Hub and files are read"),
        ({"cloud_file_name": "s3://x/y"}, "mine.cloud_file_name", "only the Hugging Face Hub and files are read"),
        ({}, "mine.file_name", "the entry says nowhere where the rows lie"),
        ({"file_name": 3}, "mine.file_name", "it is a number, not a text"),
        ({"file_name": "row.json"}, "mine.file_name", 'there is no "row.json"'),
        ({"file_name": "rows.json", "num_samples": 5}, "mine.num_samples", "such a setting is not supported"),
        ({"file_name": "rows.json", "folder": "en"}, "mine.folder", "such a setting is not supported"),
        ({"file_name": "rows.json", "formatting": "chatml"}, "mine.formatting", "'chatml' is no formatting"),
        ({"file_name": "rows.json", "ranking": "yes"}, "mine.ranking", "it is a text, not true or false"),
        ({"file_name": "rows.json", "columns": ["a"]}, "mine.columns", "it is no object of texts"),
        ({"file_name": "rows.json", "tags": {"role_tag": 1}}, "mine.tags", "it is no object of texts"),
        ({"file_name": "rows.json", "columns": {"respons": "a"}}, "mine.columns.respons", "there is no such column"),
        ({"file_name": "rows.json", "columns": {"prompt": "a", "images": "b"}}, "mine.columns.images",
         "images cannot be learnt from here"),
        ({"file_name": "rows.json", "columns": {"prompt": "a", "query": "b"}}, "mine.columns.response",
         "the entry names no such column"),
        ({"file_name": "rows.json", "ranking": True}, "mine.columns.chosen",
         "the entry names no such column, but has ranking: true"),
        ("rows.json", "mine", "the entry is a text, not an object"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_used(tmp_path, entry: Any, field: str, problem: str) -> None:
    listing(tmp_path, ALPACA)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    assert problems_of(f"{tmp_path}#mine") == [("dataset_info.json", None, field, problem)]


@pytest.mark.parametrize(
    ("name", "problem", "fix"),
    [
        ("#mime", 'it lists no data set "mime"', 'did you mean "#mine"? (choose one: #other, #mine)'),
        ("#zebra", 'it lists no data set "zebra"', "choose one: #other, #mine"),
        ("", "none of its data sets is named", "choose one: #other, #mine"),
        ("/dataset_info.json", "none of its data sets is named", "choose one: #other, #mine"),
    ],
)
def test_an_unknown_name_lists_those_there_are(tmp_path, name: str, problem: str, fix: str) -> None:
    listing(tmp_path, ALPACA)
    with pytest.raises(DataError) as caught:
        read(f"{tmp_path}{name}")
    assert [(one.field, one.problem, one.fix) for one in caught.value.problems] == [("name", problem, fix)]


@pytest.mark.parametrize(
    ("content", "line", "field", "problem"),
    [
        (b"", 1, "line", "not JSON at column 1"),
        (b'{"mine": {},\n "other"}', 2, "line", "not JSON at column 9"),
        (b"[]", None, "file", "it lists no data sets"),
        (b"{}", None, "file", "it lists no data sets"),
        (b"\xff\xfe{}", None, "file", "it is not UTF-8"),
        (b"[" * 100_000, None, "file", "the JSON cannot be read"),
    ],
)
def test_a_listing_that_cannot_be_read(tmp_path, content: bytes, line: int | None, field: str, problem: str) -> None:
    (tmp_path / "dataset_info.json").write_bytes(content)
    assert problems_of(f"{tmp_path}#mine") == [("dataset_info.json", line, field, problem)]


def test_what_datasets_saved_is_no_listing(tmp_path) -> None:
    """save_to_disk writes a dataset_info.json of its own."""
    import datasets

    datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]).save_to_disk(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "dataset_info.json").is_file()
    assert sources.listed(str(tmp_path / "saved")) is None
    assert read(str(tmp_path / "saved")).format == "prompt_completion"


def test_reading_rows_alone(tmp_path) -> None:
    """`sources.read` gives the columns that are named, by their own names."""
    problems: list[Any] = []
    rows = [{**row, "secret": 1} for row in ALPACA]
    found = list(sources.read(listing(tmp_path, rows, columns=COLUMNS), problems))
    assert [row.row for row in found] == ALPACA and problems == []
