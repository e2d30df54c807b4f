"""What does an endpoint that is broken or hostile do to the LLM judge? Nothing but a pair without a judgement, or one sentence, in time."""

import gzip
import json
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from stranger import Answer, Stranger, response, says, sends, stranger, without_end

from pipeline.judges import llm
from pipeline.judges.endpoint import Endpoint
from pipeline.judges.judge import JudgeError

KEY = "CANARY-of-the-endpoint-4711"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TIMEOUT, PATIENCE = 0.2, 8.0  # seconds of one request; of a case, two questions on a machine that is shared
MEMORY = 200 * 1024  # KB that a case may add to the largest size of this process

IN_TIME: dict[str, Answer] = {
    "never answers": lambda connection: time.sleep(9),
    "a byte of the body at a time, length told": without_end(
        b" ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", pause=0.05
    ),
    "a byte of a header at a time": without_end(b"x", b"HTTP/1.1 200 OK\r\nX: ", pause=0.05),
    "a header at a time": without_end(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n", pause=0.05),
    "a byte of the status at a time": without_end(b"0", b"HTTP/1.1 2", pause=0.05),
    "a chunk of one byte at a time": without_end(b"1\r\n \r\n", CHUNKED, pause=0.05),
    "100 Continue without end": without_end(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "103 Early Hints without end": without_end(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100),
    "102 Processing, slowly": without_end(b"HTTP/1.1 102 Processing\r\n\r\n", pause=0.05),
    "headers, then silence": lambda connection: (connection.sendall(CHUNKED), time.sleep(9))[1],
}
BIG = b'{"choices": [' + b" " * (1 << 20)
SIZES: dict[str, Answer] = {
    "a body without end": without_end(b" " * 65536, b"HTTP/1.1 200 OK\r\n\r\n"),
    "chunks without end": without_end(b"10000\r\n" + b" " * 65536 + b"\r\n", CHUNKED),
    "6 GB told": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 6000000000\r\n\r\n" + b" " * (3 << 20)),
    "more than the limit": sends(response(BIG)),
    "a gzip bomb": sends(response(gzip.compress(b" " * (64 << 20)), "Content-Encoding: gzip")),
    "a gzip bomb in a gzip bomb": sends(
        response(gzip.compress(gzip.compress(b" " * (64 << 20))), "Content-Encoding: gzip, gzip")
    ),
    "a deflate bomb": sends(response(zlib.compress(b" " * (64 << 20)), "Content-Encoding: deflate")),
    "a header of a MB": sends(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"),
    "headers without end": without_end(b"X: y\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"),
    "a status line without end": without_end(b"2" * 65536, b"HTTP/1.1 "),
}
WRONG: dict[str, Answer] = {
    "broken gzip": sends(response(b"\x1f\x8b\x08nonsense", "Content-Encoding: gzip")),
    "brotli": sends(response(b"\x8b\x0f", "Content-Encoding: br")),
    "zstd": sends(response(b"\x28\xb5\x2f\xfd", "Content-Encoding: zstd")),
    "HTTP/0.9": sends(b"A"),
    "nothing": sends(),
    "half of the status": sends(b"HTTP/1."),
    "half of a header": sends(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "half of the body": sends(response(says("A"))[:-20]),
    "a chunk that is none": sends(CHUNKED + b"ZZ\r\nA\r\n"),
    "a chunk of negative length": sends(CHUNKED + b"-5\r\nA\r\n"),
    "a chunk of 2^80 bytes": sends(CHUNKED + b"f" * 20 + b"\r\nA\r\n"),
    "chunks cut off": sends(CHUNKED + b"5\r\nA"),
    "two lengths": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nAAAAA"),
    "a length that is none": sends(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nA"),
    "a negative length": sends(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nA"),
    "an SSH server": sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "HTML": sends(response(b"<html><script>alert(1)</script></html>", "Content-Type: text/html")),
    "204": sends(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "101": sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "status 999": sends(response(b"", status="999 What")),
    "JSON 100,000 deep": sends(response(b"[" * 100_000 + b"]" * 100_000)),
    "a number of 10^5 digits": sends(response(b"9" * 100_000)),
    "NUL bytes": sends(response(b"\0" * 100)),
    "NaN": sends(response(says("A").replace(b'"A"', b"NaN"))),
    "1e999": sends(response(says("A").replace(b'"A"', b"1e999"))),
    "a list of texts": sends(response(says(["A"]))),
    "a lone surrogate": sends(response(says("\ud800"))),
    "escapes for a terminal": sends(response(says("\x1b]0;owned\x07\x1b[2JA"))),
    "HTML in the reply": sends(response(says("<img src=x onerror=alert(1)>A"))),
    "two winners": sends(response(says('{"winner": "A", "winner": "B"}'))),
    "the key": sends(response(says(f"A {KEY}"))),
    "an error with the key in base64": sends(response(KEY.encode() * 9, status="500 Oops")),
    "Retry-After a year": sends(response(b"", "Retry-After: 31536000", status="400 No")),
    "Retry-After 10^400": sends(response(b"", "Retry-After: " + "9" * 400, status="400 No")),
}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("JUDGE_KEY", KEY)


def asked(base_url: str, cache: Path, **changes: Any) -> tuple[Any, dict[str, Any], float]:
    """(outcome, or the sentence of a JudgeError; the summary; KB that this took)."""
    settings: dict[str, Any] = {"attempts": 1, "timeout": TIMEOUT, "wait": 0.001, "api_key_env": "JUDGE_KEY"} | changes
    judge = llm.judge(Endpoint(base_url, "m", **settings), cache)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        outcome: Any = judge.outcomes(["p"], ["x"], ["y"])[0]
    except JudgeError as error:
        outcome = str(error)
    assert time.monotonic() - began < PATIENCE, "it hung"
    written = outcome if isinstance(outcome, str) else ""
    written += json.dumps(judge.summary()) + (cache.read_text() if cache.is_file() else "")
    assert KEY not in written and "\x1b" not in written and "<" not in written
    return outcome, judge.summary(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


@pytest.mark.parametrize("answers", [IN_TIME, SIZES, WRONG], ids=["time", "size", "form"])
def test_an_answer_that_is_none(
    tally: Callable[[str], Any], answers: dict[str, Answer], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No judgement, in time, in little memory, with a problem that says what and, where there is a limit, which setting."""
    limit = {id(IN_TIME): "compare.llm.timeout", id(SIZES): ""}.get(id(answers), "")
    with tally("hostile") as cases:
        for number, (name, answer) in enumerate(answers.items()):
            with cases(name), stranger(answer) as server:
                outcome, summary, memory = asked(server.base_url, tmp_path / f"{number}.jsonl")
                assert np.isnan(outcome), outcome
                assert summary["failures"] == 2 and all(limit in problem for problem in summary["problems"])
                assert memory < MEMORY
    assert KEY not in "".join(capfd.readouterr())


def test_a_limit_of_size_is_named_and_can_be_raised(tally: Callable[[str], Any], tmp_path: Path) -> None:
    with tally("hostile") as cases:
        with cases("named"), stranger(SIZES["more than the limit"]) as server:
            assert list(asked(server.base_url, tmp_path / "a")[1]["problems"]) == ["an answer of more than 1024 KB (compare.llm.max_answer_kb)"]  # fmt: skip
        with cases("raised"), stranger(sends(response(says("tie") + b" " * (2 << 20)))) as server:
            assert asked(server.base_url, tmp_path / "b", max_answer_kb=4096, timeout=5.0)[0] == 0.5
        with cases("packed"), stranger(sends(response(gzip.compress(says("tie")), "Content-Encoding: gzip"))) as server:
            assert asked(server.base_url, tmp_path / "c", timeout=5.0)[0] == 0.5


@pytest.mark.parametrize("proxied", [False, True], ids=["", "proxies in the environment"])
def test_questions_and_key_go_nowhere_else(
    tally: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    """Whatever the status and wherever a redirect leads, and no proxy stands before this machine itself."""
    with stranger(sends(response(says("A")))) as other, tally("hostile") as cases:
        if proxied:
            for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, other.base_url.removesuffix("/v1"))
        targets = [f"{other.base_url}/chat/completions?k={KEY}", "//evil.example/x", "https://me:pw@evil.example/", "\x1b[2J", "/v1/chat/completions"]  # fmt: skip
        for status in ("301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"):
            for target in targets[: 1 if proxied else None]:
                again = sends(response(b"", f"Location: {target}", status=status))
                with cases(f"{status} to {target!r}"), stranger(again) as server:
                    outcome, _, _ = asked(server.base_url, tmp_path / "x")
                    assert isinstance(outcome, str) and "a redirect" in outcome and "compare.llm.base_url" in outcome
                    assert "pw" not in outcome and not other.seen and len(server.seen) <= 2


def test_addresses_where_nobody_answers(tally: Callable[[str], Any], tmp_path: Path) -> None:
    """No such host, no TLS, nobody there, a listener that accepts nothing: a problem that says what the system says."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, stranger(sends(b"no TLS\r\n")) as plain, tally("hostile") as cases:  # fmt: skip
        port, closed = deaf.getsockname()[1], socket.create_server(("127.0.0.1", 0))
        gone = closed.getsockname()[1]
        closed.close()
        for base_url in (
            f"http://127.0.0.1:{gone}/v1",
            f"http://127.0.0.1:{port}/v1",
            f"https://127.0.0.1:{port}/v1",
            plain.base_url.replace("http:", "https:"),
            "http://no-such-host.invalid/v1",
            "http://256.256.256.256/v1",
            f"http://{'a' * 300}.invalid/v1",
            "http://xn--a/v1",
        ):
            with cases(base_url[:60]):
                outcome, summary, _ = asked(base_url, tmp_path / "x")
                assert np.isnan(outcome) and summary["failures"] == 2


def test_what_is_told_of_tokens_is_believed_within_reason(tally: Callable[[str], Any], tmp_path: Path) -> None:
    with tally("hostile") as cases:
        for told in (-5, 10**12, 10**4000, True, "7", 1.5, None, [1], {"a": 1}):
            body = says("tie", usage={"prompt_tokens": told, "completion_tokens": 3})
            with cases(str(told)[:20]), stranger(sends(response(body))) as server:
                outcome, summary, _ = asked(server.base_url, tmp_path / str(told)[:20], timeout=5.0)
                assert outcome == 0.5 and summary["prompt_tokens"] == 0 and summary["completion_tokens"] == 6


def test_an_endpoint_that_only_costs_time_is_given_up(tmp_path: Path) -> None:
    """Twenty questions in a row, each at its limit."""
    with stranger(lambda connection: time.sleep(5)) as server:
        judge = llm.judge(Endpoint(server.base_url, "m", attempts=1, timeout=0.1, concurrency=8), tmp_path / "x")
        with pytest.raises(JudgeError, match=r"20 questions in a row .* \(compare.llm.timeout\)"):
            judge.outcomes([f"{n}?" for n in range(40)], ["x"] * 40, ["y"] * 40)


def test_the_stranger_bites() -> None:
    """It does send without end, or the tests above would hold for any client."""
    with stranger(SIZES["a body without end"]) as server, socket.create_connection(server.listening.getsockname()) as s:
        s.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        taken = 0
        while taken < 8 << 20:
            taken += len(s.recv(1 << 20))
    assert isinstance(server, Stranger) and threading.active_count() < 100
