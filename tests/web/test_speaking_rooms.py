"""Do models answer on the page as they should: streamed, one at a time a person, blind in the arena, ended when nobody reads on?"""

import asyncio
import json
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rooms import Page, with_models

from data.schema import Prompt
from pipeline.artifacts.run import Run
from pipeline.judges import votes
from pipeline.people import export, store
from pipeline.people.store import open_store
from pipeline.web import arena, generating, speakers
from pipeline.web.asking import Refused, State

SHORT = {"max_new_tokens": 6}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "demo").mkdir()
    return Run("demo", tmp_path)


@pytest.fixture
def page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    with_models(tmp_path, monkeypatch, "sft", "ppo")
    return Page(run)


def said(page: Page, **more: Any) -> list[dict[str, Any]]:
    asked = {"person": "Anna", "models": ["ppo"], "text": "A funny", "generation": SHORT, "seed": 3}
    return page.lines("/api/chat/say", asked | more)


def test_an_answer_is_streamed_and_a_seed_gives_it_again(page: Page) -> None:
    lines = said(page)
    done = lines[-1]["done"]
    assert lines[0] == {"side": 0, "told": "loading ppo"} and done["seed"] == 3 and 1 <= done["tokens"] <= 6
    assert done["text"] == [line["text"] for line in lines if "text" in line][-1] and not done["stopped"]
    assert said(page)[-1]["done"]["text"] == done["text"] != said(page, seed=4)[-1]["done"]["text"]


def test_settings_decide_and_wrong_ones_are_refused_by_name(page: Page) -> None:
    greedy = {"do_sample": False, "max_new_tokens": 6}
    assert (
        said(page, generation=greedy)[-1]["done"]["text"] == said(page, generation=greedy, seed=9)[-1]["done"]["text"]
    )
    for wrong in (
        {"max_new_token": 3},
        {"temperature": 0},
        {"temperature": 1e-300},
        {"temperature": 1e308},
        {"top_p": 2},
        {"max_new_tokens": 10**6},
        {"num_beams": 4, "do_sample": False},
        [],
        "x",
    ):
        answer = page.post("/api/chat/say", {"person": "Anna", "models": ["ppo"], "text": "a", "generation": wrong})
        assert answer.status_code == 400 and answer.json()["error"].startswith("generation"), answer.text


def test_two_models_answer_the_same_conversation(page: Page) -> None:
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "So"},
    ]
    lines = said(page, models=["sft", "ppo"], text=None, messages=talk)
    assert [line["side"] for line in lines if "done" in line] == [0, 1]


@pytest.mark.parametrize(
    "wrong", [{"messages": [{"role": "user"}]}, {"messages": []}, {"messages": [{"role": "tool", "content": "x"}]}, {"text": " "},
              {"messages": [{"role": "assistant", "content": "x"}]}, {"text": "x" * 20_001}, {"messages": "x"}, {},
              {"text": "a", "models": []}, {"text": "a", "models": ["a", "b", "c"]}, {"text": "a", "models": [1]}, {"text": "a", "seed": -1}]
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(page: Page, wrong: Any) -> None:
    answer = page.post("/api/chat/say", {"person": "Anna", "models": ["ppo"]} | wrong)
    assert answer.status_code == 400 and set(answer.json()) == {"error"}


@pytest.mark.parametrize("name", ["/etc", "../../etc", "nobody", "~/x", "demo/ppo/more", "/etc/passwd"])
def test_a_name_that_is_no_model_is_refused_in_a_sentence(page: Page, name: str) -> None:
    (line,) = [line for line in said(page, models=[name]) if "error" in line]
    assert "no model of this run" in line["error"]


def test_more_than_a_model_reads_is_refused(page: Page) -> None:
    (line,) = [line for line in said(page, text="x" * 600) if "error" in line]
    assert "it reads 512 tokens" in line["error"]


def test_one_answer_at_a_time_a_person(run: Run) -> None:
    desk = generating.Desk(State(run, run.root))

    async def asked() -> list[Any]:
        begun, go = threading.Event(), threading.Event()

        def work(stop: threading.Event, tell: generating.Tell) -> None:
            begun.set()
            tell({"text": "a"})
            go.wait(30)

        first = desk._lines("Anna", work)
        await first.__anext__()
        with pytest.raises(Refused, match="One answer at a time"):
            desk.streamed("Anna", work)
        raced = [json.loads(line) async for line in desk._lines("Anna", work)]
        go.set()
        assert [line async for line in first] == []
        after = [json.loads(line) async for line in desk._lines("Anna", lambda stop, tell: tell({"text": "b"}))]
        return [*raced, *after]

    assert asyncio.run(asked()) == [{"error": generating.ONE}, {"text": "b"}]


def test_a_page_that_is_gone_before_its_answer_begins_holds_nobody_up(run: Run) -> None:
    desk = generating.Desk(State(run, run.root))
    desk.streamed("Anna", lambda stop, tell: None)  # and nobody ever reads it
    again = desk.streamed("Anna", lambda stop, tell: None)
    assert again.status_code == 200 and desk.asking == set()


async def _left(desk: generating.Desk, work: Any) -> None:
    """A page that reads one line and goes away."""
    lines = desk._lines("Anna", work)
    await lines.__anext__()
    await lines.aclose()


def test_a_page_that_goes_away_ends_its_answer(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_models(tmp_path, monkeypatch, "ppo")
    desk, ended = generating.Desk(State(run, run.root)), threading.Event()
    found: list[Any] = []

    def work(stop: threading.Event, tell: generating.Tell) -> None:
        how = generating.decoding({"max_new_tokens": 450})
        found.append(desk.models().say("ppo", "a", how, 0, stop, tell))
        ended.set()

    asyncio.run(_left(desk, work))
    assert ended.wait(60)
    assert found[0] is None or (found[0].stopped and found[0].tokens < 450)
    while "Anna" in desk.asking:  # taken out right behind
        time.sleep(0.01)


def test_at_most_so_many_models_stay_loaded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_models(tmp_path, monkeypatch, "a", "b", "c")
    models = speakers.Speakers(run)
    for name in ("a", "b", "a", "c"):
        models.say(name, "x", generating.decoding({"max_new_tokens": 1}), 0, threading.Event(), lambda line: None)
    assert list(models.loaded) == ["a", "c"]


def test_the_better_answer_is_stored_as_the_disk_has_it(run: Run, page: Page) -> None:
    answers = {"chosen": {"text": " b", "model": "ppo"}, "rejected": {"text": " c", "model": "sft"}}
    stored = page.post("/api/chat/prefer", {"person": "Anna", "id": "p1", "text": "a", **answers}).json()["stored"]
    assert stored["body"] == {"prompt": "a", **answers} == open_store(run).events("preference")[0].body
    same = {"chosen": {"text": " b", "model": "ppo"}, "rejected": {"text": "b ", "model": "sft"}}
    assert page.post("/api/chat/prefer", {"person": "Anna", "id": "p2", "text": "a", **same}).status_code == 400


def played(page: Page, person: str = "Anna", **more: Any) -> list[dict[str, Any]]:
    asked = {"person": person, "models": ["sft", "ppo"], "text": "A funny", "generation": SHORT}
    return page.lines("/api/arena/play", asked | more)


def test_names_come_after_the_vote_and_no_vote_after_the_names(run: Run, page: Page) -> None:
    lines = played(page)
    assert "sft" not in str(lines) and "ppo" not in str(lines), "blind"
    assert all(set(line) <= {"prompt", "side", "text", "told", "pair"} for line in lines)
    vote = {"person": "Anna", "pair": lines[-1]["pair"], "outcome": "a", "seconds": 2, "why": "shorter"}
    assert page.post("/api/arena/vote", vote | {"person": "Ben"}).status_code == 409, "another person's pair"
    answer = page.post("/api/arena/vote", vote).json()
    body = answer["stored"]["body"]
    assert (
        {body["a"]["model"], body["b"]["model"]} == {"sft", "ppo"}
        and body["outcome"] == "a"
        and body["why"] == "shorter"
    )
    assert [event.body for event in open_store(run).events("vote")] == [body] and answer["votes"]["votes"] == 1
    again = page.post("/api/arena/vote", vote | {"outcome": "b"})
    assert again.status_code == 409 and len(open_store(run).events("vote")) == 1


def test_a_vote_that_could_not_be_stored_is_sent_again(run: Run, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    vote = {"person": "Anna", "pair": played(page)[-1]["pair"], "outcome": "a", "seconds": 2}
    with closing(sqlite3.connect(open_store(run).path)) as other, monkeypatch.context() as patch:
        patch.setattr(store, "BUSY", 0.05)
        other.execute("BEGIN IMMEDIATE")
        refused = page.post("/api/arena/vote", vote)
        assert refused.status_code == 409 and "model" not in refused.text, "no names without a vote"
        other.execute("ROLLBACK")
    assert page.post("/api/arena/vote", vote).json()["votes"]["votes"] == 1


def test_sides_are_drawn_by_chance(page: Page) -> None:
    first = set()
    for _ in range(40):
        pair = played(page, generation={"max_new_tokens": 1})[-1].get("pair")
        if pair is not None:
            vote = {"person": "Anna", "pair": pair, "outcome": "tie", "seconds": 0}
            first.add(page.post("/api/arena/vote", vote).json()["stored"]["body"]["a"]["model"])
        if len(first) == 2:
            return
    raise AssertionError(first)


@pytest.mark.parametrize(
    "text, named",
    [("I am ppo.", True), ("as SFT, I", True), ("apposite", False), ("A base of sand", False), ("", False)],
)
def test_an_answer_that_says_a_models_name_is_known(run: Run, text: str, named: bool, page: Page) -> None:
    assert arena.names_itself(text, run, ("sft", "ppo")) is named


def test_what_the_page_tells_of_all_votes_has_no_persons_name(run: Run, page: Page) -> None:
    vote = {"person": "Secretive", "pair": played(page, "Secretive")[-1]["pair"], "outcome": "a", "seconds": 2}
    page.post("/api/arena/vote", vote)
    told = page.get("/api/arena")
    found = told.json()["votes"]["standing"]
    assert found["people"] == found["votes"] == 1 and {one["name"] for one in found["models"]} == {"sft", "ppo"}
    assert "Secretive" not in told.text


def test_such_a_vote_is_set_aside(run: Run, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "names_itself", lambda text, run, models: True)
    vote = {"person": "Anna", "pair": played(page)[-1]["pair"], "outcome": "a", "seconds": 2}
    answer = page.post("/api/arena/vote", vote).json()
    assert answer["stored"]["body"]["set_aside"] and answer["votes"]["set_aside"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ["sft"]},
        {"models": ["sft", "sft"]},
        {"models": ["sft", "gpt"]},
        {"models": None},
        {"models": ["sft", "/etc"]},
    ],
)
def test_who_can_meet_is_a_model_of_the_run(page: Page, wrong: Any) -> None:
    assert page.post("/api/arena/play", {"person": "Anna", "text": "a", **wrong}).status_code == 400


def test_on_a_held_out_prompt_the_comparisons_own_answers_are_voted_on(
    run: Run, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a vote counts in the report: it is about the very texts that the other judges judge."""
    monkeypatch.setattr(arena, "prompts", lambda run, side: [Prompt("p1", "A funny", "x:1")])
    (run.root / run.name / "compare").mkdir()
    rows = [
        {"prompt_id": "p1", "prompt": "A funny", "model": model, "seed": seed, "completion": f" {word} {seed}"}
        for model, word in (("sft", "film"), ("ppo", "book"), ("base", "x"))
        for seed in (0, 1)
    ]
    path = run.root / run.name / "compare" / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = page.lines("/api/arena/play", {"person": "Anna", "models": ["sft", "ppo"], "generation": SHORT})
    assert {line["text"] for line in lines if "text" in line} == {" film 0", " book 0"}
    vote = {"person": "Anna", "pair": lines[-1]["pair"], "outcome": "b", "seconds": 2}
    body = page.post("/api/arena/vote", vote).json()["stored"]["body"]
    assert body["prompt_id"] == "p1" and body["decoding"] is None
    again = page.lines("/api/arena/play", {"person": "Anna", "models": ["sft", "ppo"], "generation": SHORT})
    assert not {line["text"] for line in again if "text" in line} & {" film 0", " book 0"}, "she knows whose these are"
    export.export(run)
    (told,) = votes.read([run.root / run.name / "people" / "votes.jsonl"], rows)
    assert {told.a, told.b} == {"sft", "ppo"} and told.outcome == 0.0 and told.annotator == "Anna"
