"""How is Label Studio's JSON-MIN export read: a Ranker's order of items, a Pairwise choice of two answers?

A row is one person's annotation. The fields of the task stand beside the value of the labelling tag, whose name the
project chose; `annotation_id`, `annotator` and `lead_time` tell such a row from others.
"""

from typing import Any

from data.forms import checks
from data.forms import rankings as making
from data.forms.pairs import sides
from data.forms.place import Place
from data.forms.shapes import Shape
from data.forms.tools import ITEM_TEXTS, PROMPTS, UNRANKED
from data.reading.flaws import called
from data.schema import Completion, Ranking

ALWAYS = ("annotation_id", "annotator", "created_at", "updated_at", "lead_time")
LEFT, RIGHT = "left", "right"


def is_json_min(shape: Shape) -> bool:
    """Whether this is an annotation of ranked items or of two answers side by side."""
    items = any(shape.is_list(key) and "id" in shape.inside(key) for key in shape.kinds)
    return shape.has("annotation_id", "lead_time") and (items or sides(tuple(shape.kinds)) is not None)


def reads(row: dict[str, Any]) -> set[str]:
    """The columns that `json_min` looks at: the prompt, the answers and the verdict, whatever their names."""
    tag = _tag(row)
    answers = sides(tuple(row)) or tuple(key for key, value in row.items() if _is_items(value))
    prompt = next((key for key in PROMPTS if key in row), PROMPTS[0])
    return {*ALWAYS[:2], prompt, *answers, *([tag] if tag else [])}


def _is_items(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "id" in one for one in value)


def _tag(row: dict[str, Any]) -> str | None:
    """The column that holds what the person said."""
    rest = {key: value for key, value in row.items() if key not in (*ALWAYS, *PROMPTS, "id")}
    return next((key for key, value in rest.items() if _said(value) is not None), None)


def _said(value: Any) -> Any:
    """The order or the choice in a tag's value: bare, in an object, or in a list of one object; None where it is neither."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        value = value.get("ranker", value.get("selected", value))
    if isinstance(value, str):
        return value.lower() if value.lower() in (LEFT, RIGHT) else None
    if isinstance(value, dict):
        lists = value and all(isinstance(one, list) for one in value.values())
        return value if lists else None
    return value if isinstance(value, list) and value and all(isinstance(one, str | int) for one in value) else None


def json_min(row: dict[str, Any], at: Place) -> Ranking | None:
    """One annotation: the first id of the ranker is best; left is the answer whose column has the first name."""
    tag = _tag(row)
    if tag is None:
        at.report("annotation_id", "no column holds a Ranker's order or a Pairwise choice", "export the labels too")
        return None
    key = next((name for name in PROMPTS if name in row), PROMPTS[0])
    prompt = checks.prompt(row, at, key)
    name = checks.optional_name(row, "annotation_id", at)
    said, pair = _said(row[tag]), sides(tuple(row))
    whose = {"annotator": row.get("annotator")}
    if isinstance(said, str):
        if pair is None:
            at.report(
                tag, f"it is {said}, and there are no two answers", "name them answer1 and answer2 by data.columns"
            )
            return None
        texts = {one: checks.text(row, one, at) for one in pair}
        answers = {one: None if text is None or prompt is None else (prompt, text) for one, text in texts.items()}
        return making.pair(whose, at, answers, (1, 0) if said == LEFT else (0, 1), name=name)
    order = _order(said, tag, at)
    items = _items(row, at)
    if order is None or items is None:
        return None
    named = [str(one) for one in order]
    for place, one in enumerate(named):
        if one not in items:
            at.report(f"{tag}[{place}]", f'it names "{one}", which is no item', "use the ids of the items")
        elif named.index(one) != place:
            at.report(f"{tag}[{place}]", f'"{one}" stands twice in the ranking', "name every item once")
    if at.problems:
        return None
    if len(named) < 2:
        at.leave_out("nothing was ranked")
        return None
    completions = [Completion(one, text) for one, text in items.items() if one in named]
    tiers = tuple((one,) for one in named)
    return making.in_tiers(whose, at, prompt, completions, tiers, field=tag, name=name)


def _order(said: Any, tag: str, at: Place) -> list[Any] | None:
    """The ids, the best first: the list, or the one bucket in which there are any."""
    if isinstance(said, list):
        return said
    buckets = [bucket for bucket, ids in said.items() if ids and bucket != UNRANKED]
    if len(buckets) > 1:
        at.report(tag, "the items lie in several buckets", "rank them in one list, or turn the rows with data.map")
        return None
    return list(said[buckets[0]]) if buckets else []


def _items(row: dict[str, Any], at: Place) -> dict[str, str] | None:
    """Texts of the items by id."""
    lists = [key for key, value in row.items() if _is_items(value)]
    if len(lists) != 1:
        what = "there are two lists of items" if lists else "there is no list of items with an id"
        at.report("items", what, 'give the list that was ranked: [{"id": …, "body": …}]')
        return None
    before = len(at.problems)
    texts: dict[str, str] = {}
    for place, item in enumerate(row[lists[0]]):
        here = at.within(f"{lists[0]}[{place}]")
        said = checks.text(item, next((one for one in ITEM_TEXTS if one in item), ITEM_TEXTS[0]), here)
        name = checks.optional_name(item, "id", here)
        if name is None:
            here.report("id", f"it is {called(item['id'])}", "give every item its own id")
        elif name in texts:
            here.report("id", f'the id "{name}" stands twice', "give every item its own id")
        elif said is not None:
            texts[name] = said
    return texts if len(at.problems) == before else None
