"""Does everybody get what is theirs? Practice, the share of all, items held, repeats, undo, skip and report, two people at once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.run import Run
from pipeline.people import choosing
from pipeline.people.choosing import Choice, Desk, ask, cards, chance
from pipeline.people.standing import last_words, reported, standing
from pipeline.people.store import Event, Item, new_item, open_store

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ITEMS = [
    new_item(f"prompt {n}", [(f"a{n}", "sft"), (f"b{n}", "ppo"), (f"c{n}", None)], body={"unsure": n / 100})
    for n in range(100)
]
PRACTICE = [
    new_item(f"practice {n}", [("good", None), ("bad", None)], "practice", {"order": [["c0"], ["c1"]]})
    for n in range(2)
]
EVERYBODYS = {item.id for item in ITEMS if chance("overlap", item.id) < choosing.OVERLAP}


class Office:
    """People who work, without a disk."""

    def __init__(self, items: list[Item], **shares: float) -> None:
        self.items, self.shares, self.events, self.now = items, shares, list[Event](), NOW

    def did(self, person: str, kind: str, **body: Any) -> str:
        name = f"e{len(self.events)}"
        self.events.append(Event(name, self.now.isoformat(), person, kind, body))
        return name

    def desk(self, person: str) -> Desk:
        return Desk(self.items, self.events, person, self.now, **self.shares)

    def shown(self, person: str) -> Choice | None:
        choice = self.desk(person).next()
        if choice is not None:
            self.did(person, "shown", item=choice.item.id)
        return choice

    def ranks(self, person: str) -> Choice | None:
        if (choice := self.shown(person)) is not None:
            self.said(person, choice.item.id, choice.repeat)
        return choice

    def said(self, person: str, item: str, repeat: int = 0) -> str:
        return self.did(person, "ranking", item=item, repeat=repeat)


def test_practice_comes_first_and_then_what_the_reward_model_is_least_sure_of() -> None:
    office = Office([*ITEMS, *PRACTICE], repeated=0.0)
    found = [office.ranks("Anna") for _ in range(102)]
    assert [one.item for one in found if one][:2] == PRACTICE and found[0] and found[0].practice
    assert [one.item for one in found if one][2:] == ITEMS[::-1]
    assert office.shown("Anna") is None


def test_a_share_goes_to_everybody_and_the_rest_to_one_person_each() -> None:
    assert 10 <= len(EVERYBODYS) <= 30
    office, of = Office(ITEMS, repeated=0.0), Counter[str]()
    for turn in range(300):
        if (choice := office.ranks(f"person {turn % 3}")) is not None:
            of[choice.item.id] += 1
    assert of == Counter({item.id: 3 if item.id in EVERYBODYS else 1 for item in ITEMS})


def test_who_was_shown_an_item_holds_it_for_half_an_hour() -> None:
    one = next(item for item in ITEMS if item.id not in EVERYBODYS)
    office = Office([one])
    assert office.shown("Anna") is not None and office.shown("Ben") is None
    assert (again := office.shown("Anna")) is not None and again.item == one, "a page that is loaded anew"
    office.now += timedelta(minutes=29)
    assert office.shown("Ben") is None
    office.now += timedelta(minutes=2)
    assert office.shown("Ben") is not None, "Anna went away"
    assert office.shown("Anna") is None, "now Ben holds it"
    office.did("Ben", "skip", item=one.id)
    assert office.shown("Anna") is not None and office.shown("Ben") is None


@pytest.mark.parametrize("kind", ["skip", "ranking"])
def test_undo_brings_the_item_back_at_once(kind: str) -> None:
    office = Office(ITEMS)
    first = office.shown("Anna")
    assert first is not None
    done = office.did("Anna", kind, item=first.item.id, repeat=0)
    second = office.shown("Anna")
    assert second is not None and second.item != first.item
    office.did("Anna", "undo", event=done)
    assert office.shown("Anna") == first
    office.said("Anna", first.item.id)
    assert office.shown("Anna") == second, "what was on the screen then"


def test_only_ones_own_is_taken_back_and_taking_back_can_be_taken_back() -> None:
    office = Office(ITEMS)
    first = office.said("Anna", ITEMS[0].id)
    office.did("Ben", "undo", event=first)
    assert [one.id for one in standing(office.events)] == [first]
    undo = office.did("Anna", "undo", event=first)
    assert standing(office.events) == []
    office.did("Anna", "undo", event=undo)
    assert [one.id for one in standing(office.events)] == [first]
    office.did("Anna", "undo", event="none")
    assert [one.id for one in standing(office.events)] == [first]


def test_the_last_word_counts() -> None:
    office = Office(ITEMS)
    first, _ = office.said("Anna", ITEMS[0].id), office.said("Ben", ITEMS[0].id)
    last = office.said("Anna", ITEMS[0].id)
    again = office.said("Anna", ITEMS[0].id, 1)
    found = last_words(office.events)
    assert [one.id for one in found.values()] == ["e1", last, again] and found["Anna", ITEMS[0].id, 0].id == last
    office.did("Anna", "undo", event=last)
    assert last_words(office.events)["Anna", ITEMS[0].id, 0].id == first


def test_what_was_reported_is_asked_of_nobody_until_that_is_taken_back() -> None:
    office = Office(ITEMS[:1], overlap=1.0)
    office.shown("Anna")
    report = office.did("Anna", "report", item=ITEMS[0].id, reason="unfit")
    assert office.shown("Anna") is None and office.shown("Ben") is None
    assert office.desk("Ben").left().reported == 1 and list(reported(standing(office.events))) == [ITEMS[0].id]
    office.did("Anna", "undo", event=report)
    assert office.shown("Anna") is not None and office.shown("Ben") is not None


def test_some_of_ones_own_come_again_and_never_right_after() -> None:
    office, seen = Office(ITEMS, repeated=0.2), list[tuple[str, int]]()
    while (choice := office.ranks("Anna")) is not None:
        seen.append((choice.item.id, choice.repeat))
    again = [one for one, repeat in seen if repeat]
    assert len(seen) == len(set(seen)) and {one for one, repeat in seen if not repeat} == {item.id for item in ITEMS}
    assert 5 <= len(again) <= 35 and set(again) <= {one for one in again if chance("repeat", "Anna", one) < 0.2}
    first = [one for one, repeat in seen if not repeat]
    for name in again:
        before = [one for one, repeat in seen[: seen.index((name, 1))] if not repeat]
        assert len(before) - 1 - first.index(name) >= choosing.APART
    other = Office(ITEMS, repeated=0.2)
    while (choice := other.ranks("Anna")) is not None:
        assert (choice.item.id, choice.repeat) == seen.pop(0), "the same again for whoever does the same"
    assert seen == []


def test_a_repeat_that_is_skipped_does_not_come_again_and_is_no_skip_of_the_first() -> None:
    office, skipped = Office(ITEMS[:40], repeated=0.3), set[str]()
    while (choice := office.shown("Anna")) is not None:
        if choice.repeat:
            assert choice.item.id not in skipped
            skipped.add(choice.item.id)
            office.did("Anna", "skip", item=choice.item.id)
        else:
            office.said("Anna", choice.item.id)
    assert skipped and len(last_words(office.events)) == 40


def test_cards_have_an_order_that_belongs_to_item_and_person() -> None:
    orders = [cards(ITEMS[0], person) for person in ("Anna", "Ben", "Cleo", "Dora", "Emil", "Fay")]
    assert cards(ITEMS[0], "Anna") == orders[0] and len(set(orders)) > 1
    assert all(sorted(one) == ["c0", "c1", "c2"] for one in orders)
    first = Counter(cards(item, "Anna")[0] for item in ITEMS)
    assert set(first) == {"c0", "c1", "c2"} and max(first.values()) < 60, "no place is one model's"
    assert any(cards(item, "Anna", 1) != cards(item, "Anna") for item in ITEMS)


def test_what_is_left_is_counted() -> None:
    office = Office([*ITEMS[:30], *PRACTICE], repeated=0.5)
    for _ in range(2 + 15):
        office.ranks("Anna")
    office.shown("Ben")
    left = office.desk("Anna").left()
    ranked = {e.body["item"] for e in office.events if e.kind == "ranking"} - {one.id for one in PRACTICE}
    assert left.practice == 0 and left.done == len(ranked) == left.ranked and left.items == 30 and left.reported == 0
    assert left.own + left.done == 30 and office.desk("Ben").left().practice == 2


def test_events_of_items_that_are_not_there_are_nothing() -> None:
    office = Office(ITEMS[:2])
    office.said("Anna", "gone")
    office.did("Anna", "report", item="gone", reason="x")
    assert office.desk("Anna").left().done == 0 and office.shown("Anna") is not None


def test_two_people_at_once_are_not_given_the_same(tmp_path: Path) -> None:
    kept = open_store(Run("demo", tmp_path))
    kept.add_items(ITEMS[:16])
    with ThreadPoolExecutor(8) as pool:
        people = [f"person {n}" for n in range(8)]
        found = list(
            pool.map(lambda person: ask(kept, person, f"shown-{person.replace(' ', '-')}", overlap=0.0)[0], people)
        )
    assert len({one.item.id for one in found if one}) == 8
    assert [event.body for event in kept.events("shown", "person 0")] == [{"item": found[0].item.id, "repeat": 0}]  # type: ignore[union-attr]
