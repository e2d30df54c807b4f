"""How are the models' figures shown? As rows in groups, the main model first; rows that are 0 for every model are only named."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.language import fixed, phrase
from pipeline.report.findings import Figures, Report

Cell = tuple[str, str]  # a figure and, small under it, its 95% interval
LABELS = {
    "verifier": fixed("a check of the answer against the row's own, right or wrong"),
    "optimised": fixed("the reward that was optimised"),
    "independent": fixed("an independent judge"),
    "gold": fixed("a gold reward model that training never saw"),
    "human": fixed("people"),
    "LLM": fixed("a language model"),
}
KNOWN = {
    "vader": fixed("a sentiment lexicon, −1 to 1"),
    "chinese_sentiment": fixed("a classifier of review sentiment, the probability of a positive review"),
}  # judges by name
_SHARES = (
    ("eos_rate", fixed("EOS rate"), fixed("completions the model ended by itself")),
    ("repetition_4", fixed("4-gram repetition"), fixed("runs of four {runs_of} of a completion seen in it before")),
    ("refusals", fixed("refusals"), fixed("completions that open with a phrase of refusal")),
)


@dataclass(frozen=True)
class Row:
    """One figure of every model; `note` says it in plain words."""

    name: str
    note: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    """Rows under one title. `zeros` names those that are 0 for every model, which are no rows."""

    title: str
    rows: list[Row]
    zeros: list[str]


def in_order(report: Report) -> list[str]:
    """The models as columns: the main model first."""
    return [report.main, *(name for name in report.models if name != report.main)]


def said_of(report: Report, judge: str) -> str:
    """What a reader must know of a judge."""
    label = phrase(LABELS[report.panel[judge].label])
    return phrase("{label}: {what}", label=label, what=phrase(KNOWN[judge])) if judge in KNOWN else label


def quality(report: Report) -> Group:
    """What the judges say of each model, the optimised reward last."""
    scoring = [judge for judge in (*report.judges, report.optimised) if report.panel[judge].scores]
    rows = [(judge, said_of(report, judge), _of_interval(judge)) for judge in scoring]
    shares = [judge for judge in scoring if judge in report.models[report.main].positive]
    rows += [
        (f"positive by {judge}", "share of completions that it holds for positive", _positive(judge))
        for judge in shares
    ]
    return _group(report, "", rows)


def price(report: Report) -> Group:
    """What it cost to get there: distance, length, and what was unlearned."""
    return _group(
        report,
        "",
        [
            (phrase("KL to sft"), _kl_note(report), _kl),
            (phrase("length"), phrase("tokens a completion"), _of_interval("length", 1)),
            (phrase("length drift"), phrase("times as much as {other}", other=_reference(report)), _drift),
            (
                phrase("perplexity, plain text"),
                phrase("the alignment tax: what other text has become"),
                _plain("perplexity_plain", 1),
            ),
        ],
    )


def details(report: Report) -> list[Group]:
    """All other figures, to be folded."""
    writing: list[tuple[str, str, Callable[[Figures], Cell | None]]] = [
        (phrase(name), phrase(note, runs_of=phrase(report.runs_of)), _share(key)) for key, name, note in _SHARES
    ]
    undecided = phrase("nats a token: how undecided the model is about what to say next")
    writing.append((phrase("entropy"), undecided, _entropy))
    pairs = phrase("different pairs of neighbouring {runs_of} among all pairs", runs_of=phrase(report.runs_of))
    writing.append((phrase("distinct-2"), pairs, _plain("distinct_2", 2)))
    groups = [
        _group(report, phrase("How it writes"), writing),
        _group(
            report,
            phrase("How near it is to people's texts"),
            [
                (
                    phrase("perplexity"),
                    phrase("surprise at held-out demonstrations; lower is closer"),
                    _plain("perplexity", 1),
                )
            ],
        ),
        _group(
            report,
            phrase("What sampling cost"),
            [
                (
                    phrase("tokens for an answer"),
                    phrase("sampled, those not chosen too"),
                    _plain("tokens_per_answer", 1),
                ),
                (
                    phrase("tokens for training"),
                    phrase("sampled while it was trained"),
                    _plain("training_tokens_sampled", 0),
                ),
            ],
        ),
    ]
    return [group for group in groups if group.rows or group.zeros]


def _group(report: Report, title: str, wanted: list[tuple[str, str, Callable[[Figures], Cell | None]]]) -> Group:
    rows, zeros = [], []
    for name, note, cell in wanted:
        cells = [cell(report.models[model]) for model in in_order(report)]
        if all(own is None for own in cells):
            continue
        if all(own is not None and _is_zero(own) for own in cells):
            zeros.append(name)
        else:
            rows.append(Row(name, note, [own or ("–", "") for own in cells]))
    return Group(title, rows, zeros)


def _is_zero(cell: Cell) -> bool:
    return not any(letter in "123456789" for part in cell for letter in part)


def _kl_note(report: Report) -> str:
    """KL is measured at two places; the other one is named where it is known."""
    note = phrase("nats a completion to these prompts: how far from sft the model is")
    last = report.curves.get("KL to sft")
    if not last:
        return note
    return phrase("{note} (the last batch of training: {kl})", note=note, kl=number(last[-1], 1))


def _reference(report: Report) -> str:
    drifts = [own.length_drift for own in report.models.values() if own.length_drift]
    return str(drifts[0]["reference"]) if drifts else "sft"


def _kl(own: Figures) -> Cell | None:
    if own.kl_bound is not None:
        return f"≤ {number(own.kl_bound, 1)}", phrase("bound")
    return None if own.kl is None else _mean(own.kl, own.intervals.get("kl"), 1)


def _drift(own: Figures) -> Cell | None:
    found = own.length_drift
    return None if not found else (number(found["ratio"]), to(number(found["low"]), number(found["high"])))


def _entropy(own: Figures) -> Cell | None:
    found = own.side_effects.get("entropy")
    return None if found is None else _mean(found["mean"], found, 2)


def _of_interval(key: str, digits: int = 2) -> Callable[[Figures], Cell | None]:
    return lambda own: _mean(own.intervals[key]["mean"], own.intervals[key], digits)


def _plain(key: str, digits: int) -> Callable[[Figures], Cell | None]:
    def cell(own: Figures) -> Cell | None:
        value = getattr(own, key)
        return None if value is None else (number(value, digits), "")

    return cell


def _positive(judge: str) -> Callable[[Figures], Cell | None]:
    return lambda own: _as_share(own.positive[judge])


def _share(key: str) -> Callable[[Figures], Cell | None]:
    return lambda own: _as_share(own.side_effects[key])


def _as_share(found: Mapping[str, float]) -> Cell:
    return f"{found['mean']:.1%}", to(f"{found['low']:.1%}", f"{found['high']:.1%}")


def _mean(value: float, interval: Mapping[str, Any] | None, digits: int) -> Cell:
    ends = "" if interval is None else to(number(interval["low"], digits), number(interval["high"], digits))
    return number(value, digits), ends


def to(low: str, high: str) -> str:
    return phrase("{low} to {high}", low=low, high=high)


def number(value: float, digits: int = 2) -> str:
    """As parts.html.j2 writes it: no −0, a real minus."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
