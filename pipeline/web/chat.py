"""/chat: what do models say to this, in several turns, one beside the other; and which answer is the better one?"""

import threading
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.people.store import open_store
from pipeline.web.asking import Refused, State, got, page, person_of, posted, read_json, text_of
from pipeline.web.contenders import BASE, decoded, in_turns, names, of_other_runs
from pipeline.web.generating import LONGEST, Desk, Tell, conversation, decoding, seed_of

LONGEST_NAME = 300  # characters of a model's name


def routes(state: State, desk: Desk) -> list[BaseRoute]:
    async def room(request: Request) -> Response:
        known = await run_in_threadpool(names, state.run)
        return page("chat.html.j2", "chat", state, models=known)

    async def say(request: Request) -> Response:
        body = await read_json(request)
        person, asked, prompt = person_of(body), _models(body), conversation(body)
        how, seed = decoding(body.get("generation", {})), seed_of(body)

        def work(stop: threading.Event, tell: Tell) -> None:
            for side, name in enumerate(asked):
                said = desk.models().say(
                    name, prompt, how, seed, stop, lambda line, side=side: tell({"side": side} | line)
                )
                if said is None:
                    return
                tell({"side": side, "done": vars(said) | {"seed": seed}})

        return desk.streamed(person, work)

    return [
        Route("/chat", room),
        Route("/api/models", got(state, described)),
        Route("/api/chat/say", say, methods=["POST"]),
        Route("/api/chat/prefer", posted(state, preferred), methods=["POST"]),
    ]


def described(state: State) -> dict[str, Any]:
    """The models that can be talked to, those that a page begins with, and whether the run's prompts are conversations."""
    known = names(state.run)
    aligned = next((name for name in ("ppo", *reversed(known)) if name in known), None)
    beside = next((name for name in ("sft", BASE) if name in known and name != aligned), None)
    return {
        "models": known,
        "others": of_other_runs(state.run),
        "first": aligned,
        "beside": beside,
        "in_turns": in_turns(state.run),
        "generation": decoded(state.run),
    }


def preferred(state: State, person: str, body: dict[str, Any]) -> dict[str, Any]:
    """Store which of two answers to the same prompt is better, as the disk has it then."""
    answers = {}
    for name in ("chosen", "rejected"):
        given = body.get(name)
        if not isinstance(given, dict):
            raise Refused(400, f"{name}: it is missing.")
        answers[name] = {"text": _text(given), "model": text_of(given, "model", LONGEST_NAME)}
    if answers["chosen"]["text"].strip() == answers["rejected"]["text"].strip():
        raise Refused(400, "The two answers are the same text, so neither is better.")
    event = open_store(state.run).add(
        text_of(body, "id", 100), person, "preference", {"prompt": conversation(body), **answers}
    )
    return {"stored": {"id": event.id, "at": event.at, "body": event.body}}


def _text(given: dict[str, Any]) -> str:
    text = given.get("text")
    if not isinstance(text, str) or len(text) > 4 * LONGEST:
        raise Refused(400, f"text: at most {4 * LONGEST:,} characters.")
    return text


def _models(body: dict[str, Any]) -> list[str]:
    asked = body.get("models")
    if not isinstance(asked, list) or not 1 <= len(asked) <= 2:
        raise Refused(400, "models: one or two of them are asked.")
    return [text_of({"models": one}, "models", LONGEST_NAME) for one in asked]
