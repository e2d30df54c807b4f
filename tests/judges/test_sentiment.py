"""Is the Chinese judge learned from its own side alone, the same every time, and told for what it is?"""

import json
import random
from pathlib import Path

import pytest

from data.schema import Judgement
from pipeline.artifacts.run import Run
from pipeline.comparison.pairing import Opinion
from pipeline.judges import sentiment
from pipeline.judges.judge import JudgeError
from pipeline.judges.panel import called, opinions
from pipeline.report.exports import markdown
from pipeline.report.model_rows import quality
from pipeline.report.numbers import summarise
from pipeline.settings.config import Config
from pipeline.settings.outside import check_outside

LIKED, DISLIKED, FILLERS = "好棒喜欢", "差坏失望", "房间早餐书店电脑价格位置服务"


def reviews(count: int, name: str, wrong: int = 0) -> list[Judgement]:
    """Every other liked; of those `wrong` first labels the words say the contrary."""
    made = []
    for n in range(count):
        drawn = random.Random(f"{name}{n}")
        liked = n % 2 == 0
        said = LIKED if liked != (n < wrong) else DISLIKED
        text = "".join([*drawn.choices(FILLERS, k=2), *drawn.choices(said, k=3), *drawn.choices(FILLERS, k=4)])
        made.append(Judgement(f"{name}-{n}", text[:2], text[2:], liked, f"{name}.txt:{n}"))
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "r" / "data"
    folder.mkdir(parents=True)
    for side, rows in (("judge", reviews(120, "j")), ("eval", reviews(40, "e", wrong=4))):
        lines = [json.dumps(row.to_json(), ensure_ascii=False) for row in rows]
        (folder / f"judgements.{side}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Run("r", root=tmp_path)


def test_it_tells_liked_from_disliked_and_says_how_often(run: Run) -> None:
    """By hand: of 40 held-out reviews four have labels that their words deny, so 36 are right: 90%."""
    config = Config.model_validate({"data": {"source": "chinese_reviews"}})
    (judge,) = called(config, run)
    assert (judge.name, judge.label, judge.positive) == ("chinese_sentiment", "independent", 0.5)
    assert judge.scores is not None
    good, bad, of_prompt = judge.scores(["房间", "房间", "房间好棒"], ["喜欢好棒", "差坏失望", "喜"])
    assert 0 <= bad < 0.3 < 0.7 < good <= 1 and of_prompt > 0.5
    assert judge.scores([[{"role": "user", "content": "差坏失望"}]], ["喜欢好棒"])[0] > 0.7
    told = judge.summary()
    assert told["trained on"] == "120 reviews that no other stage saw"
    assert told["right on"].startswith("90.0% (76.9% to 96.0%) of 40 held-out reviews, each cut to the ")
    again = sentiment.judge(run)
    assert again.scores is not None and again.scores(["房间"], ["喜欢好棒"]) == judge.scores(["房间"], ["喜欢好棒"])


def test_its_accuracy_is_at_the_length_of_what_it_judged(run: Run) -> None:
    """Cut to two characters the held-out reviews are fillers alone, and nobody can be right on much more than half."""
    judge = sentiment.judge(run)
    assert judge.scores is not None
    assert judge.summary()["right on"].endswith("of 40 held-out reviews")
    judge.scores(["房"], ["间"])
    told = judge.summary()["right on"]
    assert "cut to the 2 characters" in told and float(told.split("%")[0]) < 75


def test_without_reviews_of_its_own_there_is_no_judge(run: Run) -> None:
    path = run.folder("data") / "judgements.judge.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(JudgeError, match="sets apart, and this run has none"):
        sentiment.judge(run)
    path.unlink()
    with pytest.raises(JudgeError, match=r"leave it out of compare\.judges"):
        sentiment.judge(run)


def test_other_data_have_no_such_judge_and_are_told_before_anything_starts() -> None:
    config = Config.model_validate({"compare": {"judges": ["chinese_sentiment"]}})
    with pytest.raises(
        Exception, match=r"chinese_sentiment learns from reviews that data\.source=chinese_reviews sets apart"
    ):
        check_outside(config, ["compare"])
    check_outside(Config.model_validate({"data": {"source": "chinese_reviews"}}), ["compare"])


def test_the_report_shows_the_share_of_positive_answers_beside_the_win_rate(run: Run) -> None:
    """sft is positive on 1 of 4 prompts, ppo on 3 of 4."""
    said = {"sft": ["喜欢好棒", "差坏失望", "失望失望", "坏差差"], "ppo": ["喜欢好棒", "好棒好棒", "好喜欢", "坏差差"]}
    samples = [
        {
            "prompt_id": f"p{n}", "prompt": "房间", "_prompt": "房间", "model": model, "completion": text, "length": 4,
            "eos": True, "seed": 0, "kl": 0.0, "scores": {}, "tokens": [1, 2, 3, 4],
        }
        for model, texts in said.items()
        for n, text in enumerate(texts)
    ]  # fmt: skip
    found, problems = opinions(samples, [sentiment.judge(run)], list(said))
    assert not problems
    for row in samples:
        row["scores"]["reward"] = 0.5
    report = summarise(samples, {"sft": {}, "ppo": {}}, [*found, Opinion("reward", "optimised")], provenance={})
    assert report.models["sft"].positive["chinese_sentiment"]["mean"] == 0.25
    share = report.models["ppo"].positive["chinese_sentiment"]
    assert share["mean"] == 0.75 and 0 <= share["low"] < 0.75 < share["high"] <= 1
    row = next(row for row in quality(report).rows if row.name == "positive by chinese_sentiment")
    assert [cell[0] for cell in row.cells] == ["75.0%", "25.0%"]
    text = markdown(report)
    assert "trained on 120 reviews that no other stage saw; right on " in text and "| 75.0% (" in text
