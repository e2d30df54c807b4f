"""How does an answer reach the page while it is written? Line by line, one at a time a person, ended when the page goes away."""

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.responses import StreamingResponse

from pipeline.language import phrase, recognised
from pipeline.settings.sections import Decoding, Resolved
from pipeline.web.asking import Refused, State

MOST_TOKENS = 2048  # of one answer
COOLEST, HOTTEST = 0.01, 100.0  # temperatures
LONGEST = 20_000  # characters of a message
TURNS = 200
SEEDS = 2**31

ONE = "One answer at a time: stop the one that is being written first."

Tell = Callable[[dict[str, Any]], None]


@dataclass
class Desk:
    """Who is being answered now, and the models that answer; one for each page."""

    state: State
    speakers: Any = None
    asking: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def models(self) -> Any:
        """The models, for which torch is imported now; in a thread, as that takes seconds."""
        with self.lock:
            if self.speakers is None:
                from pipeline.training.context import quiet

                quiet()
                from pipeline.web.speakers import Speakers

                self.speakers = Speakers(self.state.run)
            return self.speakers

    def streamed(self, person: str, work: Callable[[threading.Event, Tell], None]) -> StreamingResponse:
        """The lines that `work` tells, as they come. Raises Refused where the person is being answered already."""
        if person in self.asking:
            raise Refused(409, ONE)
        return StreamingResponse(self._lines(person, work), media_type="application/x-ndjson")

    async def _lines(self, person: str, work: Callable[[threading.Event, Tell], None]) -> AsyncIterator[bytes]:
        loop, lines, stop = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None](), threading.Event()
        with self.lock:  # and not before: of a page that is gone already nothing is begun
            taken = person in self.asking
            self.asking.add(person)
        if taken:
            yield _line({"error": recognised(ONE)})
            return

        def tell(line: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        def working() -> None:
            try:
                work(stop, tell)
            except Refused as error:
                tell({"error": recognised(error.sentence)})
            except BaseException:
                tell({"error": phrase("Something went wrong here; the terminal says what.")})
                raise
            finally:
                with self.lock:
                    self.asking.discard(person)
                tell(None)

        done = loop.run_in_executor(None, copy_context().run, working)  # in the language of the page
        try:
            while (line := await lines.get()) is not None:
                yield _line(line)
            await done
        finally:
            stop.set()  # the page went away, or the last line is out


def _line(line: Mapping[str, Any]) -> bytes:
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def decoding(given: Any) -> Resolved:
    """Decoding settings from a page, by the names of transformers.GenerationConfig. Raises Refused for what is none."""
    if not isinstance(given, Mapping):
        raise Refused(400, "generation: it is an object of settings.")
    try:
        how = Decoding(**given).resolved(1.0, 128)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "it is no settings"}
        place = ".".join(["generation", *map(str, first["loc"])])
        raise Refused(400, f"{place}: {str(first['msg']).removeprefix('Value error, ')}.") from None
    if how.num_beams > 1:
        raise Refused(400, "generation.num_beams: beams are not shown while they are searched; set it to 1.")
    if (
        not COOLEST <= how.temperature <= HOTTEST
    ):  # beyond it probabilities are no numbers, which on a GPU ends all models
        raise Refused(
            400, f"generation.temperature: it is from {COOLEST} to {HOTTEST:.0f}; greedy is do_sample: false."
        )
    if how.max_new_tokens > MOST_TOKENS:
        raise Refused(400, f"generation.max_new_tokens: at most {MOST_TOKENS}.")
    return how


def conversation(body: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """What is to be answered: "text", or "messages" whose last is the user's. Raises Refused."""
    if isinstance(text := body.get("text"), str):
        if not text.strip() or len(text) > LONGEST:
            raise Refused(400, f"text: 1 to {LONGEST:,} characters can be taken.")
        return text
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= TURNS:
        raise Refused(400, f"messages: there are 1 to {TURNS} of them.")
    for turn in messages:
        sound = isinstance(turn, dict) and set(turn) == {"role", "content"}
        if not sound or turn["role"] not in ("system", "user", "assistant") or not isinstance(turn["content"], str):
            raise Refused(400, "messages: each has a role (system, user, assistant) and a content, a text.")
        if len(turn["content"]) > LONGEST:
            raise Refused(400, f"messages: a content has at most {LONGEST:,} characters.")
    if messages[-1]["role"] != "user":
        raise Refused(400, "messages: the last one is the user's.")
    return [dict(turn) for turn in messages]


def seed_of(body: Mapping[str, Any]) -> int:
    """The seed that was asked for, or another each time. Raises Refused."""
    seed = body.get("seed")
    if seed is None:
        return secrets.randbelow(SEEDS)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise Refused(400, f"seed: it is a whole number from 0 to {SEEDS - 1}.")
    return seed
