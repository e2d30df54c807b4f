"""How are the exports of labelling tools read: Argilla's flat records and Label Studio's tasks?

Several people may have ranked one record, which then gives several rankings. What somebody began and did not submit, or
cancelled, is left out; a record of which nothing remains is left out and counted.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from data.forms import checks, columns
from data.forms import rankings as making
from data.forms.columns import plain
from data.forms.options import meant
from data.forms.pairs import sides
from data.forms.place import Place
from data.forms.shapes import Shape
from data.reading.flaws import called
from data.schema import Completion, PromptText, Ranking

PROMPTS = ("prompt", "instruction")
RESPONSES = ".responses"
STATUSES = ("submitted", "draft", "discarded", "pending")
ITEM_TEXTS = ("body", "text", "title")
UNRANKED = "_"
"""Label Studio's name for the items that nobody put anywhere."""
PAIRWISE = ("left", "right")


class Judgement(NamedTuple):
    """What one person said: the places of the items by their names, 0 the best."""

    annotator: str | None
    places: dict[str, int]
    field: str


def _rankings(
    row: dict[str, Any],
    at: Place,
    prompt: PromptText | None,
    texts: dict[str, str],
    judgements: Sequence[Judgement],
) -> list[Ranking]:
    """One ranking a judgement; with more than one they are numbered in their ids."""
    name = checks.name(row, at)
    made: list[Ranking] = []
    for number, (annotator, places, field) in enumerate(judgements, 1):
        completions = [Completion(one, texts[one]) for one in texts if one in places]
        scores = [-places[one.id] for one in completions]
        own = name if name is None or len(judgements) == 1 else f"{name}-{number}"
        whose = {"id": own, "annotator": annotator}
        ranking = None if name is None else making.by_score(whose, at, prompt, completions, scores, field=field)
        made += [] if ranking is None else [ranking]
    return made


def _nothing_lost(rest: dict[str, Any], before: str, at: Place) -> None:
    """Report texts and judgements in fields that nobody read; `before` stands before their names."""
    for key, value in rest.items():
        if (loss := columns.lost(key, value)) is not None:
            at.report(before + key, loss.problem, loss.fix)


def _prompt(row: dict[str, Any], at: Place, before: str = "") -> PromptText | None:
    """The prompt, under one of its names; `before` stands before the name in what is reported."""
    key = next((name for name in PROMPTS if name in row), PROMPTS[0])
    return checks.prompt({before + name: value for name, value in row.items()}, at, before + key)


# Argilla


def is_argilla(shape: Shape) -> bool:
    """Whether there is a question with answers and their status, as `to_list(flatten=True)` writes it."""
    return any(key.endswith(RESPONSES) and f"{key}.status" in shape.kinds for key in shape.kinds)


def reads(row: dict[str, Any]) -> set[str]:
    """The columns of a flat record that are read: those of the answers have names that the rankings give."""
    questions = {key for key in row if f"{RESPONSES}." in f"{key}."}
    named = {name for key in questions for name in _names(row[key])}
    counted = [(meant(set(_names(row[key])), _fields(row)) or {}).values() for key in questions]
    return {*PROMPTS, *questions, *(name for name in named if name in row), *(name for one in counted for name in one)}


def _fields(row: dict[str, Any]) -> list[str]:
    """The fields that may hold an answer."""
    return [
        name
        for name, value in row.items()
        if isinstance(value, str) and "." not in name and name not in (*PROMPTS, "id")
    ]


def _names(value: Any) -> Iterator[str]:
    """Every text in an answer."""
    if isinstance(value, str):
        yield value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for inner in inside:
        yield from _names(inner)


def argilla(row: dict[str, Any], at: Place) -> list[Ranking] | None:
    """The ranking question of a flat record, whose values name the fields that hold completions, or count them."""
    prompt = _prompt(row, at)
    question = _question(row, at)
    if question is None:
        return None
    before = len(at.problems)
    judgements = _submitted(row, question, at)
    if len(at.problems) > before:
        return None
    if not judgements:
        at.leave_out("nothing was submitted")
        return None
    judgements = _of_fields(judgements, row, question, at)
    fields = dict.fromkeys(name for judgement in judgements for name in judgement.places)
    # In the order of the record: the completions must not give away what was thought of them.
    texts = {name: checks.text(row, name, at) for name in [*(name for name in row if name in fields), *fields]}
    sound = {name: text for name, text in texts.items() if text is not None}
    read = {*fields, *reads(row)}
    for key, value in row.items():
        loss = None if key in read or "." in key else columns.lost(key, value)
        # An answer that this record does not rank may be ranked in the next.
        if loss is not None and (not loss.said or plain(key) in columns.ASKING):
            at.report(key, loss.problem, loss.fix)
    return _rankings(row, at, prompt, sound, judgements) if len(at.problems) == before and prompt is not None else None


def _of_fields(judgements: list[Judgement], row: dict[str, Any], question: str, at: Place) -> list[Judgement]:
    """The judgements with names of fields for the values of the question; none, told, where it is not certain which."""
    options = dict.fromkeys(name for judgement in judgements for name in judgement.places)
    found = meant(options, _fields(row))
    if found is None:
        listed = ", ".join(_shown(one) for one in options)
        fix = "give the values of the question the names of the fields with the answers, or turn the rows with data.map"
        at.report(question, f"its values {listed} do not say which fields they mean", fix)
        return []
    return [one._replace(places={found[name]: place for name, place in one.places.items()}) for one in judgements]


def _question(row: dict[str, Any], at: Place) -> str | None:
    """The key of the answers to the ranking question; a record may hold other questions too."""
    keys = [key for key in row if key.endswith(RESPONSES) and f"{key}.status" in row]
    answered = [key for key in keys if isinstance(row[key], list) and any(_is_ranking(one, row) for one in row[key])]
    if len(answered) == 1 or len(keys) == 1:
        return (answered or keys)[0]
    if len(answered) > 1:
        names = " and ".join(f'"{key.removesuffix(RESPONSES)}"' for key in answered)
        at.report(answered[1], f"{names} are both ranking questions", "leave one of them out of the export")
    elif any(row[key] for key in keys):
        at.report(keys[0], "no question of the record is a ranking", "export the ranking question too")
    else:
        at.leave_out("nothing was submitted")
    return None


def _is_ranking(answer: Any, row: dict[str, Any]) -> bool:
    if isinstance(answer, dict):
        return "value" in answer and "rank" in answer
    if not isinstance(answer, list) or not answer:
        return False
    return all("value" in one if isinstance(one, dict) else isinstance(one, str) and one in row for one in answer)


def _submitted(row: dict[str, Any], key: str, at: Place) -> list[Judgement]:
    answers, status, users = (row.get(name) for name in (key, f"{key}.status", f"{key}.users"))
    if answers is None:
        return []
    for name, value in ((key, answers), (f"{key}.status", status), (f"{key}.users", users)):
        if name == f"{key}.users" and value is None:
            users = [None] * len(answers)
        elif not isinstance(value, list):
            at.report(name, f"it is {called(value)}, not a list", "export the records again")
            return []
        elif len(value) != len(answers):
            at.report(name, f"it has {len(value)} entries for {len(answers)} answers", "export the records again")
            return []
    made: list[Judgement] = []
    for place, (answer, state, user) in enumerate(zip(answers, status, users, strict=True)):  # type: ignore[arg-type]
        field = f"{key}[{place}]"
        if state not in (*STATUSES, None):
            at.report(f"{key}.status[{place}]", f"{_shown(state)} is no status", "use " + ", ".join(STATUSES))
        elif state == "submitted":
            where = f"{key}.users[{place}]"
            annotator = checks.optional_name({where: user}, where, at)
            places = _argilla_places(answer, field, at)
            made += [] if places is None else [Judgement(annotator, places, field)]
    return made


def _argilla_places(answer: Any, field: str, at: Place) -> dict[str, int] | None:
    """Places by field name: of objects with `value` and `rank`, or, without ranks, in the order of the names."""
    if isinstance(answer, dict) and isinstance(answer.get("value"), list) and isinstance(answer.get("rank"), list):
        # What Parquet makes of a list of objects.
        pairs = zip(answer["value"], answer["rank"], strict=False)
        answer = [{"value": value, "rank": rank} for value, rank in pairs]
    if not isinstance(answer, list):
        at.report(field, f"it is {called(answer)}, not a list", "write the names of the fields, the best first")
        return None
    before = len(at.problems)
    ranks: dict[str, int] = {}
    for place, one in enumerate(answer):
        where = f"{field}[{place}]"
        entry = one if isinstance(one, dict) else {"value": one}
        inside = {f"{where}.{name}": value for name, value in entry.items()}
        name = (
            checks.text(inside, f"{where}.value", at) if isinstance(one, dict) else checks.text({where: one}, where, at)
        )
        rank = checks.number(inside, f"{where}.rank", at, low=0) if "rank" in entry else place
        if rank is not None and rank != int(rank):
            at.report(f"{where}.rank", f"{rank:g} is a score, not a rank", "write the places: 1 for the best")
        if name in ranks:
            at.report(where, f'"{name}" stands twice in the ranking', "name every field once")
        elif name is not None and rank is not None:
            ranks[name] = int(rank)
    if len(at.problems) == before and len(ranks) < 2:
        at.report(field, "there are fewer than two in the ranking", "rank at least two, or take the answer out")
    if len({isinstance(one, dict) and "rank" in one for one in answer}) > 1:
        at.report(field, "some have a rank and some have none", "give every one a rank")
    return ranks if len(at.problems) == before else None


# Label Studio


def label_studio(row: dict[str, Any], at: Place) -> list[Ranking] | None:
    """A task of the JSON export: `data` with a prompt and a list of items, `annotations` that rank these; or two texts, of
    which they choose one."""
    data = checks.record(row, "data", at)
    annotations = checks.records(row, "annotations", at, least=0)
    if data is None or annotations is None:
        return None
    before = len(at.problems)
    prompt = _prompt(data, at, "data.")
    pair = _pair(data, annotations, at)
    if len(at.problems) > before:
        return None
    if pair is None:
        texts = _items(data, at)
    else:
        said = {key: checks.text({f"data.{key}": data[key]}, f"data.{key}", at) for key in data if key in pair}
        texts = {key: text for key, text in said.items() if text is not None}
    judgements: list[Judgement] = []
    for place, annotation in enumerate(annotations):
        field = f"annotations[{place}]"
        if not checks.truth({f"{field}.was_cancelled": annotation.get("was_cancelled")}, f"{field}.was_cancelled", at):
            judgement = _judgement(annotation, field, texts, pair, at)
            judgements += [] if judgement is None else [judgement]
    read = (*PROMPTS, *(pair or ()))
    rest = {key: value for key, value in data.items() if key not in read and (pair is not None or not _is_items(value))}
    _nothing_lost(rest, "data.", at)
    if len(at.problems) > before or prompt is None or texts is None:
        return None
    if not judgements:
        cancelled = annotations and all(one.get("was_cancelled") for one in annotations)
        at.leave_out("cancelled" if cancelled else "nothing was ranked")
        return None
    return _rankings(row, at, prompt, texts, judgements)


def _pair(data: dict[str, Any], annotations: list[dict[str, Any]], at: Place) -> tuple[str, str] | None:
    """The fields of the two texts of a Pairwise tag, the left one first; None where nobody used such a tag."""
    lists = [results for one in annotations if isinstance(results := one.get("result"), list)]
    chosen = [one for results in lists for one in results if isinstance(one, dict) and one.get("type") == "pairwise"]
    if not chosen:
        return None
    found: set[tuple[str, str] | None] = set()
    for one in chosen:
        named = [name.strip() for name in str(one.get("to_name")).split(",")]
        own = len(named) == 2 and named[0] != named[1] and all(name in data for name in named)
        found.add((named[0], named[1]) if own else sides(tuple(data)))
    if len(found) == 1 and None not in found:
        return found.pop()
    what = "it is not certain which two of its fields were compared"
    at.report("data", what, "name them answer1 (left) and answer2 (right), or as to_name does")
    return None


def _is_items(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) and "id" in one for one in value)


def _items(data: dict[str, Any], at: Place) -> dict[str, str] | None:
    """Texts of the ranked items by id."""
    lists = [name for name, value in data.items() if isinstance(value, list) and name not in PROMPTS]
    with_ids = [name for name in lists if _is_items(data[name])]
    if len(with_ids) != 1:
        what = "there are two lists of items" if with_ids else "there is no list of items with an id"
        at.report("data", what, 'give the list that was ranked: [{"id": …, "body": …}]')
        return None
    key = f"data.{with_ids[0]}"
    items = checks.records({key: data[with_ids[0]]}, key, at)
    if items is None:
        return None
    before = len(at.problems)
    texts: dict[str, str] = {}
    for place, item in enumerate(items):
        field = f"{key}[{place}]"
        inside = {f"{field}.{name}": value for name, value in item.items()}
        name = checks.optional_name(inside, f"{field}.id", at)
        named = next((one for one in ITEM_TEXTS if one in item), ITEM_TEXTS[0])
        said = checks.text(inside, f"{field}.{named}", at)
        if item.get("id") is None:
            at.report(f"{field}.id", "the item has no id", "give every item its own id")
        elif name in texts:
            at.report(f"{field}.id", f'the id "{name}" stands twice', "give every item its own id")
        elif name is not None and said is not None:
            texts[name] = said
    return texts if len(at.problems) == before else None


def _judgement(
    annotation: dict[str, Any], field: str, texts: dict[str, str] | None, pair: tuple[str, str] | None, at: Place
) -> Judgement | None:
    """What an annotation says; None where it says nothing, or what is wrong with it was reported."""
    key = f"{field}.result"
    results = checks.records({key: annotation.get("result")}, key, at, least=0)
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("id", who.get("email"))
    annotator = checks.optional_name({f"{field}.completed_by": who}, f"{field}.completed_by", at)
    if not results:
        return None
    rankers = [place for place, result in enumerate(results) if result.get("type") in ("ranker", "pairwise")]
    if len(rankers) != 1:
        what = "there are two rankings in it" if rankers else "there is no ranking in it"
        at.report(key, what, "export a project in which a Ranker tag orders one list")
        return None
    value = results[rankers[0]].get("value")
    if pair is not None:
        where = f"{key}[{rankers[0]}].value.selected"
        selected = value.get("selected") if isinstance(value, dict) else value
        if selected not in PAIRWISE:
            at.report(where, f"it is {columns.sample(selected)}, not left or right", "export the task again")
            return None
        better = PAIRWISE.index(selected)
        return Judgement(annotator, {pair[better]: 0, pair[1 - better]: 1}, where)
    found = _order(value.get("ranker") if isinstance(value, dict) else None, f"{key}[{rankers[0]}].value.ranker", at)
    if found is None:
        return None
    order, where = found
    before = len(at.problems)
    places: dict[str, int] = {}
    for place, one in enumerate(order):
        item = checks.optional_name({f"{where}[{place}]": one}, f"{where}[{place}]", at)
        if item is None or (texts is not None and item not in texts):
            at.report(f"{where}[{place}]", f"it names {_shown(one)}, which is no item", "use the ids of the items")
        elif item in places:
            at.report(f"{where}[{place}]", f'"{item}" stands twice in the ranking', "name every item once")
        else:
            places[item] = place
    return Judgement(annotator, places, where) if len(at.problems) == before and len(places) > 1 else None


def _order(ranker: Any, field: str, at: Place) -> tuple[list[Any], str] | None:
    """The ids best first and the field they stand in: of the list, or of the one bucket in which there are any."""
    if isinstance(ranker, list):
        return ranker, field
    if not isinstance(ranker, dict) or not all(isinstance(one, list) for one in ranker.values()):
        at.report(field, f"it is {called(ranker)}, not a list of ids", "write the ids of the items, the best first")
        return None
    buckets = [name for name in ranker if name != UNRANKED and ranker[name]]
    if len(buckets) > 1:
        at.report(field, "the items lie in several buckets", "rank them in one list, or turn the rows with map:")
        return None
    return (ranker[buckets[0]], f"{field}.{buckets[0]}") if buckets else ([], field)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else called(value)
