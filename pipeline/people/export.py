"""What people said, as files that the pipeline reads: `rankings.jsonl`, `votes.jsonl`, and beside them what makes no ranking.

    make rankings RUN=demo            # then: make all DATA=runs/demo/people/rankings.jsonl RUN=…

A row of rankings.jsonl is a `ranking` of data/schema.py with its annotator; `unranked`, `all_bad`, `note`, `seconds` are columns
beside it. It holds the last word of each person on each item; what was taken back, practice, repeats and reported items are
left out. Before the file takes its place, the pipeline's own reader reads it: a row that it would refuse goes to set_aside.jsonl with
the reason, and the others must come back as people made them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.forms.account import Reject
from data.loading import scan, to_rows
from data.reading.options import Options
from data.schema import Completion, Problem, Ranking, prompt_key
from pipeline.artifacts.files import write_bytes
from pipeline.artifacts.ownership import check_no_link, using
from pipeline.artifacts.run import Run
from pipeline.commands import learning, opening
from pipeline.people.orders import Order, in_order, ordered, ranked
from pipeline.people.standing import last_words, reported, standing
from pipeline.people.store import Event, Item, open_store, path_of

RANKINGS, VOTES, ASIDE = "rankings.jsonl", "votes.jsonl", "set_aside.jsonl"
ORDERS_NOTHING = "puts no completion above another, and a row of rankings needs two tiers"
AGAINST_ITSELF = "puts two texts in the order that a later ranking of the same person turns round"
WINNERS = {"a": "a", "b": "b", "tie": "tie", "bad": "tie"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What an export made: rows of rankings.jsonl, of votes.jsonl, and those of set_aside.jsonl by reason."""

    folder: Path
    rankings: Sequence[Row]
    votes: Sequence[Row]
    aside: Sequence[Row]

    @property
    def people(self) -> list[str]:
        return sorted({row["annotator"] for row in (*self.rankings, *self.votes)})


def export(run: Run) -> Made:
    """Write the run's files of what people said, each whole or not at all. Raises ArtifactError where the machine refuses."""
    kept, folder = open_store(run), path_of(run).parent
    items, events = kept.items(), kept.events()
    found, aside = rankings_of(items, events)
    with using(folder.parent):
        for name in (RANKINGS, VOTES, ASIDE):
            check_no_link(folder / name)
        found, refused = _readable(found, folder / f".{RANKINGS}")
        votes = votes_of(events)
        write_lines(folder / RANKINGS, found)
        write_lines(folder / VOTES, votes)
        write_lines(folder / ASIDE, [*aside, *refused])
    _check(folder / RANKINGS, found)
    return Made(folder, found, votes, [*aside, *refused])


def rankings_of(items: Sequence[Item], events: Sequence[Event]) -> tuple[list[Row], list[Row]]:
    """Rows of rankings, and those that make none, each with the reason under "why"; in the order of the last words."""
    known, said = {item.id: item for item in items}, standing(events)
    out = reported(said)
    rows, aside, made = list[Row](), list[Row](), list[Row]()
    for event in last_words(events).values():
        item = known.get(event.body["item"])
        if item is None:
            aside.append(
                {"id": event.id, "annotator": event.person, "body": event.body, "why": "its item is not in the store"}
            )
        elif item.kind == "rank" and not event.body["repeat"]:
            made.append(_row(item, event))
    for row in [*made, *(_preference(event) for event in said if event.kind == "preference")]:
        if (reports := out.get(row.get("item_id", ""))) is not None:
            told = "; ".join(f"{event.person}: {event.body.get('reason', '')}" for event in reports)
            aside.append(row | {"why": f"the item was reported ({told})"})
        elif len(row["ranking"]) < 2:
            aside.append(row | {"why": ORDERS_NOTHING})
        else:
            rows.append(row)
    return rows, aside


def votes_of(events: Sequence[Event]) -> list[Row]:
    """Rows of votes, texts and all; of a person's votes on the same two answers the first, as the names came behind it. Both
    bad is a tie, and says so."""
    found: dict[Any, Row] = {}
    for event in standing(events):
        if event.kind != "vote" or event.body.get("set_aside"):  # an answer gave away who wrote it
            continue
        body = event.body
        sides = {side: {"model": body[side]["model"], "text": body[side]["text"]} for side in ("a", "b")}
        key = event.person, prompt_key(body["prompt"]), frozenset((one["model"], one["text"]) for one in sides.values())
        row = {
            "id": event.id,
            "prompt": body["prompt"],
            **sides,
            "winner": WINNERS[body["outcome"]],
            "annotator": event.person,
        }
        row |= {"comment": body.get("why") or "", "both_bad": body["outcome"] == "bad", "at": event.at}
        found.setdefault(key, row | {"prompt_id": body.get("prompt_id")})
    return list(found.values())


def told(made: Made) -> str:
    """The lines that close an export: what was made, what was not and why, and what comes next."""
    lines = [
        f"rankings: {count} set aside in {made.folder / ASIDE}: {why}" for why, count in _reasons(made.aside).items()
    ]
    who = f" of {len(made.people)} {'person' if len(made.people) == 1 else 'people'}" if made.people else ""
    ties = sum(any(len(tier) > 1 for tier in row["ranking"]) for row in made.rankings)
    part = sum(bool(row["unranked"]) for row in made.rankings)
    what = f"{len(made.rankings)} rankings ({ties} with ties, {part} of a part of the completions)"
    votes = f", {len(made.votes)} votes in {made.folder / VOTES}" if made.votes else ""
    run = made.folder.parent.name
    after = learning(str(made.folder / RANKINGS), f"{run}_people") if made.rankings else opening(run)
    return "\n".join([*lines, f"rankings: {made.folder / RANKINGS}: {what}{who}{votes}; next: {after}"])


def _reasons(aside: Sequence[Row]) -> Mapping[str, int]:
    return Counter(
        "their item was reported" if row["why"].startswith("the item was reported") else row["why"] for row in aside
    )


def _row(item: Item, event: Event) -> Row:
    """The row that a ranking makes."""
    body, order = event.body, ordered(event.body)
    placed = tuple(in_order(item, sorted(ranked(order))))
    row = _ranking(event, item.prompt, placed, order)
    row |= {"unranked": [one.to_json() for one in in_order(item, order.unranked)], "all_bad": order.all_bad}
    row |= {"note": body["note"], "seconds": body["seconds"], "item_id": item.id, "shown_order": body["shown"]}
    return row


def _preference(event: Event) -> Row:
    """The row that a preference from a chat makes."""
    sides = [event.body["chosen"], event.body["rejected"]]
    answers = tuple(Completion(f"c{place}", one["text"], one.get("model")) for place, one in enumerate(sides))
    row = _ranking(event, event.body["prompt"], answers, Order((("c0",), ("c1",))))
    return row | {
        "unranked": [],
        "all_bad": False,
        "note": event.body.get("note") or "",
        "seconds": event.body.get("seconds"),
    }


def _ranking(event: Event, prompt: Any, answers: tuple[Completion, ...], order: Order) -> Row:
    row = Ranking(event.id, prompt, answers, order.tiers, "people", event.person).to_json()
    return row | {"at": event.at}


def _readable(rows: list[Row], draft: Path) -> tuple[list[Row], list[Row]]:
    """The rows that the pipeline's reader takes, and those that it refuses, with its reason under "why". Of two rows in which a person
    puts the same two texts in opposite orders, the later one is taken."""
    if not rows:
        return [], []
    newest_first = rows[::-1]
    why: dict[int, str] = {}

    def rejected(one: Reject) -> None:
        why.setdefault(one.line - 1, one.reason)

    def dropped(number: int, problem: Problem) -> None:
        why.setdefault((problem.line or 1) - 1, AGAINST_ITSELF if problem.field == "ranking" else problem.problem)

    try:
        write_lines(draft, newest_first)
        account = scan(str(draft), Options(format="ranking"), lambda number, row: None, dropped, rejected)
        if account.fatal:
            raise account.error()
    finally:
        draft.unlink(missing_ok=True)
    taken = [row for place, row in enumerate(newest_first) if place not in why]
    refused = [row | {"why": why[place]} for place, row in enumerate(newest_first) if place in why]
    return taken[::-1], refused[::-1]


def _check(path: Path, rows: Sequence[Row]) -> None:
    """Raise RuntimeError where the pipeline's reader gives other rankings than people made: that would be a mistake of ours."""
    if rows:
        read = to_rows(str(path), Options(format="ranking")).rows
        meant = [Ranking.from_json(row | {"source": one.source}) for one, row in zip(read, rows, strict=True)]
        if read != meant:
            wrong = next(one.id for one, other in zip(read, meant, strict=True) if one != other)
            raise RuntimeError(f"{path}: ranking {wrong} does not read back as it was made")


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """JSON lines, whole or not at all; half of a surrogate pair, which UTF-8 cannot hold, is written as JSON escapes it."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_bytes(path, "".join(lines).encode("utf-8", "backslashreplace"))
