"""How is what `data_check` found shown: as text on a terminal, and as one page that needs no network?

Texts come from strangers. Characters that could move a terminal's cursor, turn writing round or hide are spelt out; on
the page everything is escaped by the template.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from data.forms.account import OTHERS
from data.schema import DataError, Problem, examples, way_on
from pipeline.pages.common import page_template
from pipeline.pages.visible import visible, visible_in

MANY = 30
"""Lines of one kind on the page or the terminal; the JSON file has all."""
SHOWN_PROBLEMS = 100

TITLE = "<title>data-check</title>"  # by which a page of ours is known


def text(result: Mapping[str, Any]) -> str:
    """Everything in lines for a terminal."""
    parts = [_head(result), *(f"{name}: {_account(own)}" for name, own in result["beside"].items())]
    if result["problems"]:
        parts.append(f"{_count(sum(result['problems'].values()), 'problem')}:\n{_indented(_problems(result))}")
    if result["samples"]:
        parts.append(_samples(result))
    if result["kept"]:
        parts.append("\n".join([_sample_note(result), *(f"  {name:<18} {said}" for name, said in sentences(result))]))
    if result["doubts"]:
        parts.append("would teach something else:\n" + _indented("\n".join(result["doubts"])))
    parts.append(_last(result))
    return visible("\n\n".join(parts))


def _last(result: Mapping[str, Any]) -> str:
    """The verdict, and how to go on where a few rows are bad."""
    if result["sound"]:
        bad = result["aside"][0] if result["aside"] else 0
        if result["doubts"]:
            aside = f", {_count(bad, 'row')} set aside, as asked" if bad else ""
            return f"sound in form{aside}, but see what it would teach"
        return f"sound: {_count(bad, 'row')} set aside, as asked" if bad else "sound: nothing was rejected"
    return f"not sound: see above\n{way_on(*result['aside'])}" if result["aside"] else "not sound: see above"


def html(result: Mapping[str, Any]) -> str:
    """Everything as one page (UTF-8, no script, nothing fetched)."""
    errors, others = ([_cut(one) for one in some] for some in _shown(result))
    result = visible_in(result)
    lengths = result["lengths"] or {}
    charts = [
        ("completions in a ranking", "rankings", _numbered(result["k"])),
        ("tokens of a prompt", "rows", _binned(lengths.get("prompt"))),
        ("tokens of a completion", "completions", _binned(lengths.get("completion"))),
    ]
    return page_template("data_check.html.j2").render(
        result=result,
        verdict=_verdict(result),
        account=_account(result),
        errors=errors,
        others=others[: SHOWN_PROBLEMS - len(errors)],
        total=sum(result["problems"].values()),
        kinds=_most({_short(kind): count for kind, count in result["problems"].items()}),
        left_out=_most(result["left_out"]),
        sentences=[*([("not read", _unread(result["unread"]))] if result["unread"] else []), *sentences(result)],
        sample_note=_sample_note(result),
        charts=[(title, unit, _bars(values)) for title, unit, values in charts if values],
        examples=_examples(result),
    )


def sentences(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, what is known of it), one line each; those of a sample begin with a star."""
    exact = [
        ("completions", _completions(result)),
        ("judgements", _labels(result["labels"])),
        ("ties", _ties(result["ties"])),
        ("annotators", _annotators(result["annotators"])),
        ("agreement", _agreement(result["agreement"])),
        ("duplicates", _duplicates(result["duplicates"])),
        ("contradictions", _contradictions(result)),
    ]
    of_texts = [
        ("prompt tokens", _tokens(result, "prompt")),
        ("completion tokens", _tokens(result, "completion")),
        ("max_length", _fits(result["lengths"])),
        ("longer wins", _longer(result["longer_wins"])),
        ("near-duplicates", _near(result["near_duplicates"])),
        ("overlap", _overlap(result["overlap"])),
        ("languages", _languages(result["languages"])),
    ]
    star = "" if result["sample"]["rows"] == result["sample"]["of"] else "* "
    return [(name, said) for name, said in exact if said] + [(name, star + said) for name, said in of_texts if said]


def _head(result: Mapping[str, Any]) -> str:
    lines = [f"data-check {result['source']}", ""]
    if result["format"]:
        lines.append(f"  format     {result['format']} ({result['kind']})")
        lines.append(f"  polarity   {result['polarity'] or 'none: nothing is ranked'}")
    lines.append(f"  rows       {_account(result)}")
    if result["unread"]:
        lines.append(f"  not read   {_unread(result['unread'])}")
    for name in ("left_out", "rejected"):
        for place, (what, count) in enumerate(_most(result[name]).items()):
            lines.append(f"  {name.replace('_', ' ') if not place else '':<10} {count:,} × {_short(what)}")
    return "\n".join(lines)


def _unread(columns: Mapping[str, str]) -> str:
    """Columns that nobody read, each with a sample."""
    shown = [f"{name} ({said})" for name, said in list(columns.items())[:MANY]]
    return ", ".join(shown) + (", …" if len(columns) > MANY else "")


def _account(own: Mapping[str, Any]) -> str:
    """What became of the rows of one source."""
    left_out, rejected = (sum(own[name].values()) for name in ("left_out", "rejected"))
    made = f"{own['used']:,} made " if own["used"] != own["kept"] else ""
    said = f"{own['read']:,} read, {rejected:,} rejected, {left_out:,} left out by design; "
    said += f"{made}{own['kept']:,} {own['kind'] or 'rows'}{'' if made else ' kept'}"
    return f"{said}; reading stopped before the end" if own["stopped"] else said


def _verdict(result: Mapping[str, Any]) -> str:
    if result["sound"] and result["doubts"]:
        return f"Sound in form, but it would teach something else: {_account(result)}."
    if result["sound"]:
        return f"Sound: {_account(result)}."
    if result["problems"]:
        further = f" To go on: {way_on(*result['aside'])}." if result["aside"] else ""
        return f"Not sound: {_count(sum(result['problems'].values()), 'problem')}. {_account(result)}.{further}"
    return f"Not sound: {result['tokenizer']['problem']}"


def _problems(result: Mapping[str, Any]) -> str:
    problems = [Problem(**error) for error in result["errors"]]
    return "\n".join(_short(line, 400) for line in str(DataError(problems, _not_kept(result))).splitlines())


def _not_kept(result: Mapping[str, Any]) -> Counter[str]:
    """By kind, how many problems there are of which only the number is known."""
    counts = Counter(result["problems"])
    kinds = (Problem(**error).kind for error in result["errors"])
    return counts - Counter(kind if kind in counts else OTHERS for kind in kinds)


def _shown(result: Mapping[str, Any]) -> tuple[list[Problem], list[Problem]]:
    """The problems that are shown at once, as on the terminal, and those that are kept beside."""
    return examples([Problem(**error) for error in result["errors"]], _not_kept(result).total())


def _cut(problem: Problem) -> dict[str, Any]:
    return {key: _short(visible_in(value)) for key, value in dataclasses.asdict(problem).items()}


def _samples(result: Mapping[str, Any]) -> str:
    lines = ["The first rows as the model will see them, special tokens spelt out:"]
    for sample in result["samples"]:
        lines.append(f"  {sample['source']}")
        for one in sample["texts"]:
            told = one["text"] if one["what"] == "refused" else _spelt(one)
            lines.append(f"    {one['what']} ({_count(one['tokens'], 'token')}): {told}")
    return "\n".join(lines)


def _spelt(one: Mapping[str, Any]) -> str:
    """A sample's prompt and answer as quoted texts, an arrow between the two."""
    at = one["answer_at"]
    parts = [one["text"]] if at is None else [one["text"][:at], one["text"][at:]]
    return " → ".join(json.dumps(part, ensure_ascii=False) for part in parts)


def _sample_note(result: Mapping[str, Any]) -> str:
    sample, tokenizer = result["sample"], result["tokenizer"]
    whole = sample["rows"] == sample["of"]
    drawn = f"{sample['rows']:,} rows drawn from {sample['of']:,} (seed {sample['seed']})"
    rows = "Figures are of all rows" if whole else f"Figures marked * are of {drawn}, the others of all rows"
    counts = (
        f"no token counts: {tokenizer['problem']}" if tokenizer["problem"] else f"token counts by {tokenizer['name']}"
    )
    return f"{rows}; {counts}."


def _completions(result: Mapping[str, Any]) -> str:
    if not result["k"]:
        return ""
    told = [f"{k} in {_count(count, 'ranking')}" for k, count in _most(result["k"], by_count=False).items()]
    return ", ".join(told)


def _labels(found: Mapping[str, int] | None) -> str:
    return "" if found is None else f"{found['liked']:,} liked, {found['disliked']:,} disliked"


def _ties(ties: Mapping[str, int] | None) -> str:
    if ties is None:
        return ""
    if not ties["pairs"]:
        return f"none among {_count(ties['of_pairs'], 'pair')} of completions"
    said = f"in {_count(ties['rankings'], 'ranking')}"
    return f"{said}; {ties['pairs']:,} of {_count(ties['of_pairs'], 'pair')} of completions are tied"


def _annotators(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if not found["annotators"]:
        return "none named"
    busiest = ", ".join(
        f"{name if len(name) <= 40 else name[:40] + '…'} {count:,}"
        for name, count in list(found["busiest"].items())[:5]
    )
    said = f"{found['annotators']:,}{' and more' if found['more'] else ''} in {_count(found['rows'], 'row')}"
    without = f", none in {found['rows_without']:,}" if found["rows_without"] else ""
    return f"{said}{without}; busiest: {busiest}"


def _agreement(found: Mapping[str, Any] | None) -> str:
    if found is None or not found["of_rankings"]:
        return ""
    if not found["items"]:
        return "nothing was ranked by two annotators"
    star = "" if found["complete"] else f"* of {found['of_rankings']:,} rankings: "
    said = f"{star}{_count(found['items'], 'item')} ranked by two or more: "
    said += f"{_percent(found['pairwise'])}{_between(found['pairwise_interval'], _percent)} of pairs put in the same order, {found['tied']:,} tied ones aside; "
    return (
        f"{said}Kendall's tau-b {_number(found['tau_b'])}, Krippendorff's alpha (ordinal) {_number(found['alpha'])}"
        + _between(found["alpha_interval"], _number)
    )


def _between(interval: tuple[float, float] | None, shown: Callable[[float], str]) -> str:
    """A 95% interval in brackets; nothing where there are too few items for one."""
    return "" if interval is None else f" ({shown(interval[0])} to {shown(interval[1])})"


def _tokens(result: Mapping[str, Any], what: str) -> str:
    found = result["lengths"] and result["lengths"][what]
    if not found:
        return ""
    median = f"{found['median']:,.1f}".removesuffix(".0")
    return f"median {median}, 95% up to {found['p95']:,}, longest {found['max']:,}"


def _fits(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    said = f"{found['max_length']:,}: {found['no_room']:,} of {_count(found['prompts'], 'prompt')} leave no room"
    if found["completions"]:
        said += f", {found['cut']:,} of {_count(found['completions'], 'completion')} lose their end"
    if found["equal_after_cut"]:
        said += f", rankings that differ only in what is lost: {found['equal_after_cut']:,}"
    if found["refused"]:
        said += f"; {_count(found['refused'], 'row')} refused: {_short(found['refusal'])}"
    return said


def _longer(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if not found["pairs"]:
        return "no pair of different length"
    span = f"{100 * found['low']:.1f}–{_percent(found['high'])}"
    return f"{_percent(found['win_rate'])} of {_count(found['pairs'], 'pair')} (95% interval {span})"


def _duplicates(found: Mapping[str, int]) -> str:
    said = f"{found['rows']:,} of {_count(found['of'], 'row')} say what a row before says"
    return f"{said}; {_count(found['prompts'], 'different prompt')}"


def _near(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    told = [
        f"{own['near']:,} of {own['different']:,} different {name}"
        + (f" (largest cluster {own['largest']:,})" if own["near"] else "")
        for name, own in (("rows", found["rows"]), ("prompts", found["prompts"]))
    ]
    return f"{', '.join(told)} at a similarity of {found['threshold']:g}"


def _contradictions(result: Mapping[str, Any]) -> str:
    found = result["contradictions"]
    if result["kind"] != "rankings":
        return ""
    between = found["between_annotators"]
    said = f"{_count(found['rejected'], 'row')} ranked the other way round before"
    return f"{said}; annotators contradict each other in {_count(between, 'pair')}" if between else said


def _overlap(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    said = f"of {_count(found['eval_prompts'], 'held-out prompt')} {found['exact']:,} are among the "
    said += f"{found['train_prompts']:,} of training, {found['near']:,} similar to one of them"
    return f"{said} (similarity {found['threshold']:g})"


def _languages(found: Mapping[str, Mapping[str, int]] | None) -> str:
    if found is None:
        return ""
    told = []
    for name, counts in found.items():
        total = sum(counts.values())
        shares = [f"{code} {_percent(count / total)}" for code, count in list(counts.items())[:5]]
        if total:
            told.append(f"{name}: {', '.join(shares)}{', …' if len(counts) > 5 else ''}")
    return "; ".join(told)


def _numbered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    shown = _most(counts, by_count=False)
    rest = sum(counts.values()) - sum(shown.values())
    return [*((str(k), count) for k, count in shown.items()), *([("more", rest)] if rest else [])]


def _binned(found: Mapping[str, Any] | None) -> list[tuple[str, int]]:
    if not found:
        return []
    values = []
    for low, high, count in found["histogram"]:
        ends = dict.fromkeys(str(edge) if edge < 1000 else f"{edge / 1024:.0f}k" for edge in (low, high))
        values.append(("–".join(ends), count))
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
        ("Near-duplicates", near["examples"] if near else []),
        ("Held-out prompts and what they resemble", both["examples"] if both else []),
    ]
    return [(title, pairs) for title, pairs in found if pairs]


def _most(counts: Mapping[str, int], by_count: bool = True) -> dict[str, int]:
    """The first MANY, the commonest first or as they stand."""
    ordered = Counter(counts).most_common() if by_count else list(counts.items())
    return dict(ordered[:MANY])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())


def _short(value: Any, length: int = 300) -> Any:
    """A text, cut at the end if it is too long for a line; other values as they are."""
    if not isinstance(value, str) or len(value) <= length:
        return value
    return f"{value[:length]} … ({len(value) - length:,} characters left out)"
