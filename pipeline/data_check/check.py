"""What was understood of somebody's data, before anything trains?

    python -m pipeline data-check mine.jsonl [--recipe recipes/own_data.yaml] [format=… columns={…} reverse=true axis=… max_length=…]

Reads the source once, as stage data would, and tells what is wrong with it and what is in it: no training and no model
but its tokenizer. `check` gives the figures, `run` prints and writes them.
"""

import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from data.forms.account import Account
from data.loading import scan
from data.reading.options import Options
from data.refining.agreement import agreement
from data.schema import AnyRow, Problem, Ranking
from pipeline.artifacts.files import write_bytes
from pipeline.commands import checking
from pipeline.data_check import doubts, figures, page
from pipeline.data_check.readable import Judged, Readable
from pipeline.data_check.tally import Tally
from pipeline.language import spoken
from pipeline.pages.common import require_finite, to_json
from pipeline.pages.progress import bar
from pipeline.redaction import redacted
from pipeline.rows.gather import EVAL, JUDGEMENTS, NO_JUDGEMENT, PROMPTS_ALONE, Portion, in_chat, options, taken_as
from pipeline.settings.config import EMBEDDED_SOURCES, Config, ConfigError, Data, Part
from pipeline.settings.recipe import load

BESIDE = ("demonstrations", "prompts", "eval_prompts")
"""Settings of the data section that name rows beside the source."""


def run(
    source: str,
    settings: Sequence[str],
    model: str | None,
    to: Path | None,
    html: Path | None,
    recipe: Path | None = None,
    lang: str | None = None,
) -> bool:
    """Check `source`, print what was found, write it as JSON to `to` and as a page to `html`, in the language `lang`, else in that of
    the recipe; whether all is sound."""
    _check_place("--json", to, '"sound":')
    _check_place("--page", html, page.TITLE)
    if to is not None and to == html:
        raise ConfigError(f"--page: {html} is where --json is written; give another name")
    config = configured(source, settings, recipe)
    result = check(config, model)
    text = page.text(result)
    # A terminal that knows few characters still gets all of it.
    print(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8"))
    with spoken(lang or config.report.language):
        made = page.html(result) if html else ""
    written = {to: to_json(result, indent=2) + "\n" if to else "", html: made}
    for path, content in written.items():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, redacted(content).encode("utf-8", "backslashreplace" if path is to else "replace"))
            print(f"written: {path}")
    if not result["sound"] and result["aside"]:
        aside = [*settings, "data.skip_bad=true"]
        print(f"to look at the others, run: {checking(source, None if recipe is None else str(recipe), aside, model)}")
    return result["sound"]


def _check_place(option: str, path: Path | None, mark: str) -> None:
    """Raise ConfigError where something else is than what we wrote ourselves, which has `mark`."""
    if path is None or not (path.exists() or path.is_symlink()):
        return
    own = False
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            own = path.stat().st_size == 0 or mark.encode() in file.read(1 << 26)
    if not own:
        raise ConfigError(
            f"{option}: {path} is there and no page of ours, so it is not replaced; give a name that is free"
        )


def configured(source: str, settings: Sequence[str], recipe: Path | None = None) -> Config:
    """The settings of a run of `recipe` on `source`, or without one of a recipe that says nothing but these; a `source` that is a
    recipe names its own. Names of the data section need no `data.` before them. Raises ConfigError."""
    if source in EMBEDDED_SOURCES:
        raise ConfigError(_embedded(source))
    named = [one if one.split("=")[0].split(".")[0] not in Data.model_fields else f"data.{one}" for one in settings]
    if recipe is None and source.endswith((".yaml", ".yml")):
        config = load(source, named)
        if config.data.embedded():
            raise ConfigError(_embedded(config.data.source, source))
        if config.data.mixture:
            first = config.data.mixture[0].source
            raise ConfigError(
                f"{source}: data.mixture has {len(config.data.mixture)} sources, and data-check looks at one at a time; "
                f"run: {checking(first, source)}"
            )
        return config
    given = [f"data.source={json.dumps(source, ensure_ascii=False)}", *named]
    if recipe is not None:
        return load(recipe, ["data.mixture=[]", *given])
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "data-check.yaml")
        empty.write_text("{}")
        return load(empty, given)


def _embedded(name: str, recipe: str | None = None) -> str:
    which = f"data.source of {recipe}: {name}" if recipe else name
    return (
        f"{which} is the embedded data set, and checked; name data of your own; run: {checking('my_preferences.jsonl')}"
    )


def check(config: Config, model: str | None = None) -> dict[str, Any]:
    """Everything that is known of `config.data`, as JSON has it; `sound` says whether nothing is wrong, `doubts` what would
    teach something else.

    Figures of all rows are exact. Those that need texts at hand are of `sample`, all rows up to 10,000, else as many
    drawn with equal chances. Raises nothing for bad data.
    """
    data = config.data
    parts = {"source": data.parts()[0]}
    parts |= {name: Part(source=named) for name in BESIDE if (named := getattr(data, name)) is not None}
    accounts: dict[str, Account] = {}
    tallies: dict[str, Tally] = {}
    try:
        readable = Readable(config, model)
        for name, part in parts.items():
            tallies[name] = Tally(seed=config.seed)
            accounts[name] = _scanned(part.source, options(part, data), tallies[name], readable, data)
        result = _account(accounts, data)
        tally = tallies["source"]
        drawn = [
            Portion(name, name, accounts[name].kind, own.sample(), EVAL if name == "eval_prompts" else None)
            for name, own in tallies.items()
        ]
        result |= _exact(tally, accounts["source"].kind)
        result |= _of_texts(drawn, tally.first(), config, readable)
        result["contradictions"] = {
            "rejected": tally.contradictions,
            "between_annotators": result["agreement"]["opposite"] if result["agreement"] else 0,
        }
        result["sample"] = {"rows": len(drawn[0].rows), "of": tally.kept, "seed": config.seed}
    finally:
        for tally in tallies.values():
            tally.close()
    result["sound"] = not result["stops"] and not result["tokenizer"]["problem"]
    result["doubts"] = doubts.doubts(result, result["glued"])
    require_finite(result, "data-check")
    return result


def _scanned(source: str, options: Options, tally: Tally, readable: Readable, data: Data) -> Account:
    """One pass over a source: every row is read, cleaned and held against what the model can read, as stage data does it."""
    judged = Judged(readable)
    gone: set[int] = set()

    def leave(number: int, contradiction: bool) -> None:
        if number not in gone:
            gone.add(number)
            tally.drop(number, contradiction)

    def drop(number: int, problem: Problem) -> None:
        judged.dropped(number)
        leave(number, problem.field == "ranking")

    with closing(_Progress()) as progress:

        def take(number: int, row: AnyRow) -> None:
            row = in_chat([row], data)[0]
            cleaned = judged.take(number, row)
            tally.take(number, row if cleaned is None else cleaned)
            if cleaned is None:
                leave(number, False)
            progress.tick()

        account = scan(source, options, take, drop, lambda reject: progress.tick(), progress.opened)
    for number in judged.settle(account):
        leave(number, True)
    return account


class _Progress:
    """How much of the files has been read, on a terminal."""

    def __init__(self) -> None:
        self.bar = bar(0, "reading", "B")
        self.bar.unit_scale = True
        self.stream: IO[bytes] | None = None
        self.before = self.size = self.ticks = 0

    def opened(self, stream: IO[bytes], size: int) -> None:
        self.before += self.size
        self.stream, self.size = stream, size
        self.bar.total = self.before + size

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks % 256 or self.bar.disable or self.stream is None:
            return
        here = self.size if self.stream.closed else self.stream.tell()
        self.bar.update(self.before + here - self.bar.n)

    def close(self) -> None:
        self.bar.close()


def _account(accounts: dict[str, Account], settings: Data) -> dict[str, Any]:
    """What became of the rows, all that is wrong with them, and whether stage data would stop at it (`stops`)."""
    problems = [problem for account in accounts.values() for problem in account.problems]
    kinds: Counter[str] = sum((account.kinds for account in accounts.values()), Counter())
    more = [problem for name, account in accounts.items() for problem in _of_the_whole(name, account, settings)]
    problems = sorted([*problems, *more], key=lambda problem: (problem.file, problem.line or 0))
    kinds.update(problem.kind for problem in more)
    first = accounts["source"]
    aside = [account.aside for account in accounts.values() if account.kinds]
    usable = not more and None not in aside
    bad, rows = (sum(one[place] for one in aside if one is not None) for place in (0, 1))
    return _told(first) | {
        "errors": [dataclasses.asdict(problem) for problem in problems],
        "problems": dict(kinds.most_common()),
        "stops": bool(kinds) and not (usable and settings.skip_bad),
        "aside": [bad, rows] if kinds and usable else None,
        "beside": {name: _told(account) for name, account in accounts.items() if account is not first},
    }


def _of_the_whole(name: str, account: Account, settings: Data) -> Iterator[Problem]:
    """What is wrong with a source as a whole: rows of another kind than asked for, none left, none that was judged."""
    expected = name.removeprefix("eval_")
    if name != "source" and account.kind and account.kind not in taken_as(expected):
        fix = f"give {expected}, or leave the setting out"
        yield Problem(account.source, None, f"data.{name}", f"it holds {account.kind}", fix)
    if account.read and not account.kept and not account.problems:
        why = ", ".join(f"{count:,} × {reason}" for reason, count in account.left_out.most_common(3))
        what, fix = f"none is left of {account.read:,} ({why})", "add rows of which something can be learnt"
        yield Problem(account.source, None, "rows", what, fix)
    if name == "source" and account.kind == "prompts" and settings.demonstrations is None:
        yield Problem(account.source, None, "rows", NO_JUDGEMENT, PROMPTS_ALONE)


def _told(account: Account) -> dict[str, Any]:
    return {
        "source": account.source,
        "format": account.format,
        "kind": account.kind,
        "polarity": account.polarity,
        "read": account.read,
        "used": account.used,
        "kept": account.kept,
        "unread": account.unread,
        "left_out": dict(account.left_out.most_common()),
        "rejected": dict(account.rejected.most_common()),
        "stopped": account.fatal,
    }


def _exact(tally: Tally, kind: str) -> dict[str, Any]:
    """Figures of all rows; those of rankings, and those of judgements, are empty for other kinds."""
    ranked = kind == "rankings" and tally.kept > 0
    judged, complete = tally.judged()
    copies, prompts = tally.repeated("said"), tally.repeated("prompt")
    return {
        "k": {str(k): count for k, count in tally.completions().items()} if ranked else {},
        "labels": tally.labels() if kind == JUDGEMENTS and tally.kept else None,
        "ties": tally.ties() if ranked else None,
        "annotators": tally.annotators() if ranked else None,
        "agreement": agreement(judged) | {"of_rankings": len(judged), "complete": complete} if ranked else None,
        "duplicates": {"rows": copies, "of": tally.kept, "prompts": tally.kept - prompts, "prompts_again": prompts},
    }


def _of_texts(drawn: list[Portion], first: list[AnyRow], config: Config, readable: Readable) -> dict[str, Any]:
    """Figures of what was drawn, the source's first; None, or nothing, where there are no rows or no tokenizer."""
    own, data = drawn[0].rows, config.data
    result: dict[str, Any] = dict.fromkeys(
        ("lengths", "longer_wins", "near_duplicates", "overlap", "languages", "glued")
    )
    result |= {"samples": [], "tokenizer": {"name": "", "problem": ""}}
    if not own:
        return result
    readable.ready()
    tokenizer, result["tokenizer"] = readable.tokenizer, readable.told
    if tokenizer is not None:
        found, refused = figures.measured(own, tokenizer, data.max_length)
        result["lengths"] = figures.lengths(found, data.max_length, data.min_completion_tokens)
        result["lengths"] |= {"max_length": data.max_length, "refusal": next(iter(refused), "")}
        if any(isinstance(row, Ranking) for row in own):
            result["longer_wins"] = figures.longer_wins(own, found)
        result["samples"] = figures.samples(first, tokenizer)
        result["glued"] = doubts.glued_share(own, tokenizer)
    result["near_duplicates"] = figures.near_duplicates(own)
    result["overlap"] = figures.overlap(drawn, data, config.seed)
    result["languages"] = figures.languages(own)
    return result
