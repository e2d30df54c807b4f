"""Does the LLM judge pay once for each question, and never more than it may?"""

import threading
from pathlib import Path

import pytest
from llm_stub import BAD, GOOD, NAN, PROMPTS, Stub, asking, prefers_good, same

from pipeline.judges import llm
from pipeline.judges.judge import JudgeError
from pipeline.judges.llm import TEMPLATE, Question


def test_asking_again_costs_nothing(stub: Stub, cache: Path) -> None:
    """The same judge, another one on the same file, and the models the other way round."""
    stub.reply = prefers_good
    first = asking(stub, cache)
    first.outcomes(PROMPTS, GOOD, BAD)
    assert first.summary()["cache_hits"] == 0
    assert same(first.outcomes(PROMPTS, GOOD, BAD), [1.0, 0.0])
    again = asking(stub, cache)
    assert same(again.outcomes(PROMPTS, BAD, GOOD), [0.0, 1.0])
    assert (again.summary()["calls"], again.summary()["cache_hits"]) == (0, 4)
    assert len(stub.seen) == 4


def test_another_model_prompt_answer_or_template_is_asked(
    stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking(stub, cache).outcomes(["p"], ["x"], ["y"])
    for model, prompt, a in (("other", "p", "x"), ("m", "q", "x"), ("m", "p", "z")):
        judge = asking(stub, cache, model=model)
        judge.outcomes([prompt], [a], ["y"])
        assert judge.summary()["calls"] == 2
    monkeypatch.setattr(llm, "TEMPLATE", TEMPLATE + " ")
    judge = asking(stub, cache)
    judge.outcomes(["p"], ["x"], ["y"])
    assert judge.summary()["calls"] == 2


def test_texts_that_run_into_each_other_are_other_questions() -> None:
    assert Question("p", "ab", "c").key("m") != Question("p", "a", "bc").key("m")
    assert Question("p", "a", "b").key("m") != Question("p", "b", "a").key("m")


def test_a_run_that_was_stopped_goes_on(stub: Stub, cache: Path) -> None:
    """Three answers, then a refusal; the rest of eight questions is asked later, those three are not."""
    count = iter(range(100))
    stub.reply = lambda text: "tie" if next(count) < 3 else (401, b"")
    asked = ([f"{n}?" for n in range(4)], ["x"] * 4, ["y"] * 4)
    with pytest.raises(JudgeError):
        asking(stub, cache, concurrency=1).outcomes(*asked)
    stub.reply = lambda text: "tie"
    judge = asking(stub, cache)
    assert same(judge.outcomes(*asked), [0.5] * 4)
    assert (judge.summary()["calls"], judge.summary()["cache_hits"]) == (5, 3)


def test_a_line_cut_off_by_a_kill_is_asked_again(stub: Stub, cache: Path) -> None:
    stub.reply = prefers_good
    asking(stub, cache).outcomes(PROMPTS, GOOD, BAD)
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-7])
    judge = asking(stub, cache)
    assert same(judge.outcomes(PROMPTS, GOOD, BAD), [1.0, 0.0])
    assert judge.summary()["calls"] == 1
    assert sorted(cache.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize(
    "line",
    ["nonsense", "7", '{"key": "k"}', '{"key": "k", "winner": "C"}', '{"winner": "A"}', '{"key": "k", "winner": []}'],
)
def test_a_damaged_line_is_told_and_the_others_are_kept(
    stub: Stub, cache: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    cache.parent.mkdir()
    rows = '{"key": "k", "winner": "A"}\n' + line + '\n{"key": "m", "winner": "B"}\n'
    cache.write_text(rows)  # as former versions wrote it, without hashes
    asking(stub, cache)
    assert f"{cache}: row 2 is not as it was written" in capsys.readouterr().err
    assert llm.read_cache(cache) == {"k": "A", "m": "B"} and capsys.readouterr().err == ""
    assert cache.with_name(f"{cache.name}.broken").read_text() == rows


def test_an_answer_that_was_changed_is_asked_again(stub: Stub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub.reply = prefers_good
    asking(stub, cache).outcomes(PROMPTS, GOOD, BAD)
    whole = cache.read_text()
    cache.write_text(whole.replace('"winner": "A"', '"winner": "B"', 1))
    judge = asking(stub, cache)
    assert same(judge.outcomes(PROMPTS, GOOD, BAD), [1.0, 0.0]) and judge.summary()["calls"] == 1
    assert sorted(cache.read_text().splitlines()) == sorted(whole.splitlines()) and "row" in capsys.readouterr().err


def test_max_calls_bounds_the_requests(stub: Stub, cache: Path) -> None:
    """Three of four questions: the second pair lacks one order. Another run asks for that alone."""
    stub.reply = prefers_good
    judge = asking(stub, cache, max_calls=3, concurrency=1)
    assert same(judge.outcomes(PROMPTS, GOOD, BAD), [1.0, NAN])
    summary = judge.summary()
    assert (len(stub.seen), summary["calls"], summary["not_asked"], summary["failures"]) == (3, 3, 1, 0)
    assert same(asking(stub, cache, max_calls=1).outcomes(PROMPTS, GOOD, BAD), [1.0, 0.0])
    assert len(stub.seen) == 4


def test_repeated_attempts_count_against_max_calls(stub: Stub, cache: Path) -> None:
    stub.reply = lambda text: (500, b"")
    judge = asking(stub, cache, max_calls=2, concurrency=1)
    judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1])
    assert (len(stub.seen), judge.summary()["failures"], judge.summary()["not_asked"]) == (2, 1, 1)


def test_questions_are_asked_at_the_same_time(stub: Stub, cache: Path) -> None:
    """Each reply waits for a second request beside it: one at a time, none would ever be answered."""
    meeting = threading.Barrier(2, timeout=5)
    stub.reply = lambda text: (meeting.wait(), "tie")[1]
    assert same(asking(stub, cache, concurrency=2).outcomes(PROMPTS, GOOD, BAD), [0.5, 0.5])
