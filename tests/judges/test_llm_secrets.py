"""Does the LLM judge keep the key to itself, and are its settings refused without being repeated?"""

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from llm_stub import BAD, GOOD, KEY, NAN, PROMPTS, Stub, asking, completion, same

from pipeline.judges import llm
from pipeline.judges.judge import JudgeError
from pipeline.judges.llm import Endpoint


def test_the_key_is_sent_and_found_nowhere_else(
    stub: Stub,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Even where the endpoint sends it back: in a reply and in an error."""
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    caplog.set_level("DEBUG")
    echo = {"one?": (200, completion(f"A {KEY}")), "two?": (500, f'{{"error": "{KEY}"}}'.encode())}
    stub.reply = lambda text: next((reply for word, reply in echo.items() if word in text), "tie")
    judge = asking(stub, cache, api_key_env="JUDGE_KEY", attempts=1)
    assert same(judge.outcomes([*PROMPTS, "three?"], [*GOOD, "x"], [*BAD, "y"]), [NAN, NAN, 0.5])
    assert {headers["authorization"] for _, headers, _ in stub.seen} == {f"Bearer {KEY}"}
    assert not any(KEY in json.dumps(body) for _, _, body in stub.seen)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    shown = capfd.readouterr()
    assert "tie" in written
    for text in (written, json.dumps(judge.summary()), repr(judge), caplog.text, shown.out, shown.err):
        assert KEY not in text


def test_the_log_is_its_owners_alone(stub: Stub, cache: Path) -> None:
    """Whatever the umask, and a log of a former version too."""
    cache.parent.mkdir()
    cache.touch(0o644)
    before = os.umask(0o002)
    try:
        asking(stub, cache).outcomes(PROMPTS[:1], GOOD[:1], BAD[:1])
    finally:
        os.umask(before)
    assert cache.read_text() and cache.stat().st_mode & 0o777 == 0o600


def test_the_key_is_in_no_transport_error(stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judge = asking(stub, cache, api_key_env="JUDGE_KEY", attempts=1, concurrency=1)
    stub.shutdown()
    stub.server_close()
    with pytest.raises(JudgeError, match="ConnectError") as error:
        judge.outcomes([f"{n}?" for n in range(20)], ["x"] * 20, ["y"] * 20)
    assert KEY not in str(error.value)


def test_without_a_key_the_machines_own_token_is_not_sent(
    stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_this_machine")
    assert huggingface_hub.get_token() == "hf_token_of_this_machine"
    asking(stub, cache).outcomes(PROMPTS[:1], GOOD[:1], BAD[:1])
    assert len(stub.seen) == 2
    assert not any("hf_token" in json.dumps(headers) for _, headers, _ in stub.seen)


@pytest.mark.parametrize(
    ("settings", "environment", "said"),
    [
        ({"api_key_env": "JUDGE_KEY"}, None, "the environment variable that api_key_env names is not set"),
        ({"api_key_env": "JUDGE_KEY"}, "  ", "the environment variable that api_key_env names is not set"),
        ({"api_key_env": "JUDGE_KEY"}, f"{KEY} {KEY}", "holds a space"),
        ({"api_key_env": "JUDGE_KEY"}, f"{KEY}é", "no ASCII"),
        ({"api_key_env": KEY}, None, "is the name of an environment variable"),
        ({"api_key_env": "hf_" + "abc"}, None, "is the name of an environment variable"),
        ({"base_url": f"http://me:{KEY}@127.0.0.1/v1"}, None, "holds a user or password"),
        ({"base_url": f"http://127.0.0.1/v1?api_key={KEY}"}, None, "holds a query"),
        ({"base_url": "http://127.0.0.1/v1?"}, None, "holds a query"),
        ({"base_url": f"127.0.0.1/v1?key={KEY}"}, None, "is not an address"),
        ({"base_url": "ftp://127.0.0.1"}, None, "is not an address"),
        ({"base_url": "http:///v1"}, None, "is not an address"),
        ({"base_url": "http://[::1/v1"}, None, "is not an address"),
        ({"base_url": "http://127.0.0.1:x/v1"}, None, "is not an address"),
        ({"max_calls": 0}, None, "max_calls is 0; make it at least 1"),
        ({"attempts": 0}, None, "attempts is 0"),
        ({"concurrency": 0}, None, "concurrency is 0"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence_without_their_value(
    cache: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], environment: str | None, said: str
) -> None:
    if environment is None:
        monkeypatch.delenv("JUDGE_KEY", raising=False)
    else:
        monkeypatch.setenv("JUDGE_KEY", environment)
    with pytest.raises(JudgeError, match=said) as error:
        llm.judge(Endpoint(**({"base_url": "http://127.0.0.1:1/v1", "model": "m"} | settings)), cache)
    assert KEY not in str(error.value) and "\n" not in str(error.value)


def test_offline_mode_is_told(stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(JudgeError, match="HF_HUB_OFFLINE is set"):
        asking(stub, cache).outcomes(PROMPTS, GOOD, BAD)
