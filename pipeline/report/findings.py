"""What did a comparison find? Everything that its page and files show, under one name each."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Member:
    """A judge on the panel. `label` is a `judge.Label`; `scores` says whether it scores or only compares; `summary` what judging
    cost."""

    label: str
    scores: bool
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """One model in figures, means over its samples; None where one was not measured."""

    reward: float = 0.0  # the score that training maximised
    judge: dict[str, float] = field(default_factory=dict)  # mean score by every other judge that scores
    positive: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # share of completions that a judge holds for good, of judges that say from which score on: {"mean", "low", "high"}
    length: float = 0.0  # tokens a completion
    eos_rate: float = 0.0
    distinct_2: float = 0.0
    kl: float | None = None  # nats a completion, to the sft model
    perplexity: float | None = None  # on held-out demonstrations
    perplexity_plain: float | None = None  # on plain text
    kl_bound: float | None = None  # nats, of best-of-n
    tokens_per_answer: float | None = None  # sampled for one answer
    training_tokens_sampled: float | None = None
    intervals: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # of judges, "length", "kl": {"mean", "low", "high"}
    side_effects: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # as `side_effects.side_effects`, without length
    length_drift: dict[str, Any] | None = None  # as `side_effects.length_drift`, and the "reference"


@dataclass(frozen=True)
class Point:
    """A place on the frontier: mean scores, judge -> {"mean", "low", "high"}, at a KL to the sft model in nats.

    `kind` is model, bound (the KL is log n - (n - 1)/n, an upper bound: Stiennon et al. 2020, arXiv 2009.01325, appendix
    G.3) or training (another set of prompts, and the KL of the rollouts of that `step`).
    """

    name: str
    kind: str
    step: int | None
    kl: float
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sign:
    """One sign of reward hacking: what was measured, how far it may go, and the warning if it went further."""

    name: str
    figure: str
    threshold: str
    source: str
    warning: str | None


@dataclass(frozen=True)
class Report:
    """All of it. The fields, in this order, are the keys of report.json."""

    verdict: str = ""
    prompts: int = 0
    samples_per_model: int = 0
    runs_of: str = "tokens"  # or "characters": of what repetition and distinct-2 count runs
    main: str = ""  # the model that the report is about
    optimised: str = ""  # the judge that is the score training maximised
    judges: list[str] = field(default_factory=list)  # all others, the most trusted first
    panel: dict[str, Member] = field(default_factory=dict)
    models: dict[str, Figures] = field(default_factory=dict)
    pairs: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=dict
    )  # "a vs b" -> judge -> outcome, see numbers.py
    passes: dict[str, Any] = field(default_factory=dict)  # judge -> pass@k of models and pairs, see passes.py
    slices: dict[str, Any] = field(
        default_factory=dict
    )  # {"pair", "judges" {judge: {cut: {slice: outcome}}}}, or nothing
    ranking: dict[str, dict[str, Any]] = field(default_factory=dict)  # judge -> `ranking_models.bradley_terry`
    agreement: dict[str, Any] | None = None  # as `agreement.agreement`
    training: dict[str, Any] | None = None  # as `over_training.over_training`
    curves: dict[str, list[float]] = field(
        default_factory=dict
    )  # of ppo's training: figure -> a value a step, as `curves.read`
    frontier: list[Point] = field(default_factory=list)
    identical: dict[str, float] = field(
        default_factory=dict
    )  # other model -> share of samples that are the main model's own
    seeds: dict[str, dict[str, Any]] = field(default_factory=dict)  # as `seed_spread.block`
    signs: list[Sign] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
