"""How is a pair read that is given as two answers side by side with a verdict, or as a conversation and what was rejected?"""

from collections.abc import Sequence
from typing import Any

from data.forms import checks, columns, rated
from data.forms import rankings as making
from data.forms.columns import plain
from data.forms.place import Place
from data.forms.shapes import Shape
from data.reading.flaws import called
from data.reading.written import parsed
from data.schema import Completion, PromptText, Ranking

REJECTED = ("rejected_response", "rejected_responses", "rejected_messages")
ASKED = ("orig_instruction", "prompt", "instruction", "question", "query", "messages")
STEMS = (
    "orig_response",
    "response",
    "answer",
    "completion",
    "output",
    "option",
    "candidate",
    "reply",
    "text",
    "summary",
)
SIDES = (("a", "b"), ("A", "B"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
VERDICTS = (
    *("winner", "preference", "preferred", "better", "choice", "label", "verdict", "judgement", "judgment", "chosen"),
    *("preferred_response", "better_response", "preferred_answer", "better_answer", "selected", "comparison"),
    "orig_preference",
)
STRENGTH = "preference_strength"
FLAGS = ("winner_model_a", "winner_model_b", "winner_tie")
TIES = ("tie", "tied", "equal", "same", "both", "draw", "neither", "tie (bothbad)", "both_bad", "bothbad", "both bad")


def rejected(row: dict[str, Any], at: Place) -> Ranking | None:
    """ms-swift's preference: a conversation under `messages` whose last answer is better than what was rejected."""
    answer = checks.conversation(row, "messages", at)
    keys = [key for key in REJECTED if row.get(key) not in (None, "", [])]
    if len(keys) != 1:
        what = f"the row has {' and '.join(keys)} as well" if keys else "it is missing or blank"
        at.report(keys[0] if keys else REJECTED[0], what, "keep one of them" if keys else "write what was rejected")
        return None
    key = keys[0]
    if key == "rejected_messages":
        other = checks.conversation(row, key, at)
        return making.pair(row, at, {"messages": answer, key: other})
    given = row[key] if isinstance(row[key], list) else [row[key]]
    texts = [checks.text({key: one}, key, at) for one in given]
    if answer is None or None in texts:
        return None
    said = [answer[1], *(text for text in texts if text is not None)]
    if answer[1].strip() in (text.strip() for text in said[1:]):
        at.report(key, "it equals the last answer of messages", "take the row out")
        return None
    completions = [Completion(f"c{place}", text) for place, text in enumerate(said)]
    tiers = (("c0",), tuple(one.id for one in completions[1:]))
    return making.in_tiers(row, at, answer[0], completions, tiers, field=key)


# Two answers side by side


def sides(keys: Sequence[str]) -> tuple[str, str] | None:
    """The columns of the two answers, the first first."""
    for stem in STEMS:
        for first, second in SIDES:
            for between in ("_", "", "-"):
                pair = f"{stem}{between}{first}", f"{stem}{between}{second}"
                if pair[0] in keys and pair[1] in keys:
                    return pair
    return None


def is_side_by_side(shape: Shape) -> bool:
    """Whether there are two answers with a verdict, in no other form that we know."""
    keys = tuple(shape.kinds)
    known = (
        shape.has("prompt", "response_0", "response_1")
        or shape.has("question", "answer_0", "answer_1")
        or shape.has("context", "response1", "response2")
    )
    return not known and sides(keys) is not None and _verdict(keys) != () and _asked(keys) is not None


def _asked(keys: Sequence[str]) -> str | None:
    # What Prometheus' judge was asked is no prompt.
    return next((key for key in (ASKED[:1] if "orig_preference" in keys else ASKED) if key in keys), None)


def _verdict(keys: Sequence[str]) -> tuple[str, ...]:
    """The columns that say which answer is better."""
    if all(key in keys for key in FLAGS[:2]):
        return tuple(key for key in FLAGS if key in keys)
    named = tuple(key for key in keys if key in VERDICTS)
    return named or tuple(key for key in keys if key == STRENGTH)


def reads(row: dict[str, Any]) -> set[str]:
    """The columns that `side_by_side` looks at."""
    keys = tuple(row)
    judge = {"instruction", "output", "input"} if "orig_preference" in keys else set()
    return {*judge, *(sides(keys) or ()), *_verdict(keys)[:3], _asked(keys) or "", "model_a", "model_b", STRENGTH}


def side_by_side(row: dict[str, Any], at: Place) -> Ranking | None:
    """A prompt, two answers such as response_a and response_b, and who won: a name of one of them, flags as in LMSYS's
    arena, or HelpSteer2's preference_strength, which is below 0 where the first is better."""
    keys = tuple(row)
    asked, pair = _asked(keys), sides(keys)
    if asked is None or pair is None:
        for key in (ASKED[0], "response_a", "response_b"):
            checks.present(row, key, at)
        return None
    scores = _scores(row, pair, at)
    prompt, answers = _turns(row, asked, pair, at)
    if prompt is None:
        return None
    models = [checks.optional_name(row, key, at) for key in ("model_a", "model_b")]
    given = {key: None if said is None else (prompt, said) for key, said in zip(pair, answers, strict=True)}
    gap = at.tie_gap if STRENGTH in _verdict(keys) else 0.0
    return making.pair(row, at, given, scores, models=models, gap=gap)


def _turns(
    row: dict[str, Any], asked: str, pair: tuple[str, str], at: Place
) -> tuple[PromptText | None, tuple[str | None, str | None]]:
    """The prompt and the two answers; LMSYS writes each as a list of what was said in turn."""
    lists = [_list(row[key]) for key in (asked, *pair)]
    texts = [isinstance(one, list) and all(_is_turn(said) for said in one) for one in lists]
    if FLAGS[0] in row and not all(texts) and any(isinstance(one, list) for one in lists):
        at.report(pair[0], "it holds something that is no text, or not as the prompt does", "take the row out")
        return None, (None, None)
    if not all(texts):
        steered = STRENGTH in row and asked == "prompt" and isinstance(row[asked], str)
        prompt = rated.dialogue_prompt(row, at) if steered else checks.prompt(row, at, asked)
        return prompt, (checks.text(row, pair[0], at), checks.text(row, pair[1], at))
    questions, first, second = lists
    if not questions or not len(questions) == len(first) == len(second):
        at.report(pair[0], "there are not as many answers as questions", "take the row out")
        return None, (None, None)
    if first[:-1] != second[:-1]:
        at.leave_out("the answers part before the last turn")
        return None, (None, None)
    turns: list[dict[str, str]] = []
    for question, said in zip(questions, first, strict=True):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    last = {key: one[-1] for key, one in zip(pair, (first, second), strict=True)}
    prompt = checks.prompt({asked: turns[:-1]}, at, asked)
    return prompt, (checks.text(last, pair[0], at), checks.text(last, pair[1], at))


def _is_turn(said: Any) -> bool:
    return isinstance(said, str) and not said.lstrip().startswith('["')


def _list(value: Any) -> Any:
    return parsed(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value


def _scores(row: dict[str, Any], pair: tuple[str, str], at: Place) -> tuple[float, float] | None:
    """Scores of the two answers, by the verdict."""
    keys = _verdict(tuple(row))
    if not keys:
        at.report("winner", "nothing says which answer is better", "give a winner: " + " or ".join(pair))
        return None
    if keys[0] in FLAGS:
        return _flags(row, keys, at)
    if len(keys) > 1:
        at.report(
            keys[1],
            f"{' and '.join(keys)} may both be the verdict",
            f"set data.ignore=[{keys[1]}], or ignore the other",
        )
        return None
    if keys[0] == STRENGTH:
        strength = checks.number(row, STRENGTH, at)
        return None if strength is None else (-strength, 0.0)
    value = row[keys[0]]
    if isinstance(value, str) and value.strip().lower() in TIES:
        return 0.0, 0.0
    said = plain(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    found = [said in _names(key, pair) for key in pair]
    if found[0] == found[1]:
        shown = columns.sample(value) if isinstance(value, str | int | float) and value != "" else called(value)
        at.report(keys[0], f"it is {shown}, which names neither answer", f'write "{pair[0]}", "{pair[1]}" or "tie"')
        return None
    return (1.0, 0.0) if found[0] else (0.0, 1.0)


def _names(key: str, pair: tuple[str, str]) -> set[str]:
    """What the answer in the column `key` may be called in a verdict: response_a, a, or model_a."""
    stem = next(one for one in STEMS if pair[0].startswith(one) and pair[1].startswith(one))
    side = plain(key.removeprefix(stem))
    return {plain(key), side, f"model_{side}"}


def _flags(row: dict[str, Any], keys: Sequence[str], at: Place) -> tuple[float, float] | None:
    won = [checks.choice(row, key, (0, 1), at) for key in keys]
    if None in won:
        return None
    if sum(one or 0 for one in won) != 1:
        at.report(keys[0], f"of {', '.join(keys)} not one alone is 1", "correct them or take the row out")
        return None
    return float(won[0] or 0), float(won[1] or 0)
