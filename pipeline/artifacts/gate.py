"""How does a stage end? With a gate: a few figures held against thresholds, each pass, warn or fail."""

from dataclasses import asdict, dataclass
from typing import Any


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


def check(
    name: str, figure: float | None, threshold: str, *, fail: bool = False, warn: bool = False, why: str = ""
) -> Check:
    """A gate's line: `fail` and `warn` say whether `figure` is past the threshold that fails or that warns."""
    return Check(name, "fail" if fail else "warn" if warn else "pass", figure, threshold, why)


def check_gain(name: str, gain: float, low: float, high: float) -> Check:
    """A gain with its 95% interval: fails where it is surely below 0, warns where it may be."""
    return check(name, gain, f"interval {low:.3f} to {high:.3f} above 0", fail=high < 0, warn=low <= 0)
