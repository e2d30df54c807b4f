"""Which item does a person get next, and in which order are its cards? Pure functions of what was asked and done so far.

Practice comes first. Then a share of the items, chosen by a hash of their ids, goes to everybody, so that agreement can be measured;
each other item goes to one person: who was shown it holds it for half an hour. One in twenty of a person's own items comes again, for
self-agreement, never right after. Those of which the reward model is least sure come first.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from threading import Lock
from typing import Any

from pipeline.people.standing import reported, standing
from pipeline.people.store import Event, Item, Store

OVERLAP = 0.2  # the share of items that goes to everybody
REPEATED = 0.05  # the share of a person's own items that comes again
APART = 10  # rankings of others between an item and its repeat, at least
HOLD = timedelta(minutes=30)
_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True)
class Choice:
    """What a person is asked next. `shown` are the completions' ids in the order of the cards; `repeat` is 1 where the person has
    ranked the item before."""

    item: Item
    shown: tuple[str, ...]
    repeat: int = 0

    @property
    def practice(self) -> bool:
        return self.item.kind == "practice"


@dataclass(frozen=True)
class Left:
    """What there still is to do: items of the practice, of one's own, and repeats that are due; how many one has ranked, and how many
    items there are, of which `ranked` somebody has ranked and `reported` somebody has reported."""

    practice: int
    own: int
    repeats: int
    done: int
    items: int
    ranked: int
    reported: int


@dataclass(frozen=True)
class Desk:
    """What one person sees of the work of all, at one time. `events` are all that the store has."""

    items: Sequence[Item]
    events: Sequence[Event]
    person: str
    now: datetime
    overlap: float = OVERLAP
    repeated: float = REPEATED

    @cached_property
    def _by_id(self) -> dict[str, Item]:
        return {item.id: item for item in self.items}

    @cached_property
    def _standing(self) -> list[Event]:
        return [event for event in standing(self.events) if event.body.get("item") in self._by_id]

    @cached_property
    def _own(self) -> list[Event]:
        return [event for event in self._standing if event.person == self.person]

    @cached_property
    def _reported(self) -> set[str]:
        return set(reported(self._standing))

    @cached_property
    def _settled(self) -> set[str]:
        """Items that this person has ranked, skipped or reported."""
        return {event.body["item"] for event in self._own if event.kind in ("ranking", "skip", "report")}

    @cached_property
    def _ranked(self) -> list[str]:
        """Items that this person has ranked for the first time, practice apart, in that order."""
        found = (e.body["item"] for e in self._own if e.kind == "ranking" and e.body["repeat"] == 0)
        return [one for one in dict.fromkeys(found) if self._by_id[one].kind == "rank"]

    @cached_property
    def _of_others(self) -> set[str]:
        """Items that another person has ranked, or was shown a short while ago and has not put away since."""
        found, held = set[str](), dict[tuple[str, str], bool]()
        for event in self._standing:
            if event.person == self.person:
                continue
            key = event.person, event.body["item"]
            if event.kind == "ranking":
                found.add(event.body["item"])
            elif event.kind == "shown":
                held[key] = datetime.fromisoformat(event.at) > self.now - HOLD
            elif event.kind in ("skip", "report"):
                held[key] = False
        return found | {item for (_, item), still in held.items() if still}

    def _open(self, item: Item) -> bool:
        """Whether the person may be asked the item for the first time."""
        if item.id in self._settled or item.id in self._reported:
            return False
        everybodys = item.kind == "practice" or chance("overlap", item.id) < self.overlap
        return everybodys or item.id not in self._of_others

    @cached_property
    def _practice(self) -> list[Item]:
        return [item for item in self.items if item.kind == "practice" and self._open(item)]

    @cached_property
    def _queue(self) -> list[Item]:
        """The items that the person may be asked, the first one first."""
        free = [item for item in self.items if item.kind == "rank" and self._open(item)]
        return sorted(free, key=lambda item: (-unsure(item.body), chance("queue", item.id)))

    @cached_property
    def _due(self) -> list[Item]:
        """Items that come again now."""
        again = set[str]()
        for event in self._own:  # a repeat that was skipped is not asked again
            first = event.kind == "ranking" and event.body["repeat"] == 0
            if not first and event.kind in ("ranking", "skip", "report"):
                again.add(event.body["item"])
        apart = self._ranked[:-APART] if len(self._ranked) > APART else []
        mine = [one for one in apart if chance("repeat", self.person, one) < self.repeated]
        return [self._by_id[one] for one in mine if one not in again | self._reported]

    def _begun(self) -> Choice | None:
        """What the person was shown last, or took back last, and has not put away: a page that is loaded anew shows it again."""
        kind, whose = {e.id: e for e in self.events}, [e for e in self.events if e.person == self.person]
        free = {item.id for item in (*self._practice, *self._queue)}
        due = {item.id for item in self._due}
        for event in reversed(whose):
            taken = kind.get(str(event.body.get("event"))) if event.kind == "undo" else None
            name = (taken or event).body.get("item")
            if event.kind in ("shown", "undo") and isinstance(name, str) and (name in free or name in due):
                return self._choice(self._by_id[name], int(name in due))
        return None

    def _choice(self, item: Item, repeat: int) -> Choice:
        return Choice(item, cards(item, self.person, repeat), repeat)

    def next(self) -> Choice | None:
        """What the person is asked next; None where nothing is left."""
        if (begun := self._begun()) is not None:
            return begun
        if self._practice:
            return self._choice(self._practice[0], 0)
        if self._due:
            return self._choice(self._due[0], 1)
        return self._choice(self._queue[0], 0) if self._queue else None

    def left(self) -> Left:
        real = {item.id for item in self.items if item.kind == "rank"}
        ranked = {event.body["item"] for event in self._standing if event.kind == "ranking"}
        return Left(
            practice=len(self._practice),
            own=len(self._queue),
            repeats=len(self._due),
            done=len(self._ranked),
            items=len(real),
            ranked=len(ranked & real),
            reported=len(self._reported & real),
        )


def ask(store: Store, person: str, event: str, **shares: float) -> tuple[Choice | None, Left]:
    """What the person is asked next, stored as shown under the id `event`, and what is left. One person at a time is served, so that
    no two are given the same item who should not be. Raises as `Store.add`."""
    with _ONE_AT_A_TIME:
        desk = Desk(store.items(), store.events(), person, datetime.now(UTC), **shares)
        choice = desk.next()
        if choice is not None:
            store.add(event, person, "shown", {"item": choice.item.id, "repeat": choice.repeat})
        return choice, desk.left()


def cards(item: Item, person: str, repeat: int = 0) -> tuple[str, ...]:
    """The completions' ids in the order of the cards, which belongs to the item and the person (and is another when it is repeated,
    so that nobody ranks from memory of places)."""
    ids = [one.id for one in item.completions]
    random.Random(_digest("cards", item.id, person, str(repeat))).shuffle(ids)
    return tuple(ids)


def chance(*of: str) -> float:
    """A number from 0 (inclusive) to 1 (exclusive) that belongs to `of`, evenly spread."""
    return int.from_bytes(_digest(*of)[:6]) / 2**48


def unsure(body: Mapping[str, Any]) -> float:
    """How unsure the reward model is of an item's order; 0 where nobody asked it."""
    found = body.get("unsure", 0.0)
    return float(found) if isinstance(found, int | float) else 0.0


def _digest(*of: str) -> bytes:
    return hashlib.sha256("\0".join(of).encode("utf-8", "replace")).digest()
