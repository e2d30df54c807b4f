"""How does a stage end? With a gate: a few figures held against limits, each pass, warn or fail.

A limit has its words and its test in one place, so that a gate cannot say another thing than it checks:

    check("EOS rate", 0.4, must=above(0), should=at_least(0.5))    # warns: 0.4 (above 0, better at least 0.5)
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Limit:
    """What a figure should be: `kind` and `number` are its words, `holds` its test."""

    kind: str
    number: str
    holds: Callable[[float], bool]

    def __str__(self) -> str:
        return f"{self.kind} {self.number}".strip()


def above(limit: float) -> Limit:
    return Limit("above", f"{limit:g}", lambda figure: figure > limit)


def at_least(limit: float) -> Limit:
    return Limit("at least", f"{limit:g}", lambda figure: figure >= limit)


def below(limit: float, what: str = "") -> Limit:
    """`what` says what the limit is, where it is a figure of the run itself."""
    return Limit("below", f"{limit:.4g}" + (f", {what}" if what else ""), lambda figure: figure < limit)


def at_most(limit: float) -> Limit:
    return Limit("at most", f"{limit:g}", lambda figure: figure <= limit)


def between(low: float, high: float) -> Limit:
    """Both ends are allowed."""
    return Limit("", f"{low:g} to {high:g}", lambda figure: low <= figure <= high)


NONE = Limit("exactly", "0", lambda figure: figure == 0)


@dataclass(frozen=True)
class Check:
    """One line of a gate: a figure held against a threshold."""

    name: str
    result: str  # pass, warn or fail
    figure: float | None
    threshold: str
    why: str = ""


@dataclass(frozen=True)
class Gate:
    """The checks that close a stage; as good as the worst of them."""

    checks: list[Check]

    @property
    def result(self) -> str:
        results = {check.result for check in self.checks}
        return next((r for r in ("fail", "warn") if r in results), "pass")

    def to_json(self) -> dict[str, Any]:
        return {"result": self.result, "checks": [asdict(check) for check in self.checks]}


def check(name: str, figure: float, *, must: Limit | None = None, should: Limit | None = None, why: str = "") -> Check:
    """A gate's line: it fails where `figure` is not as it `must` be, and warns where it is not as it `should` be."""
    result = "pass"
    if must is not None and not must.holds(figure):
        result = "fail"
    elif should is not None and not should.holds(figure):
        result = "warn"
    return Check(name, result, figure, _words(must, should), why)


def _words(must: Limit | None, should: Limit | None) -> str:
    """Such as "at least 1, better 100": a kind that both limits have is named once."""
    if must is None or should is None:
        return str(should if must is None else must)
    return f"{must}, better {should.number if should.kind == must.kind else should}"


def check_interval(
    name: str,
    figure: float,
    low: float,
    high: float,
    *,
    must: Limit | None = None,
    upper_must: Limit | None = None,
    lower_should: Limit,
    why: str = "",
) -> Check:
    """A figure with its interval: fails where the figure is not as it `must` be or the upper end not as `upper_must` says,
    warns where the lower end is not as `lower_should` says."""
    result = "pass" if lower_should.holds(low) else "warn"
    said = []
    for limit, value, what in ((must, figure, ""), (upper_must, high, "its upper end ")):
        if limit is not None:
            said.append(f"{what}{limit}")
            result = result if limit.holds(value) else "fail"
    said.append(f"better its lower end {lower_should}")
    return Check(name, result, figure, f"interval {low:.3f} to {high:.3f}: {', '.join(said)}", why)


def check_gain(name: str, gain: float, low: float, high: float, why: str = "") -> Check:
    """A gain with its 95% interval: fails where it is surely below 0, warns where it may be."""
    return check_interval(name, gain, low, high, upper_must=at_least(0), lower_should=above(0), why=why)
