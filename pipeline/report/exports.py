"""In which files is a comparison handed on? The page, the numbers as JSON and CSV, a summary for a pull request, a model
card, and the main pair for PAIR's LLM Comparator.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from pipeline.comparison.pairing import Opinion, judged, paired, reference_of
from pipeline.language import LANGUAGES, named, spoken
from pipeline.pages.common import require_finite, to_json
from pipeline.redaction import redacted, redacted_in
from pipeline.report import page, passes, seed_spread
from pipeline.report.answer import answer
from pipeline.report.curves import Evaluations
from pipeline.report.findings import Report
from pipeline.report.sentences import counted, ends, reading

FILES = (
    "report.html",
    "report.zh.html",
    "report.json",
    "report.csv",
    "report.md",
    "MODEL_CARD.md",
    "comparator.json",
    "samples.jsonl",
)
COMPARATOR_SCALE = 1.5  # LLM Comparator's scores run from -1.5 (B is much better) to 1.5


def write(
    report: Report,
    samples: Sequence[dict[str, Any]],
    opinions: Sequence[Opinion],
    folder: Path,
    evaluations: Evaluations | None = None,
) -> None:
    """Write `FILES` (UTF-8) into `folder`, or nothing at all, secrets taken out of what is said about the run. comparator.json needs two models to compare. `evaluations` is what ppo
    said before and after, for the page.

    Raises ValueError naming the number when one is not finite: JSON has no NaN and a page should show none.
    """
    require_finite(report.to_json(), "report")
    for index, row in enumerate(samples):
        require_finite(row, f"samples[{index}]")
    pages = {}
    for language in LANGUAGES:
        with spoken(language):
            pages[named("report.html")] = _text(page.html(report, samples, opinions, table(report), evaluations))
    pages |= {
        "report.json": _bytes(to_json(redacted_in(report.to_json()), indent=2) + "\n"),
        "report.csv": _text(table(report)),
        "report.md": _text(markdown(report)),
        "MODEL_CARD.md": _text(card(report)),
        "samples.jsonl": _bytes("".join(to_json(row) + "\n" for row in samples)),
    }
    if (found := comparator(report, samples, opinions)) is not None:
        pages["comparator.json"] = _bytes(to_json(redacted_in(found), indent=1) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages.items():
        (folder / name).write_bytes(content)


def write_samples(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write samples as JSON lines, as samples.jsonl is written."""
    path.write_bytes(_bytes("".join(to_json(row) + "\n" for row in rows)))


def _text(text: str) -> bytes:
    return redacted(text).encode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def table(report: Report) -> str:
    """Every win rate as CSV, one row a pair and judge; a cell that a spreadsheet would take for a formula begins with '."""
    columns = ("pair", "judge", "label", "prompts", "wins", "ties", "losses", "unjudged", "win_rate", "low", "high")
    more = (
        "wilson_low",
        "wilson_high",
        "length_controlled",
        "lc_low",
        "lc_high",
        "mean_difference",
        "reading",
        "pass_1",
        "other_pass_1",
    )
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow([*columns, *more])
    for pair, outcomes in report.pairs.items():
        for judge, own in outcomes.items():
            controlled, difference = own["length_controlled"], own["difference"]
            rows.writerow(
                [
                    _tame(pair),
                    _tame(judge),
                    report.panel[judge].label,
                    *(own[name] for name in columns[3:]),
                    own["wilson"]["low"],
                    own["wilson"]["high"],
                    *("" if controlled is None else controlled[name] for name in ("win_rate", "low", "high")),
                    "" if difference is None else difference["mean"],
                    reading(own),
                    *_solved(report, pair, judge),
                ]
            )
    return out.getvalue()


def _solved(report: Report, pair: str, judge: str) -> list[float | str]:
    """The shares that two models solve at the first try; blank for a judge that does not say right or wrong."""
    if judge not in report.passes:
        return ["", ""]
    models = report.passes[judge]["tasks"][passes.ALL]["models"]
    return [models[name][passes.FIRST]["mean"] for name in pair.split(" vs ")]


def _tame(cell: str) -> str:
    return f"'{cell}" if cell.lstrip()[:1] in tuple("=+-@") or cell[:1] in ("\t", "\r") else cell


def markdown(report: Report) -> str:
    """The comparison in a page of Markdown, for a pull request. Names are escaped; no model text is in it."""
    lines = [
        "## Is the aligned model better?",
        "",
        f"**{_plain(str(answer(report)))}**",
        "",
        _plain(report.verdict),
        "",
    ]
    lines += [f"- **Warning:** {_plain(text)}" for text in report.warnings]
    lines += [*([""] if report.warnings else []), *_models(report), "", *_pairs(report), ""]
    lines += passes.markdown(report, _plain)
    lines += [*_gold(report), *([*told_seeds, ""] if (told_seeds := seed_spread.markdown(report, _plain)) else [])]
    seeds, made = report.provenance.get("seed"), report.provenance.get("made")
    told = [f"{counted(report.prompts, 'held-out prompt')}, {report.samples_per_model} samples a model"]
    told += [] if seeds is None else [f"seed {seeds}"]
    told += (
        [f"decoding: {_plain(report.provenance['decoding']['in words'])}"] if "decoding" in report.provenance else []
    )
    told += [] if made is None else [f"made {made}"]
    note = "Intervals: 95%, percentile bootstrap over prompts; beside them Wilson's, and the win rate at equal length (AlpacaEval 2)."
    return "\n".join([*lines, f"{note} {'; '.join(told)}.", *_commands(report), ""])


def _commands(report: Report) -> list[str]:
    """The commands that make it again, indented, so that whatever is in them stays code."""
    command = str(report.provenance.get("command", ""))
    return ["", "Made by:", "", *(f"    {line}" for line in command.splitlines())] if command else []


def _models(report: Report) -> list[str]:
    scoring = [judge for judge, own in report.panel.items() if own.scores]
    shares = [judge for judge in scoring if judge in report.models[report.main].positive]
    names = ["model", *(_plain(judge) for judge in scoring), *(f"positive by {_plain(judge)}" for judge in shares)]
    names += ["KL to sft", "tokens", "EOS", "distinct-2", "perplexity"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for model, own in report.models.items():
        kl = _number(own.kl, 1) if own.kl_bound is None else f"≤ {_number(own.kl_bound, 1)}"
        cells = [_number(own.intervals[judge]["mean"], 2) for judge in scoring]
        cells += [
            f"{found['mean']:.1%} ({_ends((found['low'], found['high']))})"
            for judge in shares
            if (found := own.positive[judge])
        ]
        cells += [kl, _number(own.length, 1), f"{own.eos_rate:.0%}", _number(own.distinct_2, 2)]
        lines.append(f"| {' | '.join([_plain(model), *cells, _number(own.perplexity, 1)])} |")
    return lines


def _pairs(report: Report) -> list[str]:
    lines = [
        "| pair | judge | win rate | 95% interval | Wilson | at equal length | says |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair, outcomes in report.pairs.items():
        if not pair.startswith(f"{report.main} vs "):
            continue
        for judge, own in outcomes.items():
            label = " (optimised)" if judge == report.optimised else ""
            controlled = own["length_controlled"]
            equal = "–" if controlled is None else f"{controlled['win_rate']:.1%}"
            if controlled is not None and not controlled["overlap"]:
                equal = "length decides"
            cells = [_plain(pair), _plain(judge) + label, f"{own['win_rate']:.1%}", _ends(ends(own))]
            cells += [_ends((own["wilson"]["low"], own["wilson"]["high"])), equal, reading(own)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gold(report: Report) -> list[str]:
    """What judges that are models learned from and how often they are right, where that is known, as lines."""
    lines = []
    for judge, own in report.panel.items():
        told = [f"{name} {_plain(own.summary[name])}" for name in ("trained on", "right on") if own.summary.get(name)]
        lines += [f"{_plain(judge)}: {'; '.join(told)}."] if told else []
    return [*lines, ""] if lines else []


def _ends(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.1f}–{interval[1]:.1%}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # no -0.0


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~" else letter for letter in text)
    return " ".join(escaped.replace("&", "&amp;").split())


def card(report: Report) -> str:
    """A Hugging Face model card of the main model: what it is, the figures, the warnings, how they were made."""
    main = report.main
    data = ModelCardData(library_name="transformers", tags=["rlhf", "ppo"] if main == "ppo" else ["rlhf"])
    about = report.provenance["models"].get(main, {})
    facts = [f"- {name}: {_plain(str(about[name]))}" for name in ("path", "sha256") if about.get(name) is not None]
    limits = [f"- {_plain(text)}" for text in report.warnings] or [
        "- No warning was raised; see the thresholds in report.json."
    ]
    body = [
        f"# {_plain(main)}{'' if main in ('base', 'few_shot', 'sft') else ': aligned with rankings'}",
        "",
        _plain(report.verdict),
        "",
        *facts,
        "",
        "## Figures",
        "",
        *_models(report),
        "",
        *_pairs(report),
        "",
        "## Warnings",
        "",
        *limits,
        "",
        "All numbers, with their intervals and where they come from: report.json.",
        *_commands(report),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(body) + "\n", ignore_metadata_errors=True))


def comparator(report: Report, samples: Sequence[dict[str, Any]], opinions: Sequence[Opinion]) -> dict[str, Any] | None:
    """The main model and its reference in the JSON of PAIR's LLM Comparator (github.com/PAIR-code/llm-comparator).

    Its score runs from -1.5 (B is better) over 0 to 1.5: here the outcome by the first judge, 3·(outcome - ½). Samples
    that this judge did not compare are left out. None where there is no pair.
    """
    rows = paired(list(samples), dict.fromkeys(report.models, {}))
    a, b = report.main, reference_of(rows, report.main)
    first = (report.judges or [report.optimised])[0]
    if b is None:
        return None
    found = judged(next(one for one in opinions if one.name == first), rows, a, b)
    scoring = [judge for judge, own in report.panel.items() if own.scores]
    fields = [
        {"name": "prompt_id", "type": "string"},
        {"name": "source", "type": "category"},
        {"name": "tokens", "type": "per_model_number"},
        {"name": "ended", "type": "per_model_boolean"},
        *({"name": f"score by {judge}", "type": "per_model_number"} for judge in scoring),
    ]
    examples = []
    for key, outcome in found.items():
        x, y = rows[a][key], rows[b][key]
        own: dict[str, Any] = {"prompt_id": key[0], "source": x.get("source") or "no source"}
        own |= {"tokens": [x["length"], y["length"]], "ended": [bool(x["eos"]), bool(y["eos"])]}
        own |= {f"score by {judge}": [float(f"{row['scores'][judge]:.6g}") for row in (x, y)] for judge in scoring}
        examples.append(
            {
                "input_text": x["prompt"],
                "tags": [x["tag"]] if x.get("tag") else [],
                "output_text_a": x["completion"],
                "output_text_b": y["completion"],
                "score": 2 * COMPARATOR_SCALE * (outcome - 0.5),
                "individual_rater_scores": [],
                "custom_fields": own,
            }
        )
    metadata = {"source_path": f"{a} vs {b}, judged by {first}, report.json", "custom_fields_schema": fields}
    return {"metadata": metadata, "models": [{"name": a}, {"name": b}], "examples": examples}
