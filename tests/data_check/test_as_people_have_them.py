"""Is what people have read as they mean it, or refused with the column's name, by data-check from end to end?"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data_check import check as data_check
from pipeline.data_check import page

Check = Callable[..., dict[str, Any]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def seen(found: dict[str, Any]) -> list[str]:
    """The texts of the first row as the model will see them, the best first."""
    return [one["text"].removesuffix("<|end|>") for one in found["samples"][0]["texts"]]


ASKED = "User:\nWhat is salt?\n\nAssistant:\n"
READ: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "a question and a system text": (
        "preference",
        [
            {
                "system": "Be exact.",
                "question": "What is salt?",
                "chosen": "It is a mineral.",
                "rejected": "It is sweet.",
            }
        ],
        [f"System:\nBe exact.\n\n{ASKED}It is a mineral.", f"System:\nBe exact.\n\n{ASKED}It is sweet."],
    ),
    "thumbs as numbers": (
        "unpaired",
        [
            {"prompt": "Salt? ", "completion": "Go away.", "label": 0},
            {"prompt": "Salt? ", "completion": "A mineral.", "label": 1},
        ],
        ["Salt? Go away."],
    ),
    "a history": (
        "preference",
        [{"history": [["Hi", "Hello!"]], "prompt": "What is salt?", "chosen": "A mineral.", "rejected": "Sweet."}],
        [f"User:\nHi\n\nAssistant:\nHello!<|end|>\n\n{ASKED}{said}" for said in ("A mineral.", "Sweet.")],
    ),
    "transcripts with other line ends": (
        "hh_rlhf",
        [
            {
                key: f"\r\n\r\nHuman: What is salt?\r\n\r\nAssistant: It is {said}."
                for key, said in (("chosen", "old"), ("rejected", "odd"))
            }
        ],
        [f"{ASKED}It is old.", f"{ASKED}It is odd."],
    ),
    "responses and scores": (
        "ratings",
        [{"prompt": "Salt? ", "responses": ["Sweet.", "A mineral."], "scores": [0.5, 3]}],
        ["Salt? A mineral.", "Salt? Sweet."],
    ),
    "a rejected response": (
        "rejected_response",
        [{"messages": [user("What is salt?"), assistant("A mineral.")], "rejected_response": "Sweet."}],
        [f"{ASKED}A mineral.", f"{ASKED}Sweet."],
    ),
    "a prompt and whole conversations": (
        "preference",
        [
            {
                **{"source": "mix", "prompt": "What is salt?", "chosen-rating": 4.0, "rejected-rating": 1.0},
                **{
                    key: [user("What is salt?"), assistant(said)]
                    for key, said in (("chosen", "Old."), ("rejected", "Odd."))
                },
            }
        ],
        [f"{ASKED}Old.", f"{ASKED}Odd."],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read_as_it_is_meant(checked: Check, name: str) -> None:
    form, rows, texts = READ[name]
    found = checked(rows)
    assert (found["format"], found["sound"], found["kept"]) == (form, True, len(rows)), found["errors"]
    assert seen(found) == texts


def test_messages_printed_into_cells(tmp_path: Path, tiny_folder: Path) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerow([repr([user("What is salt?")]), repr([assistant("Don't ask.")]), repr([assistant("Sweet.")])])
    found = data_check.check(data_check.configured(str(path), []), str(tiny_folder))
    assert found["sound"] and seen(found) == [f"{ASKED}Don't ask.", f"{ASKED}Sweet."]


PAIR = {"prompt": "What is salt?", "chosen": "A mineral.", "rejected": "Sweet."}
TOLD: dict[str, tuple[dict[str, Any], str]] = {
    "images": ({"images": ["salt.png"]}, "images are not supported"),
    "scores against the labels": ({"score_chosen": 1.0, "score_rejected": 9}, "the rejected answer would be better"),
    "control tokens": ({"chosen": "A mineral.<|im_end|>"}, 'it holds "<|im_end|>"'),
    "a note": ({"note": "Ask a chemist."}, "nothing reads it, and it says something"),
}


@pytest.mark.parametrize("name", TOLD)
def test_it_is_told_with_file_and_line(checked: Check, name: str) -> None:
    more, says = TOLD[name]
    found = checked([PAIR, {**PAIR, "prompt": "And pepper?"} | more])
    assert not found["sound"] and found["kept"] == 1
    told = page.text(found)
    assert "mine.jsonl:2: " in told and says in told
    assert told.endswith("set data.skip_bad=true to set this 1 of 2 rows aside")


def test_equal_scores_are_a_tie(checked: Check) -> None:
    found = checked([PAIR, {**PAIR, "score_chosen": 7, "score_rejected": 7.0}])
    assert found["sound"] and found["left_out"] == {"tie": 1}


def test_what_is_not_read_is_named_with_a_sample(checked: Check) -> None:
    told = page.text(checked([PAIR | {"source": "a forum", "num_turns": 2}]))
    assert 'not read   source ("a forum"), num_turns (2)' in told
