"""Does data-check count what is in the data as pencil and paper do?"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checking import KEYS, PAIRS, lines

from pipeline.data_check import check as data_check
from pipeline.data_check import page as data_check_page
from pipeline.settings.config import ConfigError


def test_the_figures_are_those_of_pencil_and_paper(checked: Callable[..., dict[str, Any]]) -> None:
    """Lengths in characters: prompts 20, 20, 25, 25; completions with EOS 17, 6, 9, 12, 6, 24, 6, 24.

    Sorted 6 6 6 9 12 17 24 24: median 10.5, 95% up to the eighth. The longer one is better in the first pair only.
    At 40 tokens 20 + 24 and 25 + 24 do not fit but 20 + 17 does: two completions lose their end.
    """
    found = checked(PAIRS, "max_length=40")
    assert found.keys() >= KEYS and found["sound"]
    assert (found["format"], found["kind"], found["read"], found["kept"]) == ("preference", "rankings", 4, 4)
    assert "chosen is better" in found["polarity"]
    assert found["k"] == {"2": 4} and found["ties"] == {"rankings": 0, "pairs": 0, "of_pairs": 4}
    lengths = found["lengths"]
    assert (lengths["prompt"]["median"], lengths["prompt"]["p95"], lengths["prompt"]["max"]) == (22.5, 25, 25)
    assert lengths["prompt"]["histogram"] == [[16, 31, 4]]
    assert (lengths["completion"]["median"], lengths["completion"]["p95"]) == (10.5, 24)
    assert lengths["completion"]["histogram"] == [[4, 7, 3], [8, 15, 2], [16, 31, 3]]
    assert (lengths["cut"], lengths["completions"], lengths["no_room"], lengths["refused"]) == (2, 8, 0, 0)
    wins = found["longer_wins"]
    assert (wins["longer"], wins["pairs"], wins["win_rate"]) == (1, 4, 0.25)
    assert found["duplicates"] == {"rows": 1, "of": 4, "prompts": 2, "prompts_again": 2}
    assert found["contradictions"] == {"rejected": 0, "between_annotators": 0}
    assert found["sample"] == {"rows": 4, "of": 4, "seed": 0}
    assert found["samples"][0]["texts"][0] == {
        "what": "chosen",
        "tokens": 37,
        "text": "What is two and two?Four, of course.<|end|>",
        "answer_at": 20,
    }


def test_reverse_turns_the_pairs_round(checked: Callable[..., dict[str, Any]]) -> None:
    found = checked(PAIRS, "reverse=true")
    assert found["longer_wins"]["win_rate"] == 0.75 and "reversed by request" in found["polarity"]
    assert found["samples"][0]["texts"][0]["text"] == "What is two and two?Five.<|end|>"


def test_a_prompt_without_room_and_answers_alike_after_the_cut_are_counted(
    checked: Callable[..., dict[str, Any]],
) -> None:
    """max_length 16 leaves a prompt 14, a token and EOS taken off. Beside 12 tokens only "same" is seen of both."""
    rows = [
        {"prompt": "x" * 15, "chosen": "a", "rejected": "b"},
        {"prompt": "y" * 14, "chosen": "a", "rejected": "b"},
        {"prompt": "z" * 12, "chosen": "same, yes", "rejected": "same, no"},
    ]
    lengths = checked(rows, "max_length=16")["lengths"]
    assert (lengths["no_room"], lengths["equal_after_cut"], lengths["cut"]) == (1, 1, 4)


def test_where_nothing_usable_is_left_it_is_not_sound(checked: Callable[..., dict[str, Any]]) -> None:
    """Two ties leave no ranking; of two prompts with room for neither nothing can be trained; with one that fits it can."""
    tie = {"question": "q", "answer_0": "a", "answer_1": "b", "score_0": 0, "score_1": 0}
    found = checked([tie, tie])
    assert (found["kept"], found["left_out"], found["sound"]) == (0, {"tie": 2}, False)
    assert [(error["field"], error["problem"]) for error in found["errors"]] == [
        ("rows", "none is left of 2 (2 × tie)")
    ]
    rows = [{"prompt": letter * 15, "chosen": "a", "rejected": "b"} for letter in "xy"]
    found = checked(rows, "max_length=16")
    assert not found["sound"] and "leaves no room within max_length 16" in found["errors"][0]["problem"]
    assert (found["kept"], found["aside"]) == (0, None) and "leaves no room" in data_check_page.text(found)
    found = checked([*rows, {"prompt": "z", "chosen": "a", "rejected": "b"}], "max_length=16")
    assert (found["sound"], found["kept"], found["aside"]) == (False, 1, [2, 3])
    assert data_check_page.text(found).endswith("set data.skip_bad=true to set these 2 of 3 rows aside")


def test_ties_annotators_and_agreement(checked: Callable[..., dict[str, Any]]) -> None:
    """Two people on one item: A: 0 > 1 = 2, B: 0 > 1 > 2: two pairs alike, one tied."""
    row = {"prompt": "Which is best?", "completions": ["one", "two", "three"]}
    rows = [
        row | {"ranking": [[0], [1, 2]], "annotator": "A"},
        row | {"ranking": [[0], [1], [2]], "annotator": "B"},
        {"prompt": "other", "completions": ["y", "z"], "ranking": [[0], [1]]},
    ]
    found = checked(rows)
    assert found["k"] == {"2": 1, "3": 2}
    assert found["ties"] == {"rankings": 1, "pairs": 1, "of_pairs": 7}
    assert found["annotators"]["annotators"] == 2 and found["annotators"]["rows_without"] == 1
    assert found["annotators"]["busiest"] == {"A": 1, "B": 1}
    assert (found["agreement"]["items"], found["agreement"]["pairwise"], found["agreement"]["tied"]) == (1, 1.0, 1)
    told = data_check_page.text(found)
    assert "100.0% of pairs put in the same order, 1 tied ones aside" in told


def test_contradictions_are_rejected_and_counted(checked: Callable[..., dict[str, Any]]) -> None:
    turned = {"prompt": PAIRS[0]["prompt"], "chosen": PAIRS[0]["rejected"], "rejected": PAIRS[0]["chosen"]}
    found = checked([*PAIRS, turned])
    assert not found["sound"] and found["contradictions"]["rejected"] == 1
    assert (found["read"], found["kept"], sum(found["rejected"].values())) == (5, 4, 1)
    assert [error["line"] for error in found["errors"]] == [5]
    assert found["k"] == {"2": 4}


def test_the_same_id_twice_is_no_contradiction(checked: Callable[..., dict[str, Any]]) -> None:
    found = checked([row | {"id": "same"} for row in PAIRS[:2]])
    assert found["contradictions"]["rejected"] == 0 and found["kept"] == 1


def test_near_duplicates_and_languages(checked: Callable[..., dict[str, Any]]) -> None:
    english = "Could you please tell me how the weather is going to be in the mountains tomorrow"
    chinese = "请你告诉我明天山里的天气会怎么样，我们打算一大早就出发去爬山，需要带雨伞吗？"
    rows = [
        {"prompt": f"{english}?", "completion": "Sunny."},
        {"prompt": f"{english}!", "completion": "Sunny."},
        {"prompt": chinese, "completion": "晴。"},
    ]
    found = checked(rows)
    assert found["k"] == {} and found["ties"] is found["agreement"] is found["longer_wins"] is None
    near = found["near_duplicates"]
    assert (near["prompts"]["near"], near["prompts"]["different"], near["prompts"]["largest"]) == (1, 3, 2)
    assert near["examples"] and near["rows"]["near"] == 1
    assert found["languages"]["prompts"] == {"en": 2, "zh": 1}
    assert found["languages"]["completions"] == {"too short to tell": 3}
    short = checked(
        [{"prompt": "这部电影", "completion": "真的非常非常好看"}, {"prompt": "This film", "completion": "is great"}]
    )
    assert short["languages"]["completions"] == {"too short to tell": 1, "zh": 1}


def test_held_out_prompts_that_training_resembles_are_counted(checked: Callable[..., dict[str, Any]]) -> None:
    """Forty prompts that differ by a digit or two: whatever the split holds out has its like in training, unless it is
    told to keep what is alike together."""
    words = "a question about the colour of the sky on a fine day in the month of may, number"
    rows = [{"prompt": f"{words} {n}?"} for n in range(40)]
    apart = checked(rows, "split_similarity=null", "eval_fraction=0.25")["overlap"]
    assert apart["train_prompts"] + apart["eval_prompts"] == 40 and apart["eval_prompts"] == 10
    assert apart["exact"] == 0 and apart["near"] == 10 and len(apart["examples"]) == 3


def test_rows_beside_the_source_are_checked_too(checked: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    lines(tmp_path / "demos.jsonl", [{"prompt": "Hello?", "completion": "Hi."}, {"prompt": "Hello?"}])
    found = checked(PAIRS, "demonstrations=demos.jsonl")
    assert not found["sound"] and found["rejected"] == {}
    beside = found["beside"]["demonstrations"]
    assert (beside["format"], beside["read"], beside["kept"]) == ("prompt_completion", 2, 1)
    assert found["errors"][0]["file"] == "demos.jsonl" and found["errors"][0]["line"] == 2
    assert found["overlap"]["train_prompts"] + found["overlap"]["eval_prompts"] == 3


def test_rows_of_the_wrong_kind_beside_the_source_are_a_problem(
    checked: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    lines(tmp_path / "demos.jsonl", PAIRS)
    found = checked(PAIRS, "demonstrations=demos.jsonl")
    assert [error["field"] for error in found["errors"]] == ["data.demonstrations"] and not found["sound"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("formt=shp", "did you mean data.format?"),
        ("max_length=short", "max_length"),
        ("columns=[1]", "columns"),
        ("reverse", "not key=value"),
    ],
)
def test_a_wrong_setting_is_told(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        data_check.configured("mine.jsonl", [setting])


def test_settings_are_those_of_the_data_section() -> None:
    config = data_check.configured('my "own".jsonl', ["columns={prompt: question}", "data.max_length=64", "seed=3"])
    assert config.data.source == 'my "own".jsonl' and config.data.columns == {"prompt": "question"}
    assert (config.data.max_length, config.seed) == (64, 3)


def test_the_same_data_give_the_same_figures(checked: Callable[..., dict[str, Any]]) -> None:
    random_ = random.Random(5)
    rows = [{"prompt": f"q {random_.random()}", "completion": f"a {random_.random()}"} for _ in range(50)]
    assert checked(rows) == checked(rows)
