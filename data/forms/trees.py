"""How do OpenAssistant's trees of messages become rankings?

People wrote several replies to one message and others ranked these siblings, 0 the best. They come as flat rows that
name their parent, or as one row a tree. Either way a ranking is made at every message of a prompter with two or more
ranked replies; its prompt is the path of messages from the root. Where `events` say who ranked the replies and how, every
person's order is a ranking, in the place of the `rank` that was made of them all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data.forms import checks
from data.forms.place import Place
from data.reading.flaws import called
from data.schema import Completion, Problem, Ranking

ROLES = {"prompter": "user", "assistant": "assistant"}


class Order(NamedTuple):
    """One person's order of the replies to `parent`, or else to the message that holds it: their ids, the best first."""

    annotator: str | None
    ids: list[str]
    parent: str | None
    where: str


@dataclass
class Message:
    """One message; `before` stands before the names of its fields where a row holds more than one message.

    `orders` are what people said of replies. `root` says whether its row names no parent, None where it has no such key; `reason` says why nothing is made of it,
    None as long as something may be.
    """

    id: str
    parent: str | None
    role: str
    text: str
    rank: int | None
    deleted: bool
    at: Place
    before: str = ""
    orders: list[Order] = field(default_factory=list)
    reason: str | None = None
    used: bool = False
    root: bool | None = False

    def report(self, key: str, problem: str, fix: str) -> None:
        self.at.report(self.before + key, problem, fix)
        self.reason = "refused"


def openassistant(row: dict[str, Any], at: Place) -> Message | None:
    """One message of a tree as a row of its own: `message_id, parent_id, text, role, rank, deleted`."""
    parent = checks.optional_text(row, "parent_id", at)
    message = _message(row, at, "")
    if message is not None:
        message.parent = parent
        message.root = None if "parent_id" not in row else row["parent_id"] is None
    return message


def _message(row: dict[str, Any], at: Place, field: str) -> Message | None:
    inner: list[Problem] = []
    here = Place(at.file, at.line, inner)
    name = checks.text(row, "message_id", here)
    role = checks.text(row, "role", here)
    if role is not None and role not in ROLES:
        near = checks.near(role, ROLES)
        here.report("role", f'"{role}" is no role', f'did you mean "{near}"?' if near else "use " + ", ".join(ROLES))
    deleted = checks.truth(row, "deleted", here)
    # What is left of a deleted message is nobody's reply, and may be nothing.
    said = "" if deleted else checks.text(row, "text", here)
    rank = None if row.get("rank") in (None, "") else checks.number(row, "rank", here, low=0)
    if rank is not None and rank != int(rank):
        here.report("rank", f"{rank:g} is a score, not a rank", "write the places: 0 for the best, 1 for the next")
    orders = _orders(row, here)
    for problem in inner:
        at.report(field + problem.field, problem.problem, problem.fix)
    if inner or name is None or role is None or said is None:
        return None
    return Message(name, None, ROLES[role], said, None if rank is None else int(rank), deleted, at, field, orders)


def _orders(row: dict[str, Any], at: Place) -> list[Order]:
    """What people said in the ranking events of a message; where nothing could be ranked nothing was said."""
    events = row.get("events")
    if events is None:
        return []
    given = events.get("ranking") if isinstance(events, dict) else events
    key = "events.ranking" if isinstance(events, dict) else "events"
    if given is None:
        return []
    if not isinstance(events, dict) or not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        at.report(key, f"it is {called(given)}, not a list of events by kind", "export the trees again, or ignore it")
        return []
    made: list[Order] = []
    for place, event in enumerate(given):
        here = at.within(f"{key}[{place}]")
        if checks.truth(event, "not_rankable", here):
            continue
        who = checks.optional_name(event, "user_id", here)
        parent = checks.optional_text(event, "ranking_parent_id", here)
        ids = event.get("ranked_message_ids")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            here.report(
                "ranked_message_ids", f"it is {called(ids)}, not a list of ids", "write the ids, the best first"
            )
        elif len(set(ids)) < len(ids):
            here.report("ranked_message_ids", "an id stands twice in it", "name every reply once")
        else:
            made.append(Order(who, ids, parent, f"{key}[{place}].ranked_message_ids"))
    return made


def by_parent(parts: list[Any]) -> Iterator[tuple[Any, Ranking]]:
    """The rankings of all messages that `openassistant` gave; the others are left out, and say why."""
    messages: dict[str, Message] = {}
    said = any(part.value.root for part in parts)
    for part in parts:
        # Where roots say null, a row without the key has lost it, and would be taken for a root.
        if said and part.value.root is None:
            part.value.report("parent_id", "the key is missing", "give every row this key, null for a root")
        first = messages.setdefault(part.value.id, part.value)
        if first is not part.value:
            where = f"line {first.at.line}" + (f" of {first.at.file}" if first.at.file != part.at.file else "")
            part.value.report("message_id", f"the id is also that of {where}", "give every message its own id")
    made: dict[str, list[Ranking]] = {}
    for message, ranking in _rankings(messages):
        made.setdefault(message.id, []).append(ranking)
    for part in parts:
        if messages[part.value.id] is not part.value:
            continue
        if part.value.id in made and not part.at.problems:
            yield from ((part, ranking) for ranking in made[part.value.id])
        elif not part.value.used and not part.at.problems:
            part.at.leave_out(part.value.reason or "no ranked replies")


def openassistant_tree(row: dict[str, Any], at: Place) -> list[Ranking] | None:
    """One tree a row: a `prompt` with `replies`, which have replies in their turn."""
    root = checks.record(row, "prompt", at)
    if root is None:
        return None
    before = len(at.problems)
    messages: dict[str, Message] = {}
    waiting: list[tuple[dict[str, Any], str, str | None]] = [(root, "prompt.", None)]
    while waiting:
        node, field, parent = waiting.pop()
        message = _message(node, at, field)
        if message is not None:
            message.parent = parent
            if messages.setdefault(message.id, message) is not message:
                message.report(
                    "message_id", f'"{message.id}" stands twice in the tree', "give every message its own id"
                )
        if node.get("replies") is None:
            continue
        key = f"{field}replies"
        replies = checks.records({key: node["replies"]}, key, at, least=0) or []
        below = None if message is None else message.id
        waiting += [(reply, f"{key}[{place}].", below) for place, reply in reversed(list(enumerate(replies)))]
    if len(at.problems) > before:
        return None
    made = [ranking for _, ranking in _rankings(messages)]
    if len(at.problems) > before:
        return None
    if not made:
        reasons = {message.reason for message in messages.values()}
        told = ("tie", "only one ranked reply", "not ranked", "deleted")
        at.leave_out(next((reason for reason in told if reason in reasons), "no ranked replies"))
    return made or None


def _rankings(messages: dict[str, Message]) -> Iterator[tuple[Message, Ranking]]:
    """The rankings of each message that has two ranked replies, in the order of the messages."""
    _refuse(messages)
    said = _said(messages)
    replies: dict[str, list[Message]] = {}
    for message in messages.values():
        if message.parent is not None and message.role == "assistant" and message.reason is None:
            if message.rank is None:
                message.reason = "not ranked"
            else:
                replies.setdefault(message.parent, []).append(message)
    for message in messages.values():
        orders = said.get(message.id)
        if message.reason == "refused":
            continue
        if orders:
            for number, (order, best_first) in enumerate(orders, 1):
                name = message.id if len(orders) == 1 else f"{message.id}-{number}"
                tiers_of = [[reply.id] for reply in best_first]
                yield message, _ranking(name, message, best_first, tiers_of, messages, order.annotator)
            continue
        ranked = _distinct(sorted(replies.get(message.id, []), key=lambda reply: reply.rank or 0))
        tiers: dict[int, list[str]] = {}
        for reply in ranked:
            tiers.setdefault(reply.rank or 0, []).append(reply.id)
        if len(tiers) < 2:
            for reply in ranked:
                reply.reason = "tie" if len(ranked) > 1 else "only one ranked reply"
            continue
        yield message, _ranking(message.id, message, ranked, list(tiers.values()), messages)


def _ranking(
    name: str,
    message: Message,
    ranked: list[Message],
    tiers: list[list[str]],
    messages: dict[str, Message],
    annotator: str | None = None,
) -> Ranking:
    path = _path(message, messages)
    for used in (*ranked, *path):
        used.used = True
    return Ranking(
        name,
        [{"role": one.role, "content": one.text} for one in path],
        tuple(Completion(reply.id, reply.text) for reply in ranked),
        tuple(tuple(tier) for tier in tiers),
        message.at.source,
        annotator,
    )


def _said(messages: dict[str, Message]) -> dict[str, list[tuple[Order, list[Message]]]]:
    """By message, each person's order of two or more of its replies; tells where one names what is no reply to it."""
    made: dict[str, list[tuple[Order, list[Message]]]] = {}
    given = [(holder, order, order.parent or holder.id) for holder in messages.values() for order in holder.orders]
    for holder, order, parent in given:
        strange = [one for one in order.ids if one not in messages or messages[one].parent != parent]
        if strange:
            what = f'it names "{strange[0]}", and no sound reply to "{parent}" has this id'
            holder.report(order.where, what, "add the reply, or take its id out")
    for holder, order, parent in given:
        kept: dict[str, Message] = {}
        if holder.reason != "refused" and parent in messages and messages[parent].reason is None:
            for reply in (messages[one] for one in order.ids):
                if reply.reason is None:
                    kept.setdefault(reply.text.strip(), reply)
        if len(kept) > 1:
            made.setdefault(parent, []).append((order, list(kept.values())))
    return made


def _distinct(replies: list[Message]) -> list[Message]:
    """The replies without those that say what a better one says."""
    kept: dict[str, Message] = {}
    for reply in replies:
        if kept.setdefault(reply.text.strip(), reply) is not reply:
            reply.reason = "same text as another reply"
    return list(kept.values())


def _path(message: Message, messages: dict[str, Message]) -> list[Message]:
    path = [message]
    while path[-1].parent is not None:
        path.append(messages[path[-1].parent])
    return path[::-1]


def _refuse(messages: dict[str, Message]) -> None:
    """Tell what is wrong between messages, and give every one that can be in no ranking the reason for it."""
    settled: set[str] = set()
    for message in messages.values():
        # Up to a root or to what is known already, then down again: no path is walked twice.
        path: list[Message] = []
        on_path: dict[str, int] = {}
        here: Message | None = message
        while here is not None and here.id not in settled and here.id not in on_path:
            on_path[here.id] = len(path)
            path.append(here)
            here = None if here.parent is None else messages.get(here.parent)
        if here is not None and here.id in on_path:
            for one in path[on_path[here.id] :]:
                one.report("parent_id", "the message answers itself, by way of others", "mend the ids of the parents")
        for one in reversed(path):
            settled.add(one.id)
            _settle(one, messages)


def _settle(message: Message, messages: dict[str, Message]) -> None:
    """Judge a message whose parent has been judged."""
    parent = None if message.parent is None else messages.get(message.parent)
    if message.reason is not None:
        return
    if message.parent is not None and parent is None:
        message.report("parent_id", "no sound message has this id", "add the parent or take the message out")
    elif parent is None and message.role != "user":
        message.report("role", "a tree does not begin with the assistant", "begin with a prompter's message")
    elif parent is not None and parent.role == message.role:
        message.report("role", "it answers a message of the same role", "let prompter and assistant alternate")
    elif message.deleted:
        message.reason = "deleted"
    elif parent is not None and parent.reason is not None:
        below = "deleted" if parent.reason in ("deleted", "below a deleted message") else "refused"
        message.reason = f"below a {below} message"
