"""/rank: who orders which answers, and what of it is stored? The page shows what was read back from the disk, and no model's name."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from data.schema import PromptText
from pipeline.language import phrase
from pipeline.people.agreement import agreements
from pipeline.people.choosing import Choice, Desk, ask
from pipeline.people.orders import NotAnOrder, checked, ordered, pairs, relation
from pipeline.people.practice import known_order, right
from pipeline.people.standing import standing
from pipeline.people.store import Event, Item, Store, open_store, path_of
from pipeline.web.asking import Refused, State, got, page, posted, text_of

LONGEST_ID = 100  # characters
LONGEST_REASON = 1000
TAKEN_BACK = ("ranking", "skip", "report")


def routes(state: State) -> list[BaseRoute]:
    async def room(request: Request) -> Response:
        made = path_of(state.run).is_file()
        return page("rank.html.j2", "rank", state, asked=made and bool(await run_in_threadpool(_items, state)))

    async def agreed(request: Request) -> Response:
        return page("agreement.html.j2", "rank", state)

    return [
        Route("/rank", room),
        Route("/rank/agreement", agreed),
        Route("/api/rank/agreement", got(state, agreement)),
        Route("/api/rank/next", posted(state, following), methods=["POST"]),
        Route("/api/rank/done", posted(state, done), methods=["POST"]),
        Route("/api/rank/undo", posted(state, undo), methods=["POST"]),
    ]


def _items(state: State) -> list[Item]:
    return open_store(state.run).items()


def agreement(state: State) -> dict[str, Any]:
    """How far people agree: {"all": figures, "people": [figures of each], "items", "ranked", "reported"}."""
    store = open_store(state.run)
    items, events = store.items(), store.events()
    every, people = agreements(items, events)
    left = Desk(items, events, "", datetime.now(UTC)).left()
    told = {"items": left.items, "ranked": left.ranked, "reported": left.reported}
    return {"all": every.to_json(), "people": [one.to_json() for one in people], **told}


def following(state: State, person: str, body: dict[str, Any]) -> dict[str, Any]:
    """The next item for a person: {"item": … or None, "left": …, "last": what they did last and may take back, or None}."""
    store = open_store(state.run)
    choice, left = ask(store, person, text_of(body, "id", LONGEST_ID))
    return {
        "item": None if choice is None else _shown(choice),
        "left": asdict(left),
        "last": _stored(store, _last(store, person)),
    }


def done(state: State, person: str, body: dict[str, Any]) -> dict[str, Any]:
    """Store that a person ranked, skipped or reported an item: {"stored": the event as it was read back from the disk, "practice": …}."""
    store, kind = open_store(state.run), body.get("kind")
    if kind not in TAKEN_BACK:
        raise Refused(400, f"kind: it is one of {', '.join(TAKEN_BACK)}.")
    given = body.get("body")
    if not isinstance(given, dict):
        raise Refused(400, "body: it is missing.")
    item = store.item(text_of(given, "item", LONGEST_ID))
    if item is None:
        raise Refused(404, "There is no such item.")
    event = store.add(text_of(body, "id", LONGEST_ID), person, kind, _checked(kind, given, item))
    practised = kind == "ranking" and item.kind == "practice"
    return {"stored": _stored(store, event), "practice": _compared(item, event) if practised else None}


def undo(state: State, person: str, body: dict[str, Any]) -> dict[str, Any]:
    """Take back what a person did last; it stays in the store, with the event that takes it back."""
    store = open_store(state.run)
    last = _last(store, person)
    if last is None or last.id != body.get("event"):
        raise Refused(409, "Only what you did last can be taken back; load the page again.")
    event = store.add(text_of(body, "id", LONGEST_ID), person, "undo", {"event": last.id})
    return {"undone": event.body["event"]}


def _checked(kind: str, body: dict[str, Any], item: Item) -> dict[str, Any]:
    """The body of an event, sound for its kind. Raises Refused."""
    if kind == "ranking":
        try:
            return checked(body, item)
        except NotAnOrder as error:
            raise Refused(400, f"That is no order: {error}.") from None
    seconds = body.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86_400:
        raise Refused(400, "seconds: it is a number from 0 to 86400.")
    reason = {"reason": text_of(body, "reason", LONGEST_REASON)} if kind == "report" else {}
    return {"item": item.id, "seconds": seconds, **reason}


def _compared(item: Item, event: Event) -> dict[str, Any]:
    """What a person is told of a practice item: whether their order is the known one, and in how many pairs it is another."""
    order = ordered(event.body)
    good, of = right(item, order)
    turned = sum(relation(known_order(item), better, worse) < 0 for better, worse in pairs(order))
    given = {"good": good, "of": of, "turned": turned}
    sentence = phrase("Practice: {good} of {of} comparisons are as they were known to be.", good=good, of=of)
    if turned:
        sentence = phrase(
            "Practice: {good} of {of} comparisons are as they were known to be, {turned} the other way round.", **given
        )
    return {"agrees": good == of, "sentence": sentence}


def _last(store: Store, person: str) -> Event | None:
    """What a person did last that they may take back."""
    found = [event for event in standing(store.events(person=person)) if event.kind in TAKEN_BACK]
    return found[-1] if found else None


def _shown(choice: Choice) -> dict[str, Any]:
    """What the page needs of an item: the texts in the order of the cards, without the names of who wrote them."""
    texts = {one.id: one.text for one in choice.item.completions}
    return {
        "id": choice.item.id,
        "prompt": turns(choice.item.prompt),
        "cards": [{"id": one, "text": texts[one]} for one in choice.shown],
        "repeat": choice.repeat,
        "practice": choice.practice,
    }


def turns(prompt: PromptText) -> list[dict[str, str]]:
    """A prompt as turns, each with its role."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _stored(store: Store, event: Event | None) -> dict[str, Any] | None:
    """An event as the page shows it: what the disk has, and the texts that it speaks of."""
    if event is None:
        return None
    item = store.item(event.body["item"])
    texts = {one.id: one.text for one in item.completions} if item else {}
    return {"id": event.id, "at": event.at, "kind": event.kind, "body": event.body, "texts": texts}
