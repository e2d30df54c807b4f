"""How are our own rows and TRL's read?

A format is one small function `(row, at)` that gives one of our rows, or reports what is wrong and gives None.
"""

import os.path
import re
from collections import Counter
from dataclasses import replace
from typing import Any

from data.forms import checks, columns
from data.forms import rankings as making
from data.forms.place import Place
from data.forms.transcripts import Answer
from data.forms.weights import learned_of
from data.reading.flaws import called
from data.reading.written import ANSWERS
from data.schema import Completion, Demonstration, Judgement, Prompt, PromptText, Ranking

# A text may be cut before white space, or after a character of a script that writes no spaces.
BOUNDARY = re.compile(r"\s+|(?<=[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef])")
PROMPTS = "data.columns={prompt: messages}"
"""What makes prompts of conversations that end with the user."""
REPEATED = 8
"""Characters from which a prompt at the start of an answer is no greeting returned but a prompt repeated."""
LABELS: dict[Any, bool] = {True: True, False: False}
"""What says that a completion is liked; 1 and 0 are True and False."""
LABELS |= dict.fromkeys(
    ("true", "1", "1.0", "yes", "y", "good", "liked", "like", "up", "thumbs up", "thumbs_up", "👍"), True
)
LABELS |= dict.fromkeys(("false", "0", "0.0", "no", "n", "bad", "disliked", "dislike", "down", "thumbs down"), False)
LABELS |= dict.fromkeys(("thumbs_down", "👎"), False)


def ranking(row: dict[str, Any], at: Place) -> Ranking | None:
    """Ours: `prompt` or `messages`; `completions`, texts or objects; `ranking`, positions or ids in tiers; `all_bad`."""
    if "prompt" in row and "messages" in row:
        at.report("messages", "the row has a prompt as well", "keep one of them")
    prompt = checks.prompt(row, at, "messages" if "messages" in row and "prompt" not in row else "prompt")
    completions = checks.completions(row, at)
    tiers = None if completions is None else _tiers(row, completions, at)
    if completions is None or tiers is None:
        return None
    made, all_bad = making.in_tiers(row, at, prompt, completions, tiers), checks.truth(row, "all_bad", at)
    return replace(made, all_bad=True) if made is not None and all_bad else made


def _tiers(row: dict[str, Any], completions: tuple[Completion, ...], at: Place) -> tuple[tuple[str, ...], ...] | None:
    """The ranking as ids. Numbers are positions in `completions` from 0, texts are ids."""
    if not checks.present(row, "ranking", at):
        return None
    value = row["ranking"]
    if _is_permutation(value, len(completions)):
        alone = [(one.id,) for one in completions]
        return tuple([alone[tier[0]] if len(tier) == 1 else tuple([alone[one][0] for one in tier]) for tier in value])
    if not isinstance(value, list) or not value:
        what = "it is empty" if value == [] else f"it is {called(value)}, not a list"
        at.report("ranking", what, "write the tiers best first: [[2], [0, 3], [1]]")
        return None
    fix = "write the completions' positions best first, ties together: [[2], [0, 3], [1]]"
    flat = [one for tier in value for one in (tier if isinstance(tier, list) else [tier])]
    if any(isinstance(one, float) for one in flat):
        at.report("ranking", "it holds scores, not ranks", fix)
        return None
    if not all(isinstance(tier, list) and tier for tier in value):
        at.report("ranking", "it is no list of lists", fix)
        return None
    if not all(isinstance(one, int | str) and not isinstance(one, bool) for one in flat):
        at.report("ranking", "it holds something that is neither position nor id", fix)
        return None
    if sorted(flat, key=str) == sorted(range(1, len(completions) + 1), key=str):
        at.report("ranking", "it counts the completions from 1", "count them from 0")
        return None
    known = {place: one.id for place, one in enumerate(completions)} | {one.id: one.id for one in completions}
    before = len(at.problems)
    for one in dict.fromkeys(flat):
        if one not in known:
            at.report("ranking", f'it names "{one}", which is no completion', "use positions from 0, or the ids")
    named = [[known[one] for one in tier if one in known] for tier in value]
    places = [one for tier in named for one in tier]
    counts = Counter(places)
    for one in known.values() if len(at.problems) == before else ():
        if counts[one] != 1:
            how = "twice" if one in counts else "nowhere"
            at.report("ranking", f'"{one}" stands {how} in it', "name every completion once")
            break
    if len(at.problems) == before and len(value) < 2:
        at.report("ranking", "all completions are tied", "take the row out")
    return tuple(tuple(tier) for tier in named) if len(at.problems) == before else None


def _is_permutation(value: Any, many: int) -> bool:
    """Whether these are the positions from 0 in two tiers or more, as nearly all rankings are written."""
    if type(value) is not list or len(value) < 2:
        return False
    flat: list[Any] = []
    for tier in value:
        if type(tier) is not list or not tier:
            return False
        flat += tier
    return len(flat) == many and set(map(type, flat)) == {int} and set(flat) == set(range(many))


def preference(row: dict[str, Any], at: Place) -> Ranking | None:
    """TRL's preference with an explicit prompt: `prompt`, `chosen`, `rejected`; texts or lists of messages."""
    prompt: PromptText | None
    chosen: Answer
    rejected: Answer
    if texts := checks.texts(row, "prompt", "chosen", "rejected"):
        prompt, chosen, rejected = texts[0], (texts[0], texts[1]), (texts[0], texts[2])
    else:
        prompt = checks.prompt(row, at, "prompt")
        chosen, rejected = (checks.answer(row, key, prompt, at) for key in ("chosen", "rejected"))
    if prompt is None or chosen is None or rejected is None:
        return None
    if isinstance(prompt, str) and repeats(prompt, chosen[1]):
        fix = "leave only the answers, or set data.ignore=[prompt] if both begin with it"
        at.report("chosen", "it repeats the prompt", fix)
        return None
    return making.pair(row, at, {"chosen": chosen, "rejected": rejected})


def preference_implicit(row: dict[str, Any], at: Place) -> Ranking | None:
    """TRL's preference without a prompt: what `chosen` and `rejected` begin with alike is the prompt.

    Of two texts that is the common beginning up to its last white space, which goes to the completions. Of two
    conversations it is every message but the last.
    """
    if isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list):
        chosen, rejected = (checks.conversation(row, key, at) for key in ("chosen", "rejected"))
    else:
        texts = [checks.text(row, key, at) for key in ("chosen", "rejected")]
        if texts[0] is None or texts[1] is None:
            return None
        if texts[0].strip() == texts[1].strip():
            at.report("rejected", "it equals chosen", "take the row out")
            return None
        chosen, rejected = common_prompt(texts[0], texts[1], at) or (None, None)
    if chosen is None or rejected is None:
        return None
    return making.pair(row, at, {"chosen": chosen, "rejected": rejected})


def prompt_completion(row: dict[str, Any], at: Place) -> Demonstration | None:
    """TRL's `prompt` and `completion`, texts or lists of messages; our own demonstrations look the same."""
    answer = checks.answer(row, "completion", checks.prompt(row, at, "prompt"), at)
    name = checks.name(row, at)
    return None if answer is None or name is None else Demonstration(name, *answer, at.source)


def unpaired(row: dict[str, Any], at: Place) -> Judgement | None:
    """TRL's unpaired preference: `prompt` and `completion`, or `messages`, and a `label`: is the (last) answer liked?"""
    liked = _liked(row, at)
    shown = messages(row, at) if "messages" in row else prompt_completion(row, at)
    return (
        None
        if liked is None or shown is None
        else Judgement(shown.id, shown.prompt, shown.completion, liked, at.source)
    )


def _liked(row: dict[str, Any], at: Place) -> bool | None:
    """What `label` says: true or false, 1 or 0; a CSV cell says it in words. Where there is none, nobody disliked anything."""
    if not checks.present(row, "label", at):
        return None
    value = row["label"]
    said = value.strip().lower().rstrip("\ufe0f🏻🏼🏽🏾🏿") if isinstance(value, str) else value
    if isinstance(said, bool | int | float | str) and said in LABELS:
        return LABELS[said]
    blank = value is None or said == ""
    shown = f'"{value}"' if isinstance(value, str) and len(value) <= 40 else called(value)
    told = "it is null or blank" if blank else f"it is {shown}, not true or false"
    fix = ", or take the row out" if blank else ", or set data.ignore=[label] if it says nothing of the answer"
    at.report("label", told, f"write true or false{fix}")
    return None


def messages(row: dict[str, Any], at: Place) -> Demonstration | None:
    """A conversation under `messages`; the assistant's last turn is the completion."""
    learned = learned_of(row, "messages", at)
    if learned is None:
        return None
    before = len(at.problems)
    answer = checks.conversation({"messages": learned.turns} if "messages" in row else row, "messages", at)
    if answer is None and (kept := columns.references(row)):
        for place, problem in enumerate(at.problems[before:], before):
            fix = problem.fix.replace(PROMPTS, f"{PROMPTS} and data.keep={columns.quoted(kept)}")
            at.problems[place] = replace(problem, fix=fix)
    name = checks.name(row, at)
    return None if answer is None or name is None else Demonstration(name, *answer, at.source, spared=learned.spared)


def prompt_only(row: dict[str, Any], at: Place) -> Prompt | None:
    """A `prompt`, text or messages, and nothing that answers it."""
    prompt = checks.prompt(row, at, "prompt")
    name = checks.name(row, at)
    return None if prompt is None or name is None else Prompt(name, prompt, at.source)


def repeats(prompt: str, chosen: str) -> bool:
    """Whether `chosen` begins with the prompt, and the prompt is too long for that to be a greeting returned."""
    begin = prompt.strip()
    return len(begin) >= REPEATED and chosen.lstrip().startswith(begin)


def common_prompt(
    chosen: str, rejected: str, at: Place
) -> tuple[tuple[PromptText, str], tuple[PromptText, str]] | None:
    """((prompt, completion), (prompt, completion)) of two texts with one beginning."""
    common = os.path.commonprefix([chosen, rejected])
    end = max((found.start() for found in BOUNDARY.finditer(common)), default=0)
    # What stands behind "### Response:" is the answer's, however alike the two begin.
    end = max((found.end() for found in ANSWERS.finditer(common)), default=end)
    begin = common[:end]
    answers = chosen[end:], rejected[end:]
    if not begin.strip():
        at.report("rejected", "chosen and rejected have no common beginning", "give a prompt column")
        return None
    for key, said in zip(("chosen", "rejected"), answers, strict=True):
        if not said.strip():
            at.report(key, "nothing is left of it after the common beginning", "write an answer")
            return None
    return (begin, answers[0]), (begin, answers[1])
