"""How are Argilla's nested records read, as its SDKs write them: `fields` beside `responses`?

Version 1 lists what each person answered, version 2 lists under each question who answered what. Both are laid flat and
read as the flat export is; what is wrong is told in the words of the nested record.
"""

from dataclasses import replace
from typing import Any

from data.forms import tools
from data.forms.place import Place
from data.forms.shapes import Shape
from data.reading.flaws import called
from data.schema import Problem, Ranking

READS = "record fields responses status id external_id"
LEAVES = "metadata vectors suggestions _server_id inserted_at updated_at"
ASKS = ("question", "query", "user_prompt", "input")
"""Names of the field that holds the prompt, where there is no prompt and no instruction."""


def is_nested(shape: Shape) -> bool:
    """Whether answers of people stand beside an object of fields."""
    whole = shape.inside("record") >= {"fields", "responses"}
    return whole or (shape.has("responses") and (shape.is_object("fields") or shape.is_object("record")))


def argilla_nested(row: dict[str, Any], at: Place) -> list[Ranking] | None:
    """One record: `{"fields": {…}, "responses": [{"user_id": …, "values": {…}, "status": …}]}`, or responses by question."""
    holder, before = row, ""
    if isinstance(row.get("record"), dict):
        holder, before = row["record"], "record."
    fields = holder.get("fields", holder if before else None)
    if not isinstance(fields, dict):
        at.report(f"{before}fields", f"it is {called(fields)}, not an object", "export the records again")
        return None
    here = f"{before}fields." if fields is not holder else before
    theirs = {name: here + name for name in fields}
    flat = {name: value for name, value in fields.items() if name != "responses"}
    asks = [name for name in ASKS if name in flat]
    if len(asks) == 1 and not any(name in flat for name in tools.PROMPTS):
        flat = {"prompt" if name == asks[0] else name: value for name, value in flat.items()}
        theirs["prompt"] = here + asks[0]
    key = "responses" if "responses" in row else f"{before}responses"
    problems = len(at.problems)
    answers = _answers(row.get("responses", holder.get("responses")), key, row.get("status", holder.get("status")), at)
    if len(at.problems) > problems:
        return None
    if not answers:
        at.leave_out("nothing was submitted")
        return None
    for question, given in answers.items():
        name = question + tools.RESPONSES
        flat[name] = [value for value, *_ in given]
        flat[f"{name}.users"] = [user for _, user, *_ in given]
        flat[f"{name}.status"] = [said for _, _, said, *_ in given]
        theirs[name] = key
        for place, (*_, field, beside) in enumerate(given):
            theirs[f"{name}[{place}]"] = f"{field}.value"
            theirs[f"{name}.users[{place}]"] = f"{beside}.user_id"
            theirs[f"{name}.status[{place}]"] = f"{beside}.status"
    flat["id"] = next((holder[name] for name in ("id", "external_id") if holder.get(name) is not None), row.get("id"))
    inner = replace(at, problems=[])
    made = tools.argilla(flat, inner)
    at.problems += [_in_their_words(problem, theirs) for problem in inner.problems]
    return None if inner.problems else made


Given = tuple[Any, Any, Any, str, str]
"""A value, who gave it, its status, and the fields in which the value and the other two stand."""


def _answers(responses: Any, key: str, status: Any, at: Place) -> dict[str, list[Given]]:
    """What was answered, by question; what is no answer is reported."""
    made: dict[str, list[Given]] = {}
    if isinstance(responses, dict):
        # Version 2 did not write the status of each answer at first. Those of a completed record were submitted.
        stated = {"completed": "submitted", "pending": "pending"}.get(status) if isinstance(status, str) else None
        for question, given in responses.items():
            for place, one in enumerate(_objects(given, f"{key}.{question}", at)):
                where = f"{key}.{question}[{place}]"
                said = one.get("status") or stated
                if said is None:
                    what = "neither the answer nor its record says whether it was submitted"
                    at.report(f"{where}.status", what, "export the records with their status, completed or pending")
                made.setdefault(question, []).append((one.get("value"), one.get("user_id"), said, where, where))
        return made
    for place, one in enumerate(_objects(responses, key, at)):
        where = f"{key}[{place}]"
        values = one.get("values")
        if values is not None and not isinstance(values, dict):
            at.report(f"{where}.values", f"it is {called(values)}, not an object", "export the records again")
            continue
        if "values" not in one or one.get("status") is None:
            missing = "values" if "values" not in one else "status"
            at.report(f"{where}.{missing}", "the key is missing or null", "export the records again")
            continue
        for question, answer in (values or {}).items():
            field = f"{where}.values.{question}"
            if answer is None:
                continue
            if not isinstance(answer, dict) or "value" not in answer:
                at.report(field, f'it is {called(answer)}, not {{"value": …}}', "export the records again")
                continue
            made.setdefault(question, []).append((answer["value"], one.get("user_id"), one["status"], field, where))
    return made


def _objects(value: Any, field: str, at: Place) -> list[dict[str, Any]]:
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return value
    at.report(field, f"it is {called(value)}, not a list of answers", "export the records again")
    return []


def _in_their_words(problem: Problem, theirs: dict[str, str]) -> Problem:
    """The problem with the field of the nested record, where settings do not reach."""
    fix = problem.fix
    if "data." in fix:
        fix = "leave the field out of the export, or turn the rows with data.map"
    names = [name for name in theirs if problem.field == name or problem.field.startswith((f"{name}[", f"{name}."))]
    name = max(names, key=len, default=None)
    field = problem.field if name is None else theirs[name] + problem.field[len(name) :]
    return replace(problem, field=field, fix=fix)
