"""What does one row of a source give, all of it accounted for?

A row is brought into the words of its form (`prepared`), recognised by its shape, parsed, and held against the columns
that the form does not read. What depends on the shape alone is worked out once a shape: rows of a file have few.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from data.forms import detection
from data.forms.account import Account
from data.forms.beside import Beside, accounted, beside
from data.forms.graded import is_graded
from data.forms.place import Place
from data.forms.rated import HELPSTEER
from data.forms.shapes import Format, Shape, Signature, signature
from data.reading import written
from data.reading.flaws import SourceRow
from data.schema import Problem

SHAPES = 4096
"""Shapes of rows of which something is remembered; where a file has more they are forgotten again."""
OBJECTS = ("prompt", "chosen", "rejected", "completion", "messages", "rejected_messages")
"""Fields in which a whole conversation may lie inside an object."""
ASKED = ("question", "query", "input")
"""Other names of a prompt that stands alone."""

ANSWERED = ("messages", "completion", "completions", "chosen", "rejected", "output", "conversations", "conversation")
"""Fields that hold the answer, so that a `response` is something else."""

Values = Callable[[dict[str, Any], Place], list[Any]]


class Known(NamedTuple):
    """What is known of all rows of one shape: the forms that they fit, what is to be changed before, looked at after."""

    names: tuple[str, ...] = ()
    renamed: Mapping[str, str] | None = None
    """Our names of columns to theirs, where the row must be prepared; None where it is read as it is."""
    beside: Beside | None = None
    """What is to be looked at once the row is parsed; None where there is nothing."""
    plain: bool = False
    """Whether parsing is all there is to do, as for nearly every row."""


def prepared(row: dict[str, Any], shape: Shape | None = None) -> dict[str, Any]:
    """The row in our words: structures that were printed as texts unfolded, columns that have another name renamed."""
    known = preparation(shape or Shape(signature(row)))
    return row if known is None else _prepared(row, known)


def preparation(shape: Shape) -> dict[str, str] | None:
    """Our names to theirs of the columns to be renamed; None where rows of this shape are read as they are."""
    renamed = _other_names(shape)
    alone = not any(key in shape.kinds for key in ("conversations", "conversation"))
    lying = [key for key in OBJECTS if shape.is_object(key) and key in shape.kinds]
    inside = any(_holds_messages(shape.inside(key), alone) for key in lying)
    return renamed if renamed or inside or "structure" in shape.kinds.values() else None


def _holds_messages(keys: frozenset[str], alone: bool) -> bool:
    return bool(keys & {"messages", "conversations", "conversation"}) or (alone and written.is_message(keys))


def _other_names(shape: Shape) -> dict[str, str]:
    kinds, renamed = shape.kinds, dict[str, str]()
    rated = [key for key in ("scores", "rewards") if key in kinds]
    lists = [key for key in ("responses", "answers") if shape.is_list(key) and not shape.inside(key)]
    if "completions" not in kinds and len(lists) == 1 and (rated or "ratings" in kinds or "ranking" in kinds):
        renamed["completions"] = lists[0]
    given = "completions" in kinds or "completions" in renamed
    if given and len(rated) == 1 and "ratings" not in kinds and "ranking" not in kinds:
        renamed["ratings"] = rated[0]
    asks = [key for key in ASKED if key in kinds]
    asked = any(key in kinds for key in ("prompt", "messages", "instruction", "conversations", "conversation"))
    if shape.has("messages", "chosen", "rejected", without=["prompt"]) and shape.is_list("messages"):
        renamed["prompt"] = "messages"
    if len(asks) == 1 and not asked and (given or shape.has("chosen", "rejected") or "completion" in kinds):
        renamed["prompt"] = asks[0]
    return renamed | _response_of(shape, renamed)


def _response_of(shape: Shape, renamed: Mapping[str, str]) -> dict[str, str]:
    """ms-swift's older names: the `response` to a query, and the one that was rejected beside it."""
    if not shape.has("response", without=ANSWERED) or is_graded(shape) or any(key in shape.kinds for key in HELPSTEER):
        return {}
    asks = [key for key in ("prompt", "instruction", *ASKED) if key in shape.kinds]
    asks = [key for key in asks if key != "input" or "instruction" not in asks]
    if len(asks) != 1:
        return {}
    made = {} if asks[0] in ("prompt", "instruction") else {"prompt": asks[0]}
    if "rejected_response" in shape.kinds:
        return made | {"chosen": "response", "rejected": "rejected_response"}
    return made | {"output" if asks[0] == "instruction" else "completion": "response"}


def _prepared(row: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    ours = {theirs: name for name, theirs in renamed.items()}
    alone = not any(key in row for key in ("conversations", "conversation"))
    made = {ours.get(key, key): value for key, value in row.items()}
    for key, value in made.items():
        if isinstance(value, str) or (
            key in OBJECTS and isinstance(value, dict) and (alone or not written.is_message(value))
        ):
            made[key] = written.unfolded(key, value)
    return made


def reader(chosen: Format, name: str, explicit: bool, account: Account) -> Values:
    """What makes of a source's row the values that the chosen format gives for it. Columns that nobody reads are noted."""
    own = (name,)
    parse = chosen.parse
    known: dict[Signature, Known] = {}
    # Rows that were prepared have shapes of their own, and are not prepared twice.
    ready: dict[Signature, Known] = {}

    def learn(row: dict[str, Any], of: Signature, into: dict[Signature, Known]) -> Known:
        if len(into) == SHAPES:
            into.clear()
        shape = Shape(of)
        renamed = preparation(shape) if into is known else None
        if renamed is not None:
            into[of] = Known(renamed=renamed)
        else:
            names = own if explicit else detection.matching(of)
            found = beside(shape, row, chosen) if names == own else None
            looks = found if found is not None and found.looks else None
            into[of] = Known(names, None, looks, names == own and looks is None)
            for column in found.unread if found else ():
                account.unread_column(column, row[column])
        return into[of]

    def values_of(row: dict[str, Any], at: Place) -> list[Any]:
        of = signature(row)
        found = known.get(of)
        if found is None:
            found = learn(row, of, known)
        if found.plain:
            value = parse(row, at)
            return [value] if value is not None and type(value) is not list else several(value, at)
        if found.renamed is not None:
            return through(row, found.renamed, at)
        return parsed(row, found, at)

    def through(row: dict[str, Any], renamed: Mapping[str, str], at: Place) -> list[Any]:
        before = len(at.problems)
        made = _prepared(row, renamed)
        of = signature(made)
        for key, value in made.items():
            if isinstance(value, str) and value[:1] in written.STARTS and written.broken(value):
                at.report(key, "it seems a list of messages that was printed, and cannot be read", "write it as JSON")
        values = [] if at.problems else parsed(made, ready.get(of) or learn(made, of, ready), at)
        at.problems[before:] = [in_their_words(problem, renamed) for problem in at.problems[before:]]
        return values

    def parsed(row: dict[str, Any], found: Known, at: Place) -> list[Any]:
        if found.names != own:
            _misfit(row, chosen, name, found.names, at)
            return []
        value = parse(row, at)
        return several(value if found.beside is None else accounted(row, value, found.beside, at), at)

    def several(value: Any, at: Place) -> list[Any]:
        if value is None:
            if not at.problems and not at.left_out:
                said = f"{name} gave nothing for {at.source} and said nothing; call at.report or at.leave_out"
                raise RuntimeError(said)
            return []
        return value if isinstance(value, list) else [value]

    return values_of


def _misfit(row: dict[str, Any], chosen: Format, name: str, names: tuple[str, ...], at: Place) -> None:
    """Report what keeps a row from being of the chosen format, by its keys or else by what is in them."""
    if name in names:
        at.problems.append(detection.two_formats(SourceRow(row, at.file, at.line), names))
        return
    before = len(at.problems)
    chosen.parse(row, at)
    if len(at.problems) == before:
        better = detection.spelling(row)
        fix = better or f"make it {name}, or move it to a file of its own"
        what = f"looks like {names[0]}" if names else "has a key that seems misspelt" if better else "fits no format"
        shown = "" if names or better else f", with the keys {detection.listed(row)},"
        at.report("keys", f"the row {what}{shown} among rows of the format {name}", fix)


def in_their_words(problem: Problem, renamed: Mapping[str, str]) -> Problem:
    """The problem with the user's own column name."""
    for name, column in renamed.items():
        if problem.field == name or problem.field.startswith((f"{name}.", f"{name}[")):
            return replace(problem, field=column + problem.field[len(name) :])
    return problem
