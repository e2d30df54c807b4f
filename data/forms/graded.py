"""How are answers read that were graded one by one, as Prometheus and other judges do?

A row holds a question, one answer and its grade; the rows of a question become a ranking, the higher grade above.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from data.forms import checks, columns
from data.forms.place import Place
from data.forms.rated import Rated, by_prompt
from data.forms.shapes import Shape
from data.schema import PromptText, Ranking

PROMETHEUS = ("orig_instruction", "orig_response", "orig_score")
"""Prometheus' columns; its `instruction` and `output` are what its judge was asked and said."""
QUESTIONS = ("prompt", "instruction", "question", "query", "user_prompt")
ANSWERS = ("response", "completion", "answer", "output", "model_response", "model_output")
GRADES = ("score", "rating", "grade", "overall_score", "overall_rating", "stars")
RUBRICS = ("orig_criteria", "rubric", "criteria", "criterion", "score_rubric")
"""What was graded: the same answer may have one grade for each."""
EXPLAINED = "feedback orig_feedback reference reference_answer orig_reference_answer explanation rationale critique"
EXPLAINED += " ".join(f" orig_score{grade}_description score{grade}_description" for grade in range(11))
"""Why a grade was given, and what each of them means."""
OTHERS = (
    *("chosen", "rejected", "completions", "ranking", "ratings", "label", "helpfulness", "messages", "if_chosen"),
    *("annotations", "responses", "rejected_response"),
)


def _of(keys: Sequence[str]) -> tuple[str, str, str] | None:
    """The columns of the question, the answer and the grade; None where one is missing or a grade may be either of two."""
    if any(key in keys for key in PROMETHEUS):
        return PROMETHEUS if all(key in keys for key in PROMETHEUS) else None
    grades = [key for key in GRADES if key in keys]
    asked = next((key for key in QUESTIONS if key in keys), None)
    said = next((key for key in ANSWERS if key in keys), None)
    return (asked, said, grades[0]) if asked and said and len(grades) == 1 else None


def is_graded(shape: Shape) -> bool:
    """Whether a row holds one answer to a question and one grade."""
    found = _of(tuple(shape.kinds))
    return found is not None and not any(key in shape.kinds for key in OTHERS) and not shape.is_list(found[2])


def reads(row: dict[str, Any]) -> set[str]:
    """The columns that `graded` looks at; the prompt and the verdict of Prometheus' judge repeat what is in others."""
    found = _of(tuple(row)) or ()
    judged = {"instruction", "output", "input"} if "orig_score" in found else set()
    return {*found, *judged, *(key for key in RUBRICS if key in row)}


def graded(row: dict[str, Any], at: Place) -> Rated | None:
    """One answer to a question and its grade."""
    found = _of(tuple(row))
    if found is None:
        for key in ("prompt", "response", "score"):
            checks.present(row, key, at)
        return None
    asked, said, grade = found
    prompt: PromptText | None = checks.prompt(row, at, asked)
    answer = checks.answer(row, said, prompt, at)
    number = checks.number(row, grade, at)
    name = checks.name(row, at)
    before = len(at.problems)
    rubric = [checks.optional_text(row, key, at) or "" for key in RUBRICS if key in row]
    if len(at.problems) > before or answer is None or number is None or name is None:
        return None
    return Rated(name, answer[0], answer[1], (number,), "\n".join(rubric))


def by_question(parts: list[Any]) -> Iterator[tuple[Any, Ranking]]:
    """The rankings of all rows that `graded` gave. Where no question has two answers the grades compare nothing."""
    if len({(str(part.value.prompt), part.value.rubric) for part in parts}) < len(parts):
        yield from by_prompt(parts)
        return
    for part in parts:
        found = _of(tuple(part.row.row))
        grade = found[2] if found else GRADES[0]
        fix = f"give two answers to a question, or set data.ignore={columns.quoted([grade])} to learn from the answers alone"
        part.at.report(grade, "no question has two answers, so that the grades compare nothing", fix)
