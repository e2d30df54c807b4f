"""Does stage data publish the Chinese reviews as they were split, with the judge's apart, and tell all that it leaves out?"""

from pathlib import Path
from typing import Any

import pytest
from own_rows import Stage, checks, said

from data import chinese_reviews
from data.chinese_reviews import Found, LeftOut, Review
from data.refining.clean import Steps
from pipeline.rows import gather
from pipeline.stages import data as prepare

OPENINGS = ("房间", "早餐", "这本", "屏幕")
"""The tests' tokenizer tells no Chinese characters apart, so that the rests are of letters."""


@pytest.fixture
def reviews(monkeypatch: pytest.MonkeyPatch) -> list[Review]:
    made = [
        Review(
            f"r-{n}",
            OPENINGS[n % 4] + said("review", n),
            n // 4 % 2 == 0,
            f"pos.txt:{n}",
        )
        for n in range(160)
    ]
    found = Found(made, [LeftOut("电话", "neg.txt", 7, "why")], {"lines": 165, "repeats": 4, "why": 1, "reviews": 160})
    monkeypatch.setattr(gather, "chinese_archive", lambda: Path("none"))
    monkeypatch.setattr(chinese_reviews, "load", lambda archive: found)
    return made


def test_every_file_holds_its_side(stage: Stage, reviews: list[Review]) -> None:
    manifest, files = stage(source="chinese_reviews", eval_fraction=0.2)
    split = chinese_reviews.sides(reviews, eval_fraction=0.2, judge_fraction=0.2, seed=0)
    rows, counts = chinese_reviews.build(split, seed=0)
    for (kind, side), made in rows.items():
        assert files[f"{kind}.{side}"] == [row.to_json() for row in made] and (made or kind == "prompts")
        assert manifest.data[f"{kind}.{side}"]["rows"] == len(made)
    assert checks(manifest)["prompts seen on both sides"] == ("pass", 0)
    assert manifest.data["counts"].items() >= (counts | {"read": 165, "repeats": 4, "left_out (why)": 1}).items()
    assert files["rejects"] == [{"row": {"text": "电话"}, "file": "neg.txt", "line": 7, "reason": "why"}]
    assert "chinese_reviews: format chinese_reviews" in Path("runs/r/data/samples.md").read_text()


@pytest.mark.parametrize("other", ["eval", "judge"])
def test_a_review_that_two_sides_see_fails_the_gate(
    stage: Stage, reviews: list[Review], monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Though the row of the judge is whole and the other is cut."""
    right = chinese_reviews.sides
    long = Review("r-999", "这本很好。然后就是很长很长的一段话没有句号", True, "pos.txt:999")

    def leaking(*arguments: Any, **settings: Any) -> dict[str, list[Review]]:
        split = right(*arguments, **settings)
        return {**split, "train": [*split["train"], long], other: [*split[other], long]}

    monkeypatch.setattr(chinese_reviews, "sides", leaking)
    monkeypatch.setattr(prepare, "steps", lambda settings: Steps(duplicates=False))
    manifest, _ = stage(source="chinese_reviews", chinese_reviews={"max_characters": 12})
    assert checks(manifest)["prompts seen on both sides"][0] == "fail"


def test_what_is_pretrained_on_is_the_training_side_alone(
    reviews: list[Review], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.settings.config import Config

    config = Config.model_validate({"data": {"source": "film_reviews", "eval_fraction": 0.2}, "seed": 5})
    split = chinese_reviews.sides(reviews, eval_fraction=0.2, judge_fraction=0.2, seed=5)
    train, held_out = gather.chinese_texts(config)
    assert train == [one.text for one in split["train"]] and held_out == [one.text for one in split["eval"]]
