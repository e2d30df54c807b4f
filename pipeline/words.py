"""What does make not know of its command line? Told before it starts anything; only the standard library.

    python -m pipeline.words GOAL … -- TARGET … -- VARIABLE … -- NAME=VALUE …

Make takes `ppo.kl_coef=0.1` for a variable of that name and passes over it, and looks for a target called as a word that belongs
to a value without quotes only when hours of work are done.
"""

import difflib
import shlex
import sys
from collections.abc import Mapping, Sequence

from pipeline.commands import assignments
from pipeline.redaction import redacted

EXAMPLE = {"RUN": "demo", "RECIPE": "recipes/smoke.yaml", "DATA": "my_preferences.jsonl"}
SETTINGS, TAKERS = ("model", "force"), ("push", "inspect", "data-check", "plan", "rank")
"""Settings of the same word as a variable of make, and the targets that read this variable."""
ROWS = (".jsonl", ".json", ".csv", ".parquet", ".ndjson")


def flaw(
    goals: Sequence[str], targets: Sequence[str], variables: Sequence[str], given: Mapping[str, str]
) -> str | None:
    """One sentence for what make does not know of a command line, with the line that was meant as far as that can be told."""
    told, kept, settings = [], {}, []
    for name, value in given.items():
        if name in variables:
            kept[name] = value
        elif meant := _variable(name, variables, goals):
            told.append(f"{name} is no variable of this Makefile, did you mean {meant}?")
            kept[meant] = value
        elif name != name.upper():
            settings.append(f"{name}={value}")
        else:
            told.append(f"{name} is no variable of this Makefile, which has {', '.join(sorted(variables))}")
    right: list[str] = []
    for goal in goals:
        if goal in targets:
            right.append(goal)
            continue
        sentence, target, more = _goal(goal, targets, kept)
        told.append(sentence)
        right += [target] if target else []
        kept |= more
    if settings:
        stand = "a setting stands" if len(settings) == 1 else "settings stand"
        told.append(f"{', '.join(settings)}: {stand} in SET")
        kept["SET"] = " ".join(filter(None, [kept.get("SET", ""), *map(shlex.quote, settings)]))
    if not told:
        return None
    return f"{'; '.join(told)}; run: make {' '.join([*right, *assignments(kept)])}".rstrip()


def _variable(name: str, variables: Sequence[str], goals: Sequence[str]) -> str | None:
    """The variable that was meant by a name that is none. Settings have names in small letters, some of them those of variables."""
    if name != name.upper():
        return (
            name.upper() if name.upper() in variables and (name not in SETTINGS or set(goals) & set(TAKERS)) else None
        )
    return next(iter(difflib.get_close_matches(name, variables, n=1)), None)


def _goal(goal: str, targets: Sequence[str], given: Mapping[str, str]) -> tuple[str, str, dict[str, str]]:
    """What is said of a word that is no target, the target that was meant, and variables that were."""
    for variable, endings in (("RECIPE", (".yaml", ".yml")), ("DATA", ROWS)):
        if goal.endswith(endings):
            return f"{goal} is no target, and a file is named with {variable}=", "", {variable: goal}
    if near := difflib.get_close_matches(goal.replace("_", "-"), targets, n=1):
        return f"{goal} is no target, did you mean {near[0]}?", near[0], {}
    if "RUN" in given:
        whole = f"{given['RUN']} {goal}"
        return f"{goal} is no target, and a value with spaces needs quotes", "", {"RUN": whole}
    return f"{goal} is no target, and these are: {', '.join(targets)}", "", {}


def _parts(words: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--" and len(parts) < 4:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


if __name__ == "__main__":
    goals, targets, variables, given = _parts(sys.argv[1:])
    print(redacted(f"error: {flaw(goals, targets, variables, dict(one.split('=', 1) for one in given))}"))
