"""Do data-check and stage data say the same of a file, row by row, and how to go on?"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checking import lines

from data.schema import DataError
from pipeline.data_check import check as data_check
from pipeline.data_check import readable
from pipeline.data_check.tally import Tally
from pipeline.rows import gather
from pipeline.stages import data as stage

GOOD = [
    {"prompt": f"Which number comes after {n}?", "chosen": f"It is {n + 1}.", "rejected": f"It is {n}."}
    for n in range(9)
]
TALK = [{"role": "user", "content": "Hi"}]
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
)
Both = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def both(tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Both:
    """What data-check finds, and what stage data says: nothing where it goes on."""
    monkeypatch.chdir(tmp_path)

    def judge(rows: list[Any], *settings: str, template: str | None = None) -> tuple[dict[str, Any], str]:
        lines(tmp_path / "mine.jsonl", rows)
        tokenizer = tiny_tokenizer
        if template is not None:
            monkeypatch.setattr(tokenizer, "chat_template", template)
        monkeypatch.setattr(
            readable, "tokenizer_of", lambda config, model: (tokenizer, {"name": "tiny", "problem": ""})
        )
        config = data_check.configured("mine.jsonl", settings)
        found = data_check.check(config)
        try:
            _, counts, rejects = stage.refined(gather.own(config.data), tokenizer, config)
        except DataError as error:
            assert not found["sound"]
            assert [(p.line, p.field, p.problem) for p in error.problems] == [
                (e["line"], e["field"], e["problem"]) for e in found["errors"]
            ]
            return found, str(error)
        assert found["sound"], found["errors"]
        assert sum(found["rejected"].values()) + found["left_out"].get("too_long", 0) == len(rejects)
        return found, ""

    return judge


BAD: dict[str, tuple[Any, str]] = {
    "control tokens": ({"prompt": "Say<|im_end|> it.", "chosen": "Yes.", "rejected": "No."}, "control token"),
    "in an answer": ({"prompt": TALK, "chosen": "Yes.<|end|>", "rejected": "No."}, "control token"),
    "no room": ({"prompt": "why " * 40, "chosen": "Yes.", "rejected": "No."}, "leaves no room"),
    "blank": ({"prompt": "Why?", "chosen": "Yes.", "rejected": " "}, "it is blank"),
    "other way round": (
        {"prompt": "Which number comes after 3?", "chosen": "It is 3.", "rejected": "It is 4."},
        "the other way",
    ),
    "once cleaned": (
        {"prompt": "Which number comes after 3?", "chosen": "It is \x003.", "rejected": "It is 4.\x07"},
        "the other way round",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_told_by_both_with_the_way_on(both: Both, name: str) -> None:
    row, says = BAD[name]
    found, told = both([*GOOD, row], "max_length=128")
    assert "mine.jsonl:10: " in told and says in told
    assert told.splitlines()[-1] == "set data.skip_bad=true to set this 1 of 10 rows aside"
    assert found["aside"] == [1, 10] and found["kept"] == 9
    found, told = both([*GOOD, row], "max_length=128", "skip_bad=true")
    assert told == "" and sum(found["rejected"].values()) == 1


def test_what_the_chat_template_refuses_is_told_by_both(both: Both) -> None:
    row = {"prompt": [{"role": "system", "content": "Be brief."}, *TALK], "chosen": "Yes.", "rejected": "No."}
    found, told = both([*GOOD, row, GOOD[0] | {"system": "Be kind."}], template=NO_SYSTEM)
    assert "mine.jsonl:10: prompt: the tokenizer's chat template refuses" in told and "mine.jsonl:11: " in told
    assert told.endswith("set data.skip_bad=true to set these 2 of 11 rows aside")
    assert found["kept"] == 9


def test_no_room_may_be_dropped(both: Both) -> None:
    found, told = both([*GOOD, BAD["no room"][0]], "max_length=128", "clean.too_long=drop")
    assert told == "" and found["kept"] == 9


def test_control_tokens_may_be_stripped_or_kept(both: Both) -> None:
    row = {"prompt": "Say <|im_<|im_end|>end|>it.", "chosen": "Yes.<|end|>", "rejected": "No."}
    found, told = both([row], "special_tokens=strip")
    assert told == "" and found["samples"][0]["texts"][0]["text"].startswith("Say it.Yes.")
    assert both([row], "special_tokens=keep")[1] == ""


def test_answers_that_are_equal_are_left_out_by_name(both: Both) -> None:
    """Cleaning makes two texts one, and so does a cut."""
    rows = [
        {"prompt": "Say it.", "chosen": "Y\x00es.", "rejected": "Yes."},
        {"prompt": "Say more.", "chosen": "long " * 60 + "a", "rejected": "long " * 60 + "b"},
    ]
    found, told = both([*GOOD, *rows], "max_length=128")
    assert told == "" and found["kept"] == 9
    assert found["left_out"] == {"answers equal once cleaned": 1, "answers equal once cut to max_length": 1}


def test_duplicates_are_found_after_cleaning(both: Both) -> None:
    again = {key: f"{text}\x00" for key, text in GOOD[0].items()}
    assert both([*GOOD, again])[0]["duplicates"]["rows"] == 1


def test_prompts_alone_are_no_judgement(both: Both, tmp_path: Path) -> None:
    found, told = both([{"prompt": row["prompt"]} for row in GOOD])
    assert not found["sound"] and "no judgement found" in told
    lines(tmp_path / "good.jsonl", [{"prompt": row["prompt"], "completion": row["chosen"]} for row in GOOD])
    assert both([{"prompt": row["prompt"]} for row in GOOD], "demonstrations=good.jsonl")[1] == ""


def test_the_whole_file_is_judged_and_not_a_sample(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one bad row lies beyond what is drawn for the figures."""
    monkeypatch.setattr(data_check, "Tally", partial(Tally, 2))
    assert "mine.jsonl:10: " in both([*GOOD, BAD["no room"][0]], "max_length=128")[1]
