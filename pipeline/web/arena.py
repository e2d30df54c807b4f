"""/arena: which of two answers is better, when nobody knows whose they are? Names come after the vote, and no vote after the names."""

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from data.schema import Prompt, PromptText
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.run import Run
from pipeline.language import phrase
from pipeline.people.standing import standing
from pipeline.people.store import open_store
from pipeline.people.strengths import strengths
from pipeline.rows.published import prompts
from pipeline.web.asking import Refused, State, got, page, person_of, posted, read_json, text_of
from pipeline.web.contenders import decoded, in_turns, names, source_of
from pipeline.web.generating import Desk, Tell, conversation, decoding, seed_of
from pipeline.web.ranking import turns

OUTCOMES = ("a", "b", "tie", "bad")
WAITING = 500  # pairs of answers that wait for a vote, of all people; older ones go
LONGEST_WHY = 2000
ORDINARY = ("base", "model", "instruct", "chat", "tiny", "random", "small", "large", "pypi")
"""Parts of models' names that an answer may say without giving away whose it is."""


@dataclass(frozen=True)
class Pair:
    """Two answers that wait for one person's vote; a and b as they were shown."""

    person: str
    prompt: PromptText
    prompt_id: str | None
    models: tuple[str, str]
    texts: tuple[str, str]
    named: bool  # an answer says a model's name: the vote is set aside
    decoding: dict[str, Any] | None  # None: they are the comparison's own samples


@dataclass
class Waiting:
    """The pairs that wait for a vote, by their ids, until it is stored."""

    pairs: "OrderedDict[str, Pair]" = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, pair: Pair) -> str:
        with self.lock:
            name = secrets.token_hex(16)
            self.pairs[name] = pair
            while len(self.pairs) > WAITING:
                self.pairs.popitem(last=False)
            return name

    def of(self, name: str, person: str) -> Pair:
        with self.lock:
            pair = self.pairs.get(name)
        if pair is None or pair.person != person:
            raise Refused(409, "There is no such pair of answers to vote on; its names may have been shown already.")
        return pair

    def done(self, name: str) -> None:
        with self.lock:
            self.pairs.pop(name, None)


def routes(state: State, desk: Desk) -> list[BaseRoute]:
    waiting = Waiting()

    async def room(request: Request) -> Response:
        return page("arena.html.j2", "arena", state)

    async def play(request: Request) -> Response:
        body = await read_json(request)
        person = person_of(body)
        models = await run_in_threadpool(_drawn, state, body)
        prompt, prompt_id, seen = await run_in_threadpool(_asked, state, person, body)
        how, seed = decoding(body.get("generation", {})), seed_of({})

        def work(stop: threading.Event, tell: Tell) -> None:
            tell({"prompt": turns(prompt)})
            if prompt_id and not seen and (sampled := _compared(state.run, prompt_id, models)) is not None:
                return _shown(sampled, prompt, prompt_id, person, models, tell)
            texts = []
            for side, name in enumerate(models):
                said = desk.models().say(
                    name, prompt, how, seed + side, stop, lambda line, side=side: tell(_blind(line, side))
                )
                if said is None or said.stopped:
                    return
                texts.append(said.text)
            return _shown(texts, prompt, prompt_id, person, models, tell, how.acting() | {"seed": seed})

        return desk.streamed(person, work)

    def _shown(
        texts: Sequence[str],
        prompt: PromptText,
        prompt_id: str | None,
        person: str,
        models: tuple[str, str],
        tell: Tell,
        decoding: dict[str, Any] | None = None,
    ) -> None:
        """Show two whole answers, and let them wait for a vote. `decoding`: how they were made here; None: by the comparison."""
        for side, text in enumerate(texts):
            tell({"side": side, "text": text})
        if texts[0].strip() == texts[1].strip():
            return tell({"same": True})
        named = any(names_itself(text, state.run, models) for text in texts)
        return tell(
            {"pair": waiting.add(Pair(person, prompt, prompt_id, models, (texts[0], texts[1]), named, decoding))}
        )

    return [
        Route("/arena", room),
        Route("/api/arena", got(state, described)),
        Route("/api/arena/play", play, methods=["POST"]),
        Route("/api/arena/vote", posted(state, partial(voted, waiting)), methods=["POST"]),
    ]


def described(state: State) -> dict[str, Any]:
    """The models that can meet, those that do unless others are chosen, and what the votes say so far."""
    known = names(state.run)
    begun = [name for name in ("base", "sft", "ppo") if name in known] or known[:2]
    return {
        "models": known,
        "chosen": begun,
        "in_turns": in_turns(state.run),
        "votes": counted(state),
        "generation": decoded(state.run),
    }


def counted(state: State) -> dict[str, Any]:
    """How many votes there are, by how many people, how many of them are set aside, and how the models stand by the others."""
    events = open_store(state.run).events()
    votes = [event for event in standing(events) if event.kind == "vote"]
    aside = sum(bool(event.body["set_aside"]) for event in votes)
    people = len({event.person for event in votes})
    return {"votes": len(votes), "people": people, "set_aside": aside, "standing": strengths(events)}


def voted(waiting: Waiting, state: State, person: str, body: dict[str, Any]) -> dict[str, Any]:
    """Store a vote; then, and never before, whose answers they were: {"stored": the event as the disk has it, "votes": …}."""
    outcome = body.get("outcome")
    if outcome not in OUTCOMES:
        raise Refused(400, f"outcome: it is one of {', '.join(OUTCOMES)}.")
    why = body.get("why", "")
    if not isinstance(why, str) or len(why) > LONGEST_WHY:
        raise Refused(400, f"why: at most {LONGEST_WHY:,} characters.")
    seconds = body.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86_400:
        raise Refused(400, "seconds: it is a number from 0 to 86400.")
    name = text_of(body, "pair", 100)
    pair = waiting.of(name, person)
    a, b = ({"model": model, "text": text} for model, text in zip(pair.models, pair.texts, strict=True))
    event = open_store(
        state.run
    ).add(  # under the pair's id, so that two votes at once are one, or the second is refused
        name,
        person,
        "vote",
        {
            **{"prompt": pair.prompt, "prompt_id": pair.prompt_id, "a": a, "b": b, "outcome": outcome},
            **{"why": why.strip(), "seconds": seconds, "set_aside": pair.named, "decoding": pair.decoding},
        },
    )
    waiting.done(name)
    return {"stored": {"id": event.id, "at": event.at, "body": event.body}, "votes": counted(state)}


def names_itself(text: str, run: Run, models: tuple[str, str]) -> bool:
    """Whether an answer says the name of one of the models, or a part of it that is no ordinary word."""
    parts: set[str] = set()
    for name in models:
        for whole in (
            name,
            source_of(run, name).rpartition("/")[2] if "/" in source_of(run, name) else source_of(run, name),
        ):
            parts |= {whole.lower(), *(part.lower() for part in re.split(r"[^A-Za-z0-9]+", whole))}
    told = {part for part in parts if len(part) >= 3 and not part.isdigit() and part not in ORDINARY}
    return any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text.lower()) for part in told)


def _blind(line: dict[str, Any], side: int) -> dict[str, Any]:
    """What the page may know of an answer while it is written: its text, and that something goes on."""
    return {"side": side} | (
        {"text": line["text"]} if "text" in line else {"told": phrase("writing") if line.get("told") else ""}
    )


def _drawn(state: State, body: dict[str, Any]) -> tuple[str, str]:
    """Two of the models that were chosen, which and in which order by chance."""
    known, chosen = names(state.run), body.get("models")
    if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
        raise Refused(400, "models: it is a list of names.")
    if unknown := [name for name in chosen if name not in known]:
        raise Refused(400, f"models: {unknown[0][:60]}: this run has no such model.")
    if len(set(chosen)) < 2:
        raise Refused(400, "models: choose two or more.")
    first, second = secrets.SystemRandom().sample(sorted(set(chosen)), 2)
    return first, second


def _compared(run: Run, prompt_id: str, models: tuple[str, str]) -> tuple[str, str] | None:
    """What the comparison sampled of two models for a held-out prompt, so that a vote counts there; None where it did not."""
    path = run.root / run.name / "compare" / "samples.jsonl"
    said: dict[str, str] = {}
    for row in read_rows(path) if path.is_file() else ():
        if row["prompt_id"] == prompt_id and row["model"] in models:
            said.setdefault(row["model"], row["completion"])
    return (said[models[0]], said[models[1]]) if len(said) == 2 else None


def _asked(state: State, person: str, body: dict[str, Any]) -> tuple[PromptText, str | None, bool]:
    """The person's own prompt, or a held-out one on which they have voted least; and whether they have voted on it: they know then whose the
    comparison's answers are."""
    if "text" in body or "messages" in body:
        return conversation(body), None, False
    held: list[Prompt] = prompts(state.run, "eval")
    if not held:
        raise Refused(409, "This run holds no prompts out; write one.")
    votes = [event for event in standing(open_store(state.run).events(person=person)) if event.kind == "vote"]
    often = [event.body["prompt_id"] for event in votes]
    least = min(often.count(one.id) for one in held)
    chosen = secrets.choice([one for one in held if often.count(one.id) == least])
    return chosen.prompt, chosen.id, least > 0
