"""What do the numbers of a comparison allow to say? The verdict and the warnings."""

from typing import Any

from pipeline.language import phrase
from pipeline.report import passes, sentences
from pipeline.report.findings import Report
from pipeline.report.sentences import clauses, counted, joined
from pipeline.report.signs import UNALIGNED, signs

ORIGINS = ("base", "sft", "few_shot")  # what an aligned model came from; others are rivals, told in a second sentence


def verdict(report: Report) -> str:
    """Is the main model better than what it came from, by whose judgement, by how much? Then at what KL and length, what
    the optimised reward says, and how it stands beside its rivals, a sentence each. No claim goes beyond its interval.

    Needs "main", "optimised", "prompts", "models" and "pairs" of `report`, and "identical" where there is any. Every judge and every opponent is named, so
    that a favourable one cannot stand for the rest.
    """
    main, optimised = report.main, report.optimised
    pairs = _pairs(report)
    if not pairs:
        return phrase("No verdict: the comparison needs a model to compare with.")
    who = phrase("the aligned model (ppo)") if main == "ppo" else main
    judges, origins = judges_of(report), origins_of(report)
    rivals = [name for name in pairs if name not in origins]

    def said(judge: str, others: list[str]) -> str:
        outcomes = {other: pairs[other][judge] for other in others if judge in pairs[other]}
        if not outcomes:
            return ""
        fewest = min(outcome["prompts"] for outcome in outcomes.values())
        some = phrase(" (on {fewest} prompts or more)", fewest=fewest) if fewest < report.prompts else ""
        told = passes.predicate(report, judge, outcomes) if judge in report.passes else clauses(outcomes)
        return told + some

    def by_all(subject: str | None, others: list[str], named: list[str]) -> str:
        """What each judge says: of `subject` where a sentence begins here, else of "it" within one."""
        heard = [(judge, claim) for judge in named if (claim := said(judge, others))]
        return phrase("; ").join(
            phrase("By {judge}, {subject} {claim}", judge=judge, subject=subject, claim=claim)
            if place == 0 and subject is not None
            else phrase("by {judge}, it {claim}", judge=judge, claim=claim)
            for place, (judge, claim) in enumerate(heard)
        )

    ending = phrase(
        "over {prompts}.{identical} That came {price}.",
        **{"prompts": counted(report.prompts, "prompt"), "identical": _identical(report), "price": _price(report)},
    )
    if not judges:
        claim = phrase("by it, {who} {claim}, {ending}", who=who, claim=said(optimised, origins), ending=ending)
        beside = phrase(" Beside the other methods, it {claim}.", claim=said(optimised, rivals)) if rivals else ""
        told = phrase("Only the reward that training optimised judged, so the claim is weak: {claim}", claim=claim)
        return f"{told}{beside}"
    if all(maximised(report, judge) for judge in judges):
        checked = phrase(
            " Training maximised {judges} itself, on other prompts; on these it is no proxy: it says whether the answer is right.",
            judges=joined(judges),
        )
        beside = phrase(" Beside the other methods, it {claim}.", claim=said(judges[0], rivals)) if rivals else ""
        told = phrase("{claim}, {ending}", claim=by_all(who, origins, judges), ending=ending)
        return f"{told}{checked}{beside}"
    rates = [
        phrase("{rate:.1%} against {name}", rate=pairs[name][optimised]["win_rate"], name=name)
        for name in origins
        if optimised in pairs[name]
    ]
    closing = (
        phrase(
            " The reward that training optimised, which is no independent judge, gives it a win rate of {rates}.",
            rates=joined(rates),
        )
        if rates
        else ""
    )
    first = phrase("{claim}, {ending}", claim=by_all(who, origins, judges), ending=ending)
    beside = by_all(None, rivals, judges)
    return f"{first}{closing}" + (phrase(" Beside the other methods: {claim}.", claim=beside) if beside else "")


def origins_of(report: Report) -> list[str]:
    """What the main model came from, of the models that it is compared with; all of them where none of those is there."""
    pairs = _pairs(report)
    return [name for name in pairs if name in ORIGINS] or list(pairs)


def judges_of(report: Report) -> list[str]:
    """The independent judges that judged the main model against any other, the most trusted first."""
    return [judge for judge in report.judges if any(judge in pair for pair in _pairs(report).values())]


def maximised(report: Report, judge: str) -> bool:
    """Whether training maximised what this judge checks, alone or beside other functions."""
    own, optimised = report.panel.get(judge), str(report.provenance.get("score that was optimised", ""))
    return own is not None and own.label == "verifier" and judge in optimised.split(", ")


def _pairs(report: Report) -> dict[str, dict[str, dict[str, Any]]]:
    """Opponent of the main model -> judge -> outcome."""
    start = f"{report.main} vs "
    return {name.removeprefix(start): pair for name, pair in report.pairs.items() if name.startswith(start)}


def _identical(report: Report) -> str:
    """A sentence on the models whose completions are, all of them, the main model's own: every tie is then no more than that."""
    same = [name for name, share in report.identical.items() if share == 1]
    if not same:
        return ""
    return phrase(
        " Every completion of {main} is identical to that of {others}, so each comparison with it is a tie.",
        **{"main": report.main, "others": joined(same)},
    )


def _price(report: Report) -> str:
    """At what KL and length the main model's win came."""
    models, main = report.models, report.main
    own = models[main]
    kl = phrase("at an unmeasured KL")
    if own.kl is not None:
        kl = phrase("at a KL of {kl:.1f} nats to sft", kl=round(own.kl, 1) + 0.0)
    if own.kl_bound is not None:
        kl = phrase("at a KL of at most {kl:.1f} nats to sft", kl=own.kl_bound)
    other = next((name for name in ("sft", "base", "few_shot", *models) if name in models and name != main), main)
    if models[other].length == 0:
        return phrase(
            "{kl} and {length:.1f} tokens a completion ({other} writes none)", kl=kl, length=own.length, other=other
        )
    times = own.length / models[other].length
    return phrase("{kl} and {times:.2f} times the length of {other}", kl=kl, times=times, other=other)


def warnings(report: Report) -> list[str]:
    """What a careful reader should know before believing the verdict: one sentence each, none when all is well."""
    found = []
    models, prompts, main = report.models, report.prompts, report.main
    if prompts < sentences.MIN_PROMPTS:
        found.append(
            phrase(
                "Only {prompts}: below {least}, the intervals are too narrow to trust.",
                **{"prompts": counted(prompts, "prompt"), "least": sentences.MIN_PROMPTS},
            )
        )
    if not report.judges:
        found.append(
            phrase("No independent judge: a policy can raise the reward it is trained on without being any better.")
        )
    for judge, own in report.panel.items():
        each = report.samples_per_model
        missing = sum(pair[judge]["unjudged"] if judge in pair else each for pair in report.pairs.values())
        if own.label == "LLM" and missing:
            counts = own.summary.get("failures", 0), own.summary.get("not_asked", 0)
            found.append(
                phrase(
                    "{judge} left {missing} comparisons unjudged ({failed} questions failed, {beyond} were beyond max_calls): "
                    "its figures are of the rest.",
                    **{"judge": judge, "missing": missing, "failed": counts[0], "beyond": counts[1]},
                )
            )
    for name, share in report.identical.items():
        if share == 1:
            found.append(
                phrase(
                    "{main} and {name} gave the same completions throughout: the same weights may stand behind both names "
                    "(see their hashes under provenance), or training changed nothing that sampling shows.",
                    **{"main": main, "name": name},
                )
            )
    if main in UNALIGNED:
        return found
    if models[main].kl is None and models[main].kl_bound is None:
        found.append(
            phrase("The KL of {main} to sft was not measured, so nothing says how far the policy has moved.", main=main)
        )
    if "sft" not in models:
        found.append(phrase("There is no sft model here, so what {main} has changed was not checked.", main=main))
    return found + [sign.warning for sign in signs(report) if sign.warning is not None]
