"""Is a newcomer's first prompt answered with what is wrong with it, and a prompt of the run's own kind left alone?"""

import pytest

from data.schema import Prompt
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.inspect import asking
from pipeline.language import retold, spoken
from pipeline.settings.config import Config

OPENINGS = ["The film often", "A warm, funny,", "It is a", "Too long by", "There's no real"] * 8


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    held_out = [Prompt(f"p{i}", text, "f:1") for i, text in enumerate(OPENINGS)]
    monkeypatch.setattr(asking, "prompts", lambda run, side: held_out)
    return Run("demo")


def test_a_prompt_unlike_the_runs_is_told_with_some_of_theirs(run: Run) -> None:
    told, some = asking.advice(run, "Write a review.")
    assert "unlike those of run demo: it ends as a sentence does, which 0% of theirs do" in told
    assert "CHAT=1" in told and len(some) == 5 and set(some) <= set(OPENINGS)
    told = asking.advice(run, "Please write me a long review")[0]
    assert "is far longer than any of them (words: 6, theirs all 3)" in told
    assert "is far shorter" in asking.advice(run, "Film")[0]


def test_a_chinese_prompt_is_measured_by_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ["这部电影的", "房间很干净", "服务态度真的", "iPhone 用起来"] * 8
    monkeypatch.setattr(
        asking, "prompts", lambda run, side: [Prompt(f"p{i}", one, "f:1") for i, one in enumerate(theirs)]
    )
    assert asking.advice(Run("demo"), "这本书非常") == ("", [])
    told = asking.advice(Run("demo"), "请你给我写一段长一点的酒店评论。”")[0]
    assert "is far longer than any of them (characters: 15, theirs 4 to 6)" in told
    assert "ends as a sentence does" in told


@pytest.mark.parametrize("prompt", ["A story that", "The film often", "The film"])
def test_a_prompt_of_their_kind_is_left_alone(run: Run, prompt: str) -> None:
    assert asking.advice(run, prompt) == ("", [])


def test_chat_makes_a_message_of_a_text_and_not_of_a_held_out_prompt(run: Run) -> None:
    assert asking.find_prompt(run, "Hi", chat=True) == ("Hi", [{"role": "user", "content": "Hi"}])
    assert asking.find_prompt(run, "p1", chat=True) == ("p1", "A warm, funny,")
    told, _ = asking.advice(run, [{"role": "user", "content": "Hi"}])
    assert "is a conversation" in told and "CHAT=1" not in told


def test_it_can_be_told_again_in_chinese(run: Run) -> None:
    told, _ = asking.advice(
        run,
        "The film was long and dull and went on and on, and nobody laughed at all, not even once or twice, I think.",
    )
    with spoken("zh"):
        assert retold(told).startswith(f"这个提示与运行 {run.name} 的提示不同：它")
        assert "；" in retold(told) and "The" not in retold(told)


def test_what_no_verifier_can_check_is_told_with_what_the_run_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of one's own has no row, so no answer and no tests; a prompt of the run has, and so has what needs none."""
    own = [
        Prompt("p0", "1+2=", "f:1", columns={"answer": "3"}),
        Prompt("p1", [{"role": "user", "content": "2+2"}], "f:2"),
    ]
    monkeypatch.setattr(asking, "prompts", lambda run, side: own)
    monkeypatch.setattr(
        asking, "columns_of", lambda run: lambda asked: {"answer": ["3" if asked == ["1+2="] else None]}
    )
    config = Config.model_validate({"ppo": {"reward_funcs": ["reward.verifiers:number"]}})
    asking.check_checkable(config, Run("sums"), "1+2=")
    with pytest.raises(ArtifactError) as told:
        asking.check_checkable(config, Run("sums"), "what is 1 and 2?")
    assert str(told.value) == (
        "inspect: reward.verifiers:number cannot check an answer to this prompt: it has no answer; ask what run sums asks, "
        "as its text or id, such as '1+2=', 'p1'"
    )
    asking.check_checkable(Config.model_validate({"ppo": {"reward_funcs": ["reward"]}}), Run("sums"), "anything")
    both = Config.model_validate(
        {"ppo": {"reward_funcs": ["reward.verifiers:number", "reward.verifiers:python_tests"]}}
    )
    with pytest.raises(ArtifactError, match="number cannot .* no answer, and .*python_tests cannot .* no tests; ask"):
        asking.check_checkable(both, Run("sums"), "what is 1 and 2?")
