"""Do slices keep prompts whole, name themselves honestly and claim nothing when they are small?"""

from typing import Any

import pytest

from pipeline import statistics
from pipeline.report.slices import (
    SLICINGS,
    by_language,
    by_prompt_length,
    by_source,
    by_tag,
    slice_win_rates,
)
from pipeline.rows.published import source_of


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"prompt_id": f"{fields.get('tag', '')}{i}", "prompt": "Why?"} | fields for i in range(count)]


def test_each_slice_has_its_own_win_rate() -> None:
    """12 prompts of tag x, a winning 9; 4 of tag y, a winning none: below 10 prompts no interval, but a name and a
    count.
    """
    given = [*rows(12, tag="x"), *rows(4, tag="y")]
    a, b = [1.0] * 9 + [0.0] * 7, [0.5] * 16
    found = slice_win_rates(given, a, b, by_tag, draws=200)
    assert list(found) == ["x", "y"]
    alone = statistics.win_rate(a[:12], b[:12], [row["prompt_id"] for row in given[:12]], draws=200)
    assert found["x"] == {**alone, "samples": 12} and alone["win_rate"] == 0.75
    assert (found["y"]["losses"], found["y"]["win_rate"], found["y"]["prompts"]) == (4, 0.0, 4)
    assert found["y"]["low"] is None and found["y"]["high"] is None


@pytest.mark.parametrize(("prompts", "claimed"), [(9, False), (10, True)])
def test_prompts_count_and_not_samples(prompts: int, claimed: bool) -> None:
    """Three samples a prompt: 27 samples of 9 prompts allow no interval, 30 of 10 do."""
    given = rows(prompts) * 3
    found = slice_win_rates(given, [1.0] * len(given), [0.0] * len(given), by_tag, draws=20)["no tag"]
    assert (found["samples"], found["prompts"]) == (3 * prompts, prompts)
    assert (found["low"] is not None) == claimed


def test_counts_of_slices_add_up_to_the_whole() -> None:
    given = [*rows(5, tag="x", source="m"), *rows(5, tag="y", source="m"), *rows(3, tag="z", source="n")]
    a, b = [float(i % 3) for i in range(13)], [1.0] * 13
    for slicing in SLICINGS.values():
        found = slice_win_rates(given, a, b, slicing, draws=20)
        assert sum(float(s[kind] or 0) for s in found.values() for kind in ("wins", "ties", "losses")) == 13


def test_tag_and_source_may_be_missing() -> None:
    given: list[dict[str, Any]] = [
        {"prompt_id": "1", "prompt": ""},
        {"prompt_id": "2", "prompt": "", "tag": None, "source": "reviews"},
    ]
    assert by_tag(given) == ["no tag", "no tag"]
    assert by_source(given) == ["no source", "reviews"]


def test_terciles_are_over_prompts_and_named_by_their_range() -> None:
    """Six prompts of 1 to 6 characters, the longest sampled ten times: quantiles at 1/3 and 2/3 are 2.67, 4.33."""
    given = [{"prompt_id": str(n), "prompt": "x" * n} for n in [1, 2, 3, 4, 5, 6, *[6] * 9]]
    names = by_prompt_length(given)
    short, middle, long = "short: 1 to 2 characters", "middle: 3 to 4 characters", "long: 5 to 6 characters"
    assert names[:6] == [short, short, middle, middle, long, long] and set(names[6:]) == {long}


def test_prompts_of_one_length_share_a_slice() -> None:
    given = [{"prompt_id": str(n), "prompt": "same"} for n in range(9)]
    assert set(by_prompt_length(given)) == {"short: 4 to 4 characters"}
    assert by_prompt_length([]) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("The film was", "Latin script"),
        ("Привет, how are you doing", "Latin script"),
        ("这部电影 is good 但是太长了", "Han script"),
        ("この映画は本当に良い作品です", "Japanese script"),
        ("日本語文章作成技術の本", "Japanese script"),
        ("안녕하세요", "Korean script"),
        ("Как дела?", "Cyrillic script"),
        ("12 + 7 = ?", "no letters"),
        ("", "no letters"),
        ("ᚠᚢᚦ", "another script"),
    ],
)
def test_a_script_stands_in_for_an_unknown_language(text: str, name: str) -> None:
    assert by_language([{"prompt": text}]) == [name]
    assert by_language([{"prompt": text, "language": "eo"}]) == ["eo"]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("a/b.jsonl:12", "a/b.jsonl"),
        ("org/name:config@main#train:3", "org/name:config@main#train"),
        ("my_data:rows:0", "my_data:rows"),
        ("reviews.txt", "reviews.txt"),
    ],
)
def test_all_lines_of_a_file_are_one_source(place: str, source: str) -> None:
    assert source_of(place) == source


def test_a_prompt_belongs_to_one_slice() -> None:
    given = [{"prompt_id": "p", "prompt": "", "tag": "x"}, {"prompt_id": "p", "prompt": "", "tag": "y"}]
    with pytest.raises(ValueError, match="'p' is in the slices 'x' and 'y'"):
        slice_win_rates(given, [1.0, 1.0], [0.0, 0.0], by_tag)


def test_one_slice_a_sample() -> None:
    with pytest.raises(ValueError, match="1 slices, 2 rows"):
        slice_win_rates(rows(2), [1.0, 1.0], [0.0, 0.0], lambda given: ["x"])
