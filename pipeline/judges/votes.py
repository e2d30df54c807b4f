"""What did people say? Votes from files, and the blind forms in which people give them.

A votes file (JSONL, a JSON array, CSV) has rows {"prompt_id", "a", "b", "winner": "a"|"b"|"tie"} with names of models,
optionally "annotator", "seed" (which of several samples of a prompt; default: the first) and "comment". Votes from /arena
(`make rankings`) name texts in place of samples, {"prompt", "a": {"model", "text"}, "b": …, "winner"}, and count where the comparison
sampled these very texts; the others are counted, and say nothing here. A ballot is a form that hides the models, filled in by people, with the key to it in a file of its own.
`samples` are always the rows of samples.jsonl: {"prompt_id", "prompt" (as text), "model", "seed", "completion", …}.
"""

import csv
import difflib
import io
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.forms import checks, place
from data.reading import sources
from data.reading.flaws import SourceRow, stop
from data.schema import DataError, Problem
from pipeline.artifacts.files import digest, write_bytes, write_json
from pipeline.judges.judge import Judge, JudgeError, Outcomes
from policies.template import PromptText, show_prompt

ARENA = ("prompt", "a", "b", "winner", "annotator", "comment", "id", "prompt_id", "both_bad", "at")
VOTE = ("prompt_id", "a", "b", "winner", "annotator", "seed", "comment")
FORM = ("item", "prompt", "A", "B", "winner", "annotator", "comment")
OUTCOME_OF = {"a": 1.0, "b": 0.0, "tie": 0.5}
KEY_ENDING = ".key.json"


@dataclass(frozen=True)
class Vote:
    """One person's word on one sample (prompt_id, seed) of the models a and b: 1 a is better, 0 b is, ½ a tie."""

    prompt_id: str
    seed: int
    a: str
    b: str
    outcome: float
    annotator: str | None = None


class Ballot(NamedTuple):
    """What `write_ballot` wrote: `items` pairs to judge; `identical` ones, which need nobody, are left out."""

    form: Path
    key: Path
    items: int
    identical: int


def load(paths: Sequence[str | Path], samples: Sequence[dict[str, Any]], name: str = "people") -> Judge:
    """A judge by the votes in `paths`, votes files and filled ballots alike. Raises DataError as `read`, and JudgeError where all votes
    are on answers that were not sampled here."""
    reader = _read(paths, samples)
    if reader.elsewhere and not reader.votes:
        raise JudgeError(
            f"none of the {reader.elsewhere} votes in {', '.join(map(str, paths))} is on answers that this comparison sampled; "
            "vote on its answers, or fill in a ballot (docs/judges.md)"
        )
    return judge(reader.votes, samples, name, reader.elsewhere)


def judge(votes: Sequence[Vote], samples: Sequence[dict[str, Any]], name: str = "people", elsewhere: int = 0) -> Judge:
    """A judge whose outcome is the mean of the votes on a pair of completions, nan where nobody voted.

    It knows a pair by its texts: completions that two models have in common are judged for both. `votes` are those that
    `read` gave for the same samples. `summary()` gives votes, annotators (named ones) and pairs, and how many votes were `elsewhere`, on
    answers that are not among the samples.
    """
    said = _said(samples)
    cast: dict[tuple[str, str, str], list[float]] = {}
    for vote in votes:
        prompt, a = said[vote.prompt_id, vote.seed, vote.a]
        _, b = said[vote.prompt_id, vote.seed, vote.b]
        cast.setdefault((prompt, a, b), []).append(vote.outcome)
        cast.setdefault((prompt, b, a), []).append(1 - vote.outcome)

    def outcomes(prompts: Sequence[PromptText], a: Sequence[str], b: Sequence[str]) -> Outcomes:
        pairs = [(show_prompt(prompt), x, y) for prompt, x, y in zip(prompts, a, b, strict=True)]
        return np.array([np.mean(cast[pair]) if pair in cast else np.nan for pair in pairs], dtype=np.float64)

    def summary() -> dict[str, Any]:
        people = {vote.annotator for vote in votes} - {None}
        pairs = {(prompt, *sorted(texts)) for prompt, *texts in cast}
        other = {"votes on other answers": elsewhere} if elsewhere else {}
        return {"votes": len(votes), "annotators": len(people), "pairs": len(pairs)} | other

    return Judge(name, "human", outcomes, None, summary)


def read(paths: Sequence[str | Path], samples: Sequence[dict[str, Any]]) -> list[Vote]:
    """All votes in `paths`. A file is a ballot when a key lies beside it whose name begins as the file's does:
    film_anna.csv belongs to film.key.json. A row of a ballot without a winner is nobody's vote.

    Raises DataError with every mistake in all files, each with file and line: what cannot be read, unknown fields,
    prompts, models or items, a winner that is none, a second vote by the same annotator, a ballot about other texts.
    """
    return _read(paths, samples).votes


def _read(paths: Sequence[str | Path], samples: Sequence[dict[str, Any]]) -> "_Reader":
    reader = _Reader(samples)
    for path in map(Path, paths):
        key = _key_of(path)
        if not path.is_file():
            stop(str(path), None, "file", "there is no such file", "give the path of a votes file or a filled ballot")
        before = len(reader.problems)
        found = sources.read(str(path), reader.problems)
        try:
            if key is None:
                reader.votes_file(found)
            else:
                reader.ballot(found, key)
        except DataError as error:
            reader.problems += error.problems
        reader.problems[before:] = sorted(reader.problems[before:], key=lambda problem: problem.line or 0)
    if reader.problems:
        raise DataError(reader.problems)
    return reader


def write_ballot(samples: Sequence[dict[str, Any]], a: str, b: str, path: str | Path, seed: int) -> Ballot:
    """Write a blind form (.csv or .jsonl) to choose between models a and b, and its key beside it (NAME.key.json).

    Pairs stand in a random order, so that the first of them are a fair sample, and each pair's sides are random, both
    by `seed`. People write A, B or tie under winner, and their name under annotator if there are several; the file may
    be copied under names that begin alike (see `read`). A CSV cell that a spreadsheet would take for a formula, or our
    reader for JSON, begins with an apostrophe.
    Raises JudgeError for an unknown model, models not sampled alike, another ending, or a form that is there already.
    """
    form = Path(path)
    key = form.with_name(form.stem + KEY_ENDING)
    if form.suffix not in (".csv", ".jsonl"):
        raise JudgeError(f"ballot {form}: its name must end in .csv or .jsonl")
    if there := [one for one in (form, key) if one.exists()]:
        raise JudgeError(f"ballot {there[0]} is there already and may hold votes; choose another name or move it away")
    said = _said(samples)
    models = sorted({model for _, _, model in said})
    if unknown := [model for model in (a, b) if model not in models]:
        raise JudgeError(f"ballot: no samples of model {unknown[0]!r}; {_near(unknown[0], models)}")
    places = {model: {(prompt_id, n) for prompt_id, n, of in said if of == model} for model in (a, b)}
    if odd := sorted(places[a] ^ places[b]):
        raise JudgeError(
            f"ballot: {a} and {b} were not sampled alike: only one has prompt, seed {odd[0]}; sample again"
        )
    chance = random.Random(seed)
    order = sorted(places[a])
    chance.shuffle(order)
    rows: list[dict[str, str]] = []
    items: dict[str, dict[str, Any]] = {}
    for prompt_id, n in order:
        sides = [a, b] if chance.random() < 0.5 else [b, a]
        prompt = said[prompt_id, n, a][0]
        texts = [said[prompt_id, n, side][1] for side in sides]
        if texts[0] == texts[1]:
            continue
        item = str(len(rows) + 1)
        shown = {"item": item, "prompt": prompt, "A": texts[0], "B": texts[1]}
        rows.append(shown | {"winner": "", "annotator": ""})
        items[item] = {
            "prompt_id": prompt_id,
            "seed": n,
            "A": sides[0],
            "B": sides[1],
            "texts": _texts(prompt, *texts),
        }
    if not rows:
        raise JudgeError(f"ballot: {a} and {b} wrote the same for every prompt, so there is nothing to choose between")
    form.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(form, (_csv(rows) if form.suffix == ".csv" else _jsonl(rows)).encode("utf-8", "replace"))
    write_json(key, {"models": [a, b], "seed": seed, "items": items})
    return Ballot(form, key, len(rows), len(order) - len(rows))


def _csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows({name: _tame(cell) for name, cell in row.items()} for row in rows)
    return "\ufeff" + text.getvalue()  # by this mark a spreadsheet knows UTF-8


def _tame(cell: str) -> str:
    risky = cell.lstrip()[:1] in tuple("=+-@[{") or cell[:1] in ("\t", "\r")
    return ("'" if risky else "") + cell.replace("\0", "\ufffd")


def _jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


Place = tuple[str, int, str]


def _said(samples: Sequence[dict[str, Any]]) -> dict[Place, tuple[str, str]]:
    """(prompt_id, seed, model) -> prompt as text, completion."""
    return {(row["prompt_id"], row["seed"], row["model"]): (row["prompt"], row["completion"]) for row in samples}


def _texts(prompt: str, a: str, b: str) -> str:
    return digest([text.encode("utf-8", "replace").decode("utf-8") for text in (prompt, a, b)])


def _key_of(path: Path) -> Path | None:
    """The key beside a ballot, the one with the longest name where several fit; None for a votes file."""
    keys = [
        key for key in path.parent.glob("*" + KEY_ENDING) if path.stem.startswith(key.name.removesuffix(KEY_ENDING))
    ]
    return max(keys, key=lambda key: len(key.name), default=None)


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f'did you mean "{near[0]}"?' if near else f"there are {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"


class _Reader:
    """Votes of several files, and all that is wrong with them."""

    def __init__(self, samples: Sequence[dict[str, Any]]) -> None:
        self.said = _said(samples)
        self.models = {model for _, _, model in self.said}
        self.seeds: dict[str, list[int]] = {}
        for prompt_id, seed, _ in sorted(self.said):
            self.seeds.setdefault(prompt_id, []).append(seed)
        self.places: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
        for (prompt_id, seed, model), (prompt, text) in self.said.items():
            self.places.setdefault((prompt, model, text), []).append((prompt_id, seed))
        self.votes: list[Vote] = []
        self.elsewhere = 0
        self.problems: list[Problem] = []
        self.cast: dict[tuple[str, str, int, frozenset[str]], str] = {}

    def votes_file(self, rows: Iterable[SourceRow]) -> None:
        for at in rows:
            if at.row is not None and isinstance(at.row.get("a"), dict):
                self.arena(at)
                continue
            if at.row is None or not self._fields(at, VOTE, VOTE[:4]):
                continue
            row, found = at.row, len(self.problems)
            prompt_id, a, b = row["prompt_id"], row["a"], row["b"]
            if prompt_id not in self.seeds:
                self._report(at, "prompt_id", f'no prompt "{prompt_id}" was sampled', _near(prompt_id, self.seeds))
            for field in ("a", "b"):
                if row[field] not in self.models:
                    self._report(at, field, f'no model "{row[field]}" was sampled', _near(row[field], self.models))
            if a == b:
                self._report(at, "b", f'"{b}" is compared with itself', "name two models")
            winner = self._winner(at, {"a": a, "b": b})
            if winner is None:
                self._report(at, "winner", "it is empty", 'write "a", "b" or "tie", or take the row out')
            seed = self._seed(at)
            if len(self.problems) == found and winner is not None and seed is not None:
                self._add(at, Vote(prompt_id, seed, a, b, OUTCOME_OF[winner], _annotator(row)))

    def arena(self, at: SourceRow) -> None:
        """A vote that names texts: one on the sample in which both models said them, if there is one."""
        row, found = at.row or {}, len(self.problems)
        for name in row.keys() - set(ARENA):
            self._report(at, name, "there is no such field", _near(name, ARENA))
        prompt = checks.prompt(row, place.Place(at.file, at.line, self.problems), "prompt")
        for side in ("a", "b"):
            given = row.get(side)
            if not isinstance(given, dict) or not all(isinstance(given.get(name), str) for name in ("model", "text")):
                self._report(at, side, "it is no answer with a model", 'write {"model": …, "text": …}')
        if row.get("winner") not in OUTCOME_OF:
            self._report(at, "winner", "it is no winner", 'write "a", "b" or "tie"')
        if len(self.problems) > found or prompt is None:
            return
        shown, a, b = show_prompt(prompt), row["a"], row["b"]
        both = [self.places.get((shown, side["model"], side["text"]), []) for side in (a, b)]
        here = [one for one in both[0] if one in both[1]]
        if here and a["model"] != b["model"]:
            self._add(at, Vote(*here[0], a["model"], b["model"], OUTCOME_OF[row["winner"]], _annotator(row)))
        else:
            self.elsewhere += 1

    def ballot(self, rows: Iterable[SourceRow], key: Path) -> None:
        items = _items(key)
        seen: dict[str, int] = {}
        for at in rows:
            if at.row is None or not self._fields(at, FORM, ("item", "winner")):
                continue
            name, found = at.row["item"].strip(), len(self.problems)
            item = items.get(name)
            if item is None:
                self._report(at, "item", f'there is no item "{name}" in {key.name}', "leave the column item as it was")
                continue
            winner, annotator = self._winner(at, {}), _annotator(at.row)
            if winner is None:
                continue
            # filled forms may be pasted together; unless the people are told apart, an item twice is a slip
            if annotator is None and seen.setdefault(name, at.line) != at.line:
                problem = f'item "{name}" stands here again, first on line {seen[name]}'
                self._report(at, "item", problem, "keep one, or name the annotators")
            one, other = (self.said.get((item["prompt_id"], item["seed"], item[side])) for side in ("A", "B"))
            if one is None or other is None or _texts(one[0], one[1], other[1]) != item["texts"]:
                self._report(at, "item", "the models have written other texts since", "give the samples it was made of")
            if len(self.problems) == found:
                place = (item["prompt_id"], item["seed"], item["A"], item["B"])
                self._add(at, Vote(*place, OUTCOME_OF[winner], annotator))

    def _fields(self, at: SourceRow, known: Sequence[str], needed: Sequence[str]) -> bool:
        """Whether the row has the fields it needs, as texts, and no other than known ones."""
        row, before = at.row or {}, len(self.problems)
        for name in needed:
            if name not in row:
                self._report(at, name, "it is missing", "give every row the fields " + ", ".join(needed))
        for name, value in row.items():
            if name not in known:
                self._report(at, name, "there is no such field", _near(name, known))
            elif not isinstance(value, str) and name != "seed" and (name in needed or value is not None):
                self._report(at, name, "it is not a text", 'put it in "quotes"')
        return len(self.problems) == before

    def _winner(self, at: SourceRow, models: dict[str, str]) -> str | None:
        """ "a", "b", "tie", or None for an empty one; what is none of these is reported, and comes back as a tie."""
        word = (at.row or {})["winner"].strip()
        if not word or word.casefold() in OUTCOME_OF:
            return word.casefold() or None
        side = next((side for side, model in models.items() if model == word), None)
        fix = f'write "{side}" for it' if side else 'write "a", "b" or "tie"' if models else "write A, B or tie"
        self._report(at, "winner", f'"{word}" is no winner', fix)
        return "tie"

    def _seed(self, at: SourceRow) -> int | None:
        row = at.row or {}
        given, seeds = row.get("seed"), self.seeds.get(row["prompt_id"], [])
        if given is None or given == "":
            return seeds[0] if seeds else None
        seed = int(given) if isinstance(given, str) and given.strip().isdecimal() else given
        if isinstance(seed, bool) or not isinstance(seed, int):
            self._report(at, "seed", "it is not a whole number", "give the seed as samples.jsonl has it")
        elif seeds and seed not in seeds:
            has = ", ".join(str(one) for one in sorted(set(seeds)))
            self._report(at, "seed", f"the prompt has no sample with seed {seed}", f"it has {has}")
        else:
            return seed
        return None

    def _add(self, at: SourceRow, vote: Vote) -> None:
        here = f"{at.file}:{at.line}"
        for model in (vote.a, vote.b):
            if (vote.prompt_id, vote.seed, model) not in self.said:
                self._report(at, "prompt_id", f'"{model}" has no sample of "{vote.prompt_id}"', "take the row out")
                return
        if vote.annotator is not None:
            key = (vote.annotator, vote.prompt_id, vote.seed, frozenset((vote.a, vote.b)))
            if (first := self.cast.setdefault(key, here)) != here:
                problem = f'"{vote.annotator}" votes on this pair again, first at {first}'
                self._report(at, "annotator", problem, "keep one of the two")
                return
        self.votes.append(vote)

    def _report(self, at: SourceRow, field: str, problem: str, fix: str) -> None:
        self.problems.append(Problem(at.file, at.line, field, problem, fix))


def _annotator(row: dict[str, Any]) -> str | None:
    return (row.get("annotator") or "").strip() or None


def _items(key: Path) -> dict[str, dict[str, Any]]:
    """The items of a ballot's key. Raises DataError where it is damaged."""
    try:
        items = json.loads(key.read_text(encoding="utf-8"))["items"]
        for item in items.values():
            if not {"prompt_id", "seed", "A", "B", "texts"} <= item.keys():
                raise KeyError("item")
    except (ValueError, TypeError, KeyError, AttributeError):
        stop(
            str(key), None, "key", "it is not the key of a ballot", "copy it again; without it the votes have no models"
        )
    return items
