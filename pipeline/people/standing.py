"""What of all that people did counts now? Nothing that was taken back, and of each person the last word on an item.

An event of kind "undo" takes back one of the same person's; one that is itself taken back takes nothing back. Events are always
given as the store has them, in the order in which they were stored.
"""

from collections.abc import Iterable, Sequence

from pipeline.people.store import Event

LastWords = dict[tuple[str, str, int], Event]
"""(person, item, repeat) -> the ranking that counts."""


def standing(events: Sequence[Event]) -> list[Event]:
    """The events that were not taken back, without those that take back."""
    gone, whose = set[str](), {event.id: event.person for event in events}
    for event in reversed(events):
        if (
            event.kind == "undo"
            and event.id not in gone
            and whose.get(target := str(event.body.get("event"))) == event.person
        ):
            gone.add(target)
    return [event for event in events if event.kind != "undo" and event.id not in gone]


def last_words(events: Sequence[Event]) -> LastWords:
    """The rankings that count: of each person on an item the last, and that of the repeat apart."""
    found: LastWords = {}
    for event in standing(events):
        if event.kind == "ranking":
            key = event.person, event.body["item"], event.body["repeat"]
            found.pop(key, None)  # so that the order is that of the last words
            found[key] = event
    return found


def reported(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Items that somebody reported, with the reports; `events` are those that stand. Such an item is asked of nobody, and exported
    for nobody, until the report is taken back."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.kind == "report":
            found.setdefault(event.body["item"], []).append(event)
    return found
