"""What is said of each figure of data-check, in the language that is spoken: one line each, the same on a terminal and on the page."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.language import DATA, fixed, phrase, recognised

MANY = 30
"""Lines of one kind on the page or the terminal; the JSON file has all."""
KINDS = {
    "rankings": fixed("{number:,} rankings"),
    "demonstrations": fixed("{number:,} demonstrations"),
    "judgements": fixed("{number:,} judgements"),
    "prompts": fixed("{number:,} prompts"),
}
ROWS = fixed("{number:,} rows")
NOUNS = {
    "row": (fixed("{number:,} row"), ROWS),
    "problem": (fixed("{number:,} problem"), fixed("{number:,} problems")),
    "pair": (fixed("{number:,} pair"), fixed("{number:,} pairs")),
    "item": (fixed("{number:,} item"), fixed("{number:,} items")),
    "token": (fixed("{number:,} token"), fixed("{number:,} tokens")),
    "ranking": (fixed("{number:,} ranking"), KINDS["rankings"]),
    "prompt": (fixed("{number:,} prompt"), KINDS["prompts"]),
    "completion": (fixed("{number:,} completion"), fixed("{number:,} completions")),
    "held-out prompt": (fixed("{number:,} held-out prompt"), fixed("{number:,} held-out prompts")),
    "different prompt": (fixed("{number:,} different prompt"), fixed("{number:,} different prompts")),
}


def sentences(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, what is known of it), one line each; those of a sample begin with a star."""
    exact = [
        (fixed("completions"), _completions(result)),
        (fixed("judgements"), _labels(result["labels"])),
        ("ties", _ties(result["ties"])),
        (fixed("annotators"), _annotators(result["annotators"])),
        (fixed("agreement"), _agreement(result["agreement"])),
        (fixed("duplicates"), _duplicates(result["duplicates"])),
        (fixed("contradictions"), _contradictions(result)),
    ]
    of_texts = [
        (fixed("prompt tokens"), _tokens(result, "prompt")),
        (fixed("completion tokens"), _tokens(result, "completion")),
        ("max_length", _fits(result["lengths"])),
        (fixed("longer wins"), _longer(result["longer_wins"])),
        (fixed("near-duplicates"), _near(result["near_duplicates"])),
        (fixed("overlap"), _overlap(result["overlap"])),
        (fixed("languages"), _languages(result["languages"])),
    ]
    star = "" if result["sample"]["rows"] == result["sample"]["of"] else "* "
    return [(name, said) for name, said in exact if said] + [(name, star + said) for name, said in of_texts if said]


def unread(columns: Mapping[str, str]) -> str:
    """Columns that nobody read, each with a sample."""
    shown = [f"{name} ({said})" for name, said in list(columns.items())[:MANY]]
    return phrase(", ").join(shown) + (phrase(", …") if len(columns) > MANY else "")


def account(own: Mapping[str, Any]) -> str:
    """What became of the rows of one source."""
    left_out, rejected = (sum(own[name].values()) for name in ("left_out", "rejected"))
    kept = phrase(KINDS.get(own["kind"], ROWS), number=own["kept"])
    if own["used"] != own["kept"]:
        made = phrase("{number:,} made {kept}", number=own["used"], kept=kept)
    else:
        made = phrase("{kept} kept", kept=kept)
    said = phrase(
        "{read:,} read, {rejected:,} rejected, {left_out:,} left out by design; {made}",
        read=own["read"],
        rejected=rejected,
        left_out=left_out,
        made=made,
    )
    return said + phrase("; reading stopped before the end") if own["stopped"] else said


def sample_note(result: Mapping[str, Any]) -> str:
    """Of which rows the figures are, and by which tokenizer tokens are counted."""
    sample, tokenizer = result["sample"], result["tokenizer"]
    if sample["rows"] == sample["of"]:
        rows = phrase("Figures are of all rows")
    else:
        rows = phrase(
            "Figures marked * are of {rows:,} rows drawn from {of:,} (seed {seed}), the others of all rows",
            rows=sample["rows"],
            of=sample["of"],
            seed=sample["seed"],
        )
    if tokenizer["problem"]:
        counts = phrase("no token counts: {problem}", problem=recognised(tokenizer["problem"], DATA))
    else:
        counts = phrase("token counts by {name}", name=recognised(tokenizer["name"], DATA))
    return phrase("{rows}; {counts}.", rows=rows, counts=counts)


def _completions(result: Mapping[str, Any]) -> str:
    told = [
        phrase("{k} in {rankings}", k=k, rankings=count(number, "ranking"))
        for k, number in most(result["k"], by_count=False).items()
    ]
    return phrase(", ").join(told)


def _labels(found: Mapping[str, int] | None) -> str:
    if found is None:
        return ""
    return phrase("{liked:,} liked, {disliked:,} disliked", liked=found["liked"], disliked=found["disliked"])


def _ties(ties: Mapping[str, int] | None) -> str:
    if ties is None:
        return ""
    pairs = count(ties["of_pairs"], "pair")
    if not ties["pairs"]:
        return phrase("none among {pairs} of completions", pairs=pairs)
    return phrase(
        "in {rankings}; {tied:,} of {pairs} of completions are tied",
        rankings=count(ties["rankings"], "ranking"),
        tied=ties["pairs"],
        pairs=pairs,
    )


def _annotators(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if not found["annotators"]:
        return phrase("none named")
    busiest = phrase(", ").join(
        f"{name if len(name) <= 40 else name[:40] + '…'} {number:,}"
        for name, number in list(found["busiest"].items())[:5]
    )
    said = phrase(
        "{number:,} and more in {rows}" if found["more"] else "{number:,} in {rows}",
        number=found["annotators"],
        rows=count(found["rows"], "row"),
    )
    without = phrase(", none in {number:,}", number=found["rows_without"]) if found["rows_without"] else ""
    return f"{said}{without}" + phrase("; busiest: {busiest}", busiest=busiest)


def _agreement(found: Mapping[str, Any] | None) -> str:
    if found is None or not found["of_rankings"]:
        return ""
    if not found["items"]:
        return phrase("nothing was ranked by two annotators")
    star = "" if found["complete"] else phrase("* of {number:,} rankings: ", number=found["of_rankings"])
    return star + phrase(
        "{items} ranked by two or more: {share}{interval} of pairs put in the same order, {tied:,} tied ones aside; "
        "Kendall's tau-b {tau}, Krippendorff's alpha (ordinal) {alpha}{of_alpha}",
        items=count(found["items"], "item"),
        share=_percent(found["pairwise"]),
        interval=_between(found["pairwise_interval"], _percent),
        tied=found["tied"],
        tau=_number(found["tau_b"]),
        alpha=_number(found["alpha"]),
        of_alpha=_between(found["alpha_interval"], _number),
    )


def _between(interval: tuple[float, float] | None, shown: Callable[[float], str]) -> str:
    """A 95% interval in brackets; nothing where there are too few items for one."""
    return "" if interval is None else phrase(" ({low} to {high})", low=shown(interval[0]), high=shown(interval[1]))


def _tokens(result: Mapping[str, Any], what: str) -> str:
    found = result["lengths"] and result["lengths"][what]
    if not found:
        return ""
    median = f"{found['median']:,.1f}".removesuffix(".0")
    return phrase(
        "median {median}, 95% up to {p95:,}, longest {most:,}", median=median, p95=found["p95"], most=found["max"]
    )


def _fits(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    said = phrase(
        "{limit:,}: {no_room:,} of {prompts} leave no room",
        limit=found["max_length"],
        no_room=found["no_room"],
        prompts=count(found["prompts"], "prompt"),
    )
    if found["completions"]:
        completions = count(found["completions"], "completion")
        said += phrase(", {cut:,} of {completions} lose their end", cut=found["cut"], completions=completions)
    if found["equal_after_cut"]:
        said += phrase(", rankings that differ only in what is lost: {number:,}", number=found["equal_after_cut"])
    if found["refused"]:
        said += phrase(
            "; {rows} refused: {refusal}",
            rows=count(found["refused"], "row"),
            refusal=short(recognised(found["refusal"], DATA)),
        )
    return said


def _longer(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if not found["pairs"]:
        return phrase("no pair of different length")
    span = f"{100 * found['low']:.1f}–{_percent(found['high'])}"
    return phrase(
        "{share} of {pairs} (95% interval {span})",
        share=_percent(found["win_rate"]),
        pairs=count(found["pairs"], "pair"),
        span=span,
    )


def _duplicates(found: Mapping[str, int]) -> str:
    return phrase(
        "{again:,} of {rows} say what a row before says; {prompts}",
        again=found["rows"],
        rows=count(found["of"], "row"),
        prompts=count(found["prompts"], "different prompt"),
    )


def _near(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    told = []
    for name in ("rows", "prompts"):
        own = found[name]
        said = phrase(
            "{near:,} of {different:,} different rows"
            if name == "rows"
            else "{near:,} of {different:,} different prompts",
            near=own["near"],
            different=own["different"],
        )
        told.append(said + (phrase(" (largest cluster {number:,})", number=own["largest"]) if own["near"] else ""))
    return phrase("{what} at a similarity of {threshold:g}", what=phrase(", ").join(told), threshold=found["threshold"])


def _contradictions(result: Mapping[str, Any]) -> str:
    found = result["contradictions"]
    if result["kind"] != "rankings":
        return ""
    between = found["between_annotators"]
    said = phrase("{rows} ranked the other way round before", rows=count(found["rejected"], "row"))
    if not between:
        return said
    return said + phrase("; annotators contradict each other in {pairs}", pairs=count(between, "pair"))


def _overlap(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return phrase(
        "of {prompts} {exact:,} are among the {train:,} of training, {near:,} similar to one of them "
        "(similarity {threshold:g})",
        prompts=count(found["eval_prompts"], "held-out prompt"),
        exact=found["exact"],
        train=found["train_prompts"],
        near=found["near"],
        threshold=found["threshold"],
    )


def _languages(found: Mapping[str, Mapping[str, int]] | None) -> str:
    if found is None:
        return ""
    told = []
    for name, counts in found.items():
        total = sum(counts.values())
        shares = phrase(", ").join(
            f"{recognised(code, DATA)} {_percent(number / total)}" for code, number in list(counts.items())[:5]
        )
        if total:
            shares += phrase(", …") if len(counts) > 5 else ""
            told.append(phrase("prompts: {shares}" if name == "prompts" else "completions: {shares}", shares=shares))
    return phrase("; ").join(told)


def most(counts: Mapping[str, int], by_count: bool = True) -> dict[str, int]:
    """The first MANY, the commonest first or as they stand."""
    ordered = Counter(counts).most_common() if by_count else list(counts.items())
    return dict(ordered[:MANY])


def count(number: int, noun: str) -> str:
    """A number of what `noun` names, one of NOUNS."""
    one, several = NOUNS[noun]
    return phrase(one if number == 1 else several, number=number)


def _percent(share: float | None) -> str:
    return phrase("none") if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return phrase("undefined") if value is None else f"{value:.3f}"


def short(value: Any, length: int = 300) -> Any:
    """A text, cut at the end if it is too long for a line; other values as they are."""
    if not isinstance(value, str) or len(value) <= length:
        return value
    return value[:length] + phrase(" … ({number:,} characters left out)", number=len(value) - length)
