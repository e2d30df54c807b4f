"""What does the LLM judge do when the endpoint fails: try again, count, leave out, or stop in one sentence?"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from llm_stub import BAD, GOOD, KEY, NAN, PROMPTS, Stub, asking, completion, prefers_good, same

from pipeline.judges import llm
from pipeline.judges.judge import JudgeError
from pipeline.judges.llm import read_cache

ERRORS: dict[str, tuple[Any, ...]] = {
    "status 429": (429, b'{"error": "slow down"}'),
    "status 500": (500, b"oops"),
    "status 503": (503, b"<html>busy</html>"),
    "a reply that is not A, B or tie": (200, completion("I prefer A")),
    "a response that is no chat completion": (200, b"<html>hello</html>"),
}


@pytest.mark.parametrize("problem", ERRORS)
def test_a_failure_is_tried_again(stub: Stub, cache: Path, problem: str) -> None:
    """One pair, two questions, the very first attempt fails: three calls, two answers."""
    failed: list[str] = []

    def reply(text: str) -> Any:
        if not failed:
            failed.append(text)
            return ERRORS[problem]
        return prefers_good(text)

    stub.reply = reply
    judge = asking(stub, cache, concurrency=1)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [1.0])
    summary = judge.summary()
    assert (summary["calls"], summary["failures"], summary["problems"]) == (3, 0, {problem: 1})


@pytest.mark.parametrize("problem", ERRORS)
def test_a_failure_that_stays_is_counted_left_out_and_asked_again_next_time(
    stub: Stub, cache: Path, problem: str
) -> None:
    """The first pair's questions always fail (2 × 3 attempts); the second pair's are answered (2 calls)."""
    stub.reply = lambda text: ERRORS[problem] if "one?" in text else prefers_good(text)
    judge = asking(stub, cache)
    assert same(judge.outcomes(PROMPTS, GOOD, BAD), [NAN, 0.0])
    summary = judge.summary()
    assert (summary["calls"], summary["failures"], summary["problems"]) == (8, 2, {problem: 6})
    assert len(cache.read_text().splitlines()) == 2
    stub.reply = prefers_good
    assert same(asking(stub, cache).outcomes(PROMPTS, GOOD, BAD), [1.0, 0.0])


def test_one_order_without_an_answer_is_no_judgement(stub: Stub, cache: Path) -> None:
    stub.reply = lambda text: "A" if text.index("GOOD") < text.index("BAD") else (500, b"")
    judge = asking(stub, cache)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [NAN])
    assert judge.summary()["failures"] == 1


def test_a_timeout_is_tried_again_and_counted(stub: Stub, cache: Path) -> None:
    stub.reply = lambda text: (time.sleep(0.4), "A")[1]
    judge = asking(stub, cache, timeout=0.1, attempts=2)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [NAN])
    summary = judge.summary()
    assert (summary["calls"], summary["failures"], summary["problems"]) == (
        4,
        2,
        {"no whole answer within 0.1 s (compare.llm.timeout)": 4},
    )


def test_nobody_at_the_address(stub: Stub, cache: Path) -> None:
    judge = asking(stub, cache, attempts=2)
    stub.shutdown()
    stub.server_close()
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [NAN])
    (problem,) = judge.summary()["problems"]
    assert problem.startswith("ConnectError: ") and judge.summary()["problems"][problem] == 4


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"7",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": "A"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_no_shape_of_a_response_is_a_traceback(stub: Stub, cache: Path, body: bytes) -> None:
    stub.reply = lambda text: (200, body)
    judge = asking(stub, cache, attempts=1)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [NAN])
    assert judge.summary()["problems"] == {"a response that is no chat completion": 2}


def test_an_error_whose_body_is_odd_is_a_failure_too(stub: Stub, cache: Path) -> None:
    """huggingface_hub looks for "error" in the body as if it were an object."""
    stub.reply = lambda text: (500, b"[1]")
    judge = asking(stub, cache, attempts=1)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [NAN])
    assert judge.summary()["failures"] == 2


def test_a_reply_without_usage_counts_no_tokens(stub: Stub, cache: Path) -> None:
    body = json.loads(completion("tie"))
    del body["usage"]
    stub.reply = lambda text: (200, json.dumps(body).encode())
    judge = asking(stub, cache)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [0.5])
    assert judge.summary()["prompt_tokens"] == 0


def test_a_question_that_the_endpoint_cannot_take_is_not_repeated(stub: Stub, cache: Path) -> None:
    stub.reply = lambda text: (400, b'{"error": "too long"}')
    judge = asking(stub, cache)
    assert same(judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1]), [NAN])
    assert judge.summary()["calls"] == 2


def test_pauses_grow_and_obey_retry_after(stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wait 2: before the second attempt 2 s, or the 7 s asked for; before the third 4 s; never more than a minute."""
    waits: list[float] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name.startswith("ThreadPool"):
                waits.append(timeout or 0.0)
            return self.is_set()

    after = iter(["7", "nonsense", "", "1000"])
    monkeypatch.setattr(llm, "Event", Impatient)
    stub.reply = lambda text: (429, b"", {"Retry-After": next(after, "")})
    judge = asking(stub, cache, concurrency=1, wait=2.0)
    judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1])
    assert waits == [7.0, 4.0, 60.0, 4.0]


@pytest.mark.parametrize(("status", "remedy"), [(401, "api_key_env"), (403, "allowed"), (404, "base_url end in /v1")])
def test_a_refusal_stops_at_once_in_one_sentence(
    stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch, status: int, remedy: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    stub.reply = lambda text: (status, json.dumps({"error": f"no such key {KEY}"}).encode())
    judge = asking(stub, cache, api_key_env="JUDGE_KEY", concurrency=1)
    with pytest.raises(JudgeError, match=f"{status}.*{remedy}") as error:
        judge.outcomes([f"{n}?" for n in range(50)], ["x"] * 50, ["y"] * 50)
    assert KEY not in str(error.value) and "\n" not in str(error.value)
    assert len(stub.seen) == 1


def test_an_endpoint_that_answers_nothing_is_given_up(stub: Stub, cache: Path) -> None:
    """Twenty questions in a row; what was answered before is kept."""
    stub.reply = lambda text: prefers_good(text) if "one?" in text else (500, b"")
    judge = asking(stub, cache, attempts=1, concurrency=1)
    judge.outcomes(PROMPTS[:1], GOOD[:1], BAD[:1])
    with pytest.raises(JudgeError, match="20 questions in a row got no answer.*status 500.*answers.jsonl"):
        judge.outcomes([f"{n}?" for n in range(40)], ["x"] * 40, ["y"] * 40)
    assert len(stub.seen) - 2 == 20
    assert len(read_cache(cache)) == 2


def test_failures_between_answers_are_not_given_up(stub: Stub, cache: Path) -> None:
    """Every third question fails, 26 in all: never two in a row."""
    asked: list[str] = []
    stub.reply = lambda text: asked.append(text) or ("tie" if len(asked) % 3 else (500, b""))
    judge = asking(stub, cache, attempts=1, concurrency=1)
    judge.outcomes([f"{n}?" for n in range(39)], ["x"] * 39, ["y"] * 39)
    assert judge.summary()["failures"] == 26
