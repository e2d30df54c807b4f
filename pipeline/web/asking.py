"""What does every room of the page need? Its run, the body of a request, a page, and a refusal that a person understands."""

import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from pipeline.artifacts.run import Run
from pipeline.commands import assignments
from pipeline.language import fixed
from pipeline.pages.common import page_template
from pipeline.people.store import person_name

DEEPEST = 16  # lists and objects within each other in a body
NAME_LENGTH = 60  # characters of a person's name
JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))  # names are written with them, and they turn no text round
TEMPLATES = Path(__file__).parent / "templates"
ROOMS = (("runs", fixed("Watch")), ("rank", fixed("Rank")), ("arena", fixed("Vote")), ("chat", fixed("Chat")))


class Refused(Exception):
    """A request that is not answered: an HTTP status, and one sentence for the person who asked."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class State:
    """What the rooms work on: one run, among those below `root`."""

    run: Run
    root: Path = Path("runs")
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    ending: threading.Event = field(
        default_factory=threading.Event, repr=False
    )  # set when the server is to end: streams end
    language: str = "en"


async def read_json(request: Request) -> dict[str, Any]:
    """The body of a request, an object. Raises Refused where it is none, lies deeper than DEEPEST, or holds what is no text or number."""
    raw = await request.body()
    try:
        body = json.loads(raw, parse_constant=_no_number)
        raw.decode("utf-8")
        json.dumps(body, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Refused(400, "The body is no JSON.") from None
    if not isinstance(body, dict):
        raise Refused(400, "The body is no JSON object.")
    if _depth(body) > DEEPEST:
        raise Refused(400, f"The body has more than {DEEPEST} levels.")
    return body


def _no_number(name: str) -> None:
    raise ValueError(name)


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, level = waiting.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, level)
            waiting += [(inner, level + 1) for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest


def text_of(body: Mapping[str, Any], name: str, most: int, *, least: int = 1) -> str:
    """A text of a body, without white space around it. Raises Refused where there is none, or it has too few or too many characters."""
    value = body.get(name)
    if not isinstance(value, str):
        raise Refused(400, f"{name}: there is no text.")
    value = value.strip()
    if not least <= len(value) <= most:
        raise Refused(400, f"{name}: it has {len(value):,} characters; {least:,} to {most:,} can be taken.")
    return value


def person_of(body: Mapping[str, Any]) -> str:
    """The name of who asks, as the store keeps it, so that one person is one however they type it. Raises Refused where it cannot be one."""
    name = text_of(body, "person", NAME_LENGTH)
    if not name.translate(JOINERS).isprintable():
        raise Refused(400, "person: a name is printable characters.")
    return person_name(name)


Endpoint = Callable[[Request], Awaitable[Response]]


def got(state: State, work: Callable[[State], dict[str, Any]]) -> Endpoint:
    """The endpoint that answers with what `work` says, which is done in a thread."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(work, state))

    return endpoint


def posted(state: State, work: Callable[[State, str, dict[str, Any]], dict[str, Any]]) -> Endpoint:
    """The same of what a person sends: `work` is given who it is, and the body."""

    async def endpoint(request: Request) -> Response:
        body = await read_json(request)
        return JSONResponse(await run_in_threadpool(work, state, person_of(body), body))

    return endpoint


def page(name: str, room: str, state: State, **values: Any) -> HTMLResponse:
    """The page of a template. Whatever it is given comes out as text, never as markup."""
    named = assignments({"RUN": state.run.name})[0]  # as make takes it
    rendered = page_template(name, TEMPLATES).render(room=room, rooms=ROOMS, run=state.run.name, named=named, **values)
    return HTMLResponse(rendered.encode("utf-8", "backslashreplace"))
