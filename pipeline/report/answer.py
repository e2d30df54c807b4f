"""What does a colleague read in ten seconds? Yes, no or cannot tell, by the rules of the verdict; bars, an example, short warnings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.comparison.pairing import ByKey, Opinion, judged
from pipeline.language import fixed, phrase
from pipeline.report.findings import Report
from pipeline.report.passes import ALL, FIRST
from pipeline.report.sentences import counted, reading
from pipeline.report.verdict import judges_of, origins_of

PLAIN = {
    "base": fixed("the original"),
    "sft": fixed("its fine-tuned start"),
    "few_shot": fixed("the original with examples"),
}
YES, NO, OPEN = map(fixed, ("Yes", "No", "Cannot tell"))
BARS = 3
BADGE = 44  # characters of a warning's short form
EXAMPLE = 220  # characters of a text of the example
_PARTS = {
    2: 0.02,
    3: 0.02,
    4: 0.02,
    5: 0.02,
    10: 0.02,
    20: 0.005,
    100: 0.005,
}  # of how many, and how far a share may be from that
_EXACT = 0.005  # from where on the words say "about"


@dataclass(frozen=True)
class Answer:
    """`word` is YES, NO or OPEN; `why` says it in a sentence; `other` is the model that `why` is about, "" where there is none."""

    word: str
    why: str
    other: str

    def __str__(self) -> str:
        return phrase("{word}. {why}", word=phrase(self.word), why=self.why)


@dataclass(frozen=True)
class Bar:
    """One win rate of the main model. `kind` is better, worse or even."""

    other: str
    plain: str
    judge: str
    outcome: dict[str, Any]
    kind: str


@dataclass(frozen=True)
class Example:
    """What two models said to one prompt: neither the best nor the worst that there is, but the middle one."""

    prompt: str
    before: str
    after: str


def answer(report: Report) -> Answer:
    """Yes where every independent judge prefers the main model to everything it came from, no where all of them prefer one of
    those to it, and else cannot tell. What a judge prefers is what the verdict says of it, further training seeds included."""
    origins, judges = origins_of(report), judges_of(report)
    if not origins:
        return Answer(OPEN, phrase("There is no other model to compare with."), "")
    if not judges:
        why = phrase("Only the reward that training optimised judged, and it is no independent judge.")
        return Answer(OPEN, why, origins[0])
    claims = {
        other: {_claim(report, judge, other) for judge in judges if judge in _pair(report, other)} for other in origins
    }
    for other, said in claims.items():
        if said == {"worse"}:
            return Answer(NO, phrase("{won}.", won=_won(report, other, only=True)), other)
    for other, said in claims.items():
        if said != {"better"}:
            return Answer(OPEN, _open(report, other, said), other)
    return Answer(YES, phrase("{won}.", won=_won(report, origins[0])), origins[0])


def bars(report: Report) -> list[Bar]:
    """The main model against what it came from, by the most trusted judge, then by the others; three at most."""
    judges = judges_of(report) or [report.optimised]
    found = [(judge, other) for judge in judges for other in origins_of(report) if judge in _pair(report, other)]
    made = []
    for judge, other in found[:BARS]:
        claim = _claim(report, judge, other)
        kind = claim if claim in ("better", "worse") and judge != report.optimised else "even"
        made.append(Bar(other, _plain(other), judge, _pair(report, other)[judge], kind))
    return made


def example(report: Report, rows: ByKey, opinions: Sequence[Opinion], other: str) -> Example | None:
    """The sample whose outcome against `other` is the median by the most trusted judge that judged the two; None without one."""
    judge = next((judge for judge in judges_of(report) or [report.optimised] if judge in _pair(report, other)), None)
    if judge is None:
        return None
    found = judged(next(one for one in opinions if one.name == judge), rows, report.main, other)
    after, before = rows[report.main], rows[other]

    def gain(key: Any) -> float:
        if not report.panel[judge].scores:
            return found[key]
        return float(after[key]["scores"][judge] - before[key]["scores"][judge])

    ordered = sorted(found, key=lambda key: (gain(key), key))
    key = ordered[len(ordered) // 2]
    return Example(
        *(_cut(text) for text in (after[key]["prompt"], before[key]["completion"], after[key]["completion"]))
    )


def badges(report: Report) -> list[str]:
    """Every warning in a few words: the name of the sign that it is of, or its beginning."""
    signs = {sign.warning: sign for sign in report.signs if sign.warning is not None}
    return [
        _of_sign(signs[text].name, signs[text].figure) if text in signs else _beginning(text)
        for text in report.warnings
    ]


def share_in_words(rate: float) -> str:
    """0.76 is "about 3 of 4". Never on the other side of ½, and neither none nor all where it is not just that."""
    if rate in (0, 1):
        return phrase("all") if rate else phrase("none of the")
    for parts, near in _PARTS.items():
        count = round(rate * parts)
        away = abs(rate - count / parts)
        same_side = (2 * count > parts) == (rate > 0.5) and (2 * count < parts) == (rate < 0.5)
        if 0 < count < parts and away <= near and same_side:
            if away > _EXACT:
                return phrase("about {count} of {parts}", count=count, parts=parts)
            return phrase("{count} of {parts}", count=count, parts=parts)
    return phrase("{rate:.1%} of the", rate=rate)


def _pair(report: Report, other: str) -> dict[str, dict[str, Any]]:
    return report.pairs[f"{report.main} vs {other}"]


def _claim(report: Report, judge: str, other: str) -> str:
    """What one judge allows to say against one model; with further training seeds, what both sources of chance allow."""
    of_seeds = report.seeds.get(report.main, {}).get(judge)
    if of_seeds is not None and of_seeds["against"] == other:
        return str(of_seeds["reading"])
    return reading(_pair(report, other)[judge])


def _open(report: Report, other: str, said: set[str]) -> str:
    if report.identical.get(other) == 1:
        return phrase("Its answers are the very same as those of {other}.", other=_plain(other))
    if {"better", "worse"} <= said:
        return phrase("The judges contradict each other on whether it is better than {other}.", other=_plain(other))
    if said == {"too few prompts"}:
        few = counted(report.prompts, "prompt")
        return phrase("Only {prompts}: too few to tell it from {other}.", prompts=few, other=_plain(other))
    if len(said) > 1:
        if "better" in said:
            return phrase("Not every judge finds it better than {other}.", other=_plain(other))
        return phrase("Not every judge finds it worse than {other}.", other=_plain(other))
    won = _won(report, other)
    raw = {reading(_pair(report, other)[judge]) for judge in judges_of(report) if judge in _pair(report, other)}
    if raw != said:
        return phrase("{won}, but another training seed could turn that round.", won=won)
    return phrase("{won}, which chance alone could give.", won=won)


def _won(report: Report, other: str, only: bool = False) -> str:
    """How often the most trusted judge prefers the main model's answers, or finds them right."""
    pair = _pair(report, other)
    judge = next(judge for judge in judges_of(report) if judge in pair)
    if judge in report.passes:
        models = report.passes[judge]["tasks"][ALL]["models"]
        own, theirs = (models[name][FIRST]["mean"] for name in (report.main, other))
        told = {"own": own, "other": _plain(other), "theirs": theirs}
        if only:
            return phrase("Right in only {own:.1%} of its answers, {other} in {theirs:.1%}", **told)
        return phrase("Right in {own:.1%} of its answers, {other} in {theirs:.1%}", **told)
    share = share_in_words(pair[judge]["win_rate"])
    if only:
        return phrase("Preferred to {other} in only {share} answers", other=_plain(other), share=share)
    return phrase("Preferred to {other} in {share} answers", other=_plain(other), share=share)


def _plain(other: str) -> str:
    return phrase(PLAIN[other]) if other in PLAIN else other


def _of_sign(name: str, figure: str) -> str:
    whole = phrase("{name}: {figure}", name=name, figure=figure)
    return whole if len(whole) <= BADGE else name


def _beginning(text: str) -> str:
    start = re.split(r": | \(|, |\. |[：（，。]", text, maxsplit=1)[0].rstrip(".")
    return start if len(start) <= BADGE else f"{start[: BADGE - 1].rstrip()}…"


def _cut(text: str) -> str:
    return text if len(text) <= EXAMPLE else f"{text[:EXAMPLE]}{phrase(' … (cut here)')}"
