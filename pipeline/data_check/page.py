"""How is what `data_check` found shown: as text on a terminal, and as one page that needs no network?

Texts come from strangers. Characters that could move a terminal's cursor, turn writing round or hide are spelt out; on
the page everything is escaped by the template.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

from data.forms.account import OTHERS
from data.schema import DataError, Problem, examples, way_on
from pipeline.data_check.sentences import account, count, most, sample_note, sentences, short, unread
from pipeline.language import DATA, fixed, phrase, recognised, retold
from pipeline.pages.common import page_template
from pipeline.pages.visible import visible, visible_in

SHOWN_PROBLEMS = 100

TITLE = "<title>data-check</title>"  # by which a page of ours is known


def text(result: Mapping[str, Any]) -> str:
    """Everything in lines for a terminal."""
    parts = [_head(result), *(f"{name}: {account(own)}" for name, own in result["beside"].items())]
    if result["problems"]:
        parts.append(f"{count(sum(result['problems'].values()), 'problem')}:\n{_indented(_problems(result))}")
    if result["samples"]:
        parts.append(_samples(result))
    if result["kept"]:
        parts.append("\n".join([sample_note(result), *(f"  {name:<18} {said}" for name, said in sentences(result))]))
    if result["doubts"]:
        parts.append("would teach something else:\n" + _indented("\n".join(result["doubts"])))
    parts.append(_last(result))
    return visible("\n\n".join(parts))


def _last(result: Mapping[str, Any]) -> str:
    """The verdict, and how to go on where a few rows are bad."""
    if result["sound"]:
        bad = result["aside"][0] if result["aside"] else 0
        if result["doubts"]:
            aside = f", {count(bad, 'row')} set aside, as asked" if bad else ""
            return f"sound in form{aside}, but see what it would teach"
        return f"sound: {count(bad, 'row')} set aside, as asked" if bad else "sound: nothing was rejected"
    return f"not sound: see above\n{way_on(*result['aside'])}" if result["aside"] else "not sound: see above"


def html(result: Mapping[str, Any]) -> str:
    """Everything as one page (UTF-8, no script, nothing fetched)."""
    errors, others = ([_cut(one) for one in some] for some in _shown(result))
    doubts = [visible(retold(one)) for one in result["doubts"]]
    result = visible_in(result)
    lengths = result["lengths"] or {}
    charts = [
        (fixed("completions in a ranking"), "rankings", _numbered(result["k"])),
        (fixed("tokens of a prompt"), fixed("rows"), _binned(lengths.get("prompt"))),
        (fixed("tokens of a completion"), "completions", _binned(lengths.get("completion"))),
    ]
    return page_template("data_check.html.j2").render(
        result=result,
        recognised=partial(recognised, section=DATA),
        doubts=doubts,
        verdict=_verdict(result),
        account=account(result),
        errors=errors,
        others=others[: SHOWN_PROBLEMS - len(errors)],
        total=sum(result["problems"].values()),
        kinds=most({short(_kind(kind)): number for kind, number in result["problems"].items()}),
        left_out=most({recognised(why, DATA): number for why, number in result["left_out"].items()}),
        sentences=[*([(fixed("not read"), unread(result["unread"]))] if result["unread"] else []), *sentences(result)],
        sample_note=sample_note(result),
        charts=[(phrase(title), phrase(unit), _bars(values)) for title, unit, values in charts if values],
        examples=_examples(result),
    )


def _head(result: Mapping[str, Any]) -> str:
    lines = [f"data-check {result['source']}", ""]
    if result["format"]:
        lines.append(f"  format     {result['format']} ({result['kind']})")
        lines.append(f"  polarity   {result['polarity'] or 'none: nothing is ranked'}")
    lines.append(f"  rows       {account(result)}")
    if result["unread"]:
        lines.append(f"  not read   {unread(result['unread'])}")
    for name in ("left_out", "rejected"):
        for place, (what, number) in enumerate(most(result[name]).items()):
            lines.append(f"  {name.replace('_', ' ') if not place else '':<10} {number:,} × {short(what)}")
    return "\n".join(lines)


def _kind(kind: str) -> str:
    """A `Problem.kind` in the language that is spoken."""
    field, apart, what = kind.partition(": ")
    return phrase("{field}: {what}", field=field, what=recognised(what, DATA)) if apart else kind


def _verdict(result: Mapping[str, Any]) -> str:
    told = account(result)
    if result["sound"] and result["doubts"]:
        return phrase("Sound in form, but it would teach something else: {account}.", account=told)
    if result["sound"]:
        return phrase("Sound: {account}.", account=told)
    if result["problems"]:
        problems = count(sum(result["problems"].values()), "problem")
        said = phrase("Not sound: {problems}. {account}.", problems=problems, account=told)
        if not result["aside"]:
            return said
        return said + phrase(" To go on: {way}.", way=recognised(way_on(*result["aside"]), DATA))
    return phrase("Not sound: {problem}", problem=recognised(result["tokenizer"]["problem"], DATA))


def _problems(result: Mapping[str, Any]) -> str:
    problems = [Problem(**error) for error in result["errors"]]
    return "\n".join(short(line, 400) for line in str(DataError(problems, _not_kept(result))).splitlines())


def _not_kept(result: Mapping[str, Any]) -> Counter[str]:
    """By kind, how many problems there are of which only the number is known."""
    counts = Counter(result["problems"])
    kinds = (Problem(**error).kind for error in result["errors"])
    return counts - Counter(kind if kind in counts else OTHERS for kind in kinds)


def _shown(result: Mapping[str, Any]) -> tuple[list[Problem], list[Problem]]:
    """The problems that are shown at once, as on the terminal, and those that are kept beside."""
    return examples([Problem(**error) for error in result["errors"]], _not_kept(result).total())


def _cut(problem: Problem) -> dict[str, Any]:
    told = {key: visible_in(value) for key, value in dataclasses.asdict(problem).items()}
    return {key: short(recognised(value, DATA) if key in ("problem", "fix") else value) for key, value in told.items()}


def _samples(result: Mapping[str, Any]) -> str:
    lines = ["The first rows as the model will see them, special tokens spelt out:"]
    for sample in result["samples"]:
        lines.append(f"  {sample['source']}")
        for one in sample["texts"]:
            told = one["text"] if one["what"] == "refused" else _spelt(one)
            lines.append(f"    {one['what']} ({count(one['tokens'], 'token')}): {told}")
    return "\n".join(lines)


def _spelt(one: Mapping[str, Any]) -> str:
    """A sample's prompt and answer as quoted texts, an arrow between the two."""
    at = one["answer_at"]
    parts = [one["text"]] if at is None else [one["text"][:at], one["text"][at:]]
    return " → ".join(json.dumps(part, ensure_ascii=False) for part in parts)


def _numbered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    shown = most(counts, by_count=False)
    rest = sum(counts.values()) - sum(shown.values())
    return [*((str(k), count) for k, count in shown.items()), *([(phrase("more"), rest)] if rest else [])]


def _binned(found: Mapping[str, Any] | None) -> list[tuple[str, int]]:
    if not found:
        return []
    values = []
    for low, high, number in found["histogram"]:
        ends = dict.fromkeys(str(edge) if edge < 1000 else f"{edge / 1024:.0f}k" for edge in (low, high))
        values.append(("–".join(ends), number))
    return values


def _bars(values: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Bars of a chart that is 100 units high, heights in proportion; one that stands for something is seen."""
    highest = max(count for _, count in values)
    return [
        {"label": label, "count": count, "height": max(100 * count / highest, 1.0 if count else 0.0)}
        for label, count in values
    ]


def _examples(result: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    near, both = result["near_duplicates"], result["overlap"]
    found = [
        (phrase("Near-duplicates"), near["examples"] if near else []),
        (phrase("Held-out prompts and what they resemble"), both["examples"] if both else []),
    ]
    return [(title, pairs) for title, pairs in found if pairs]


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
