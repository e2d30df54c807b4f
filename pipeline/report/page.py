"""How is a comparison read? One page: verdict, numbers, drawings, warnings, an example browser; no network.

What models wrote reaches the page as JSON and is put there by the script as text, never as markup. The script is the
only one that may run: the page's policy names its hash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pipeline.comparison.pairing import ByKey, Opinion, judged, paired, pairs_of, reference_of
from pipeline.graph import NOTES
from pipeline.language import language_now, phrase, retold
from pipeline.pages.common import inline, own_script, page_template, to_json
from pipeline.report import answer as ten_seconds
from pipeline.report import model_rows, seed_spread
from pipeline.report.curves import Evaluations
from pipeline.report.findings import Report
from pipeline.report.passes import points
from pipeline.report.plots import figures
from pipeline.report.sentences import ends, joined, reading
from pipeline.report.signs import signs
from pipeline.report.slices import by_language, name_of_slice
from pipeline.report.verdict import verdict, warnings

BROWSER_BYTES = 1_200_000  # of the example browser's data: leaves room for all else below 2 MB
CAPS = (4000, 2000, 1000, 500, 300, 200, 140)  # characters of a text, the first that fits
_SHOWN = 1500  # characters of one value of the provenance


def html(
    report: Report,
    samples: Sequence[dict[str, Any]],
    opinions: Sequence[Opinion],
    csv: str,
    evaluations: Evaluations | None = None,
) -> str:
    """The page as text, in the language that is spoken; the same input gives the same page."""
    report = told_again(report)
    rows = paired(list(samples), dict.fromkeys(report.models, {}))
    browser, cut = _browser(report, rows, opinions)
    script, digest = own_script("report.js.j2")
    said = ten_seconds.answer(report)
    about = report.provenance.get("run", {})
    return page_template("report.html.j2").render(
        report=report,
        named=about.get("name"),
        task=[about[key] for key in ("data", "model") if about.get(key)],
        answer=said,
        bars=ten_seconds.bars(report),
        badges=ten_seconds.badges(report),
        example=ten_seconds.example(report, rows, opinions, said.other) if said.other else None,
        names=model_rows.in_order(report),
        quality=model_rows.quality(report),
        price=model_rows.price(report),
        details=model_rows.details(report),
        said_of=partial(model_rows.said_of, report),
        reading=reading,
        ends=ends,
        points=points,
        notes={name: phrase(note) for name, note in NOTES.items()},
        name_of_slice=name_of_slice,
        figures=figures(report),
        script=script,
        digest=digest,
        cut=cut,
        shorten=_shorten,
        evaluations=evaluations,
        browser=inline(browser),
        downloads=inline({"report.json": to_json(report.to_json(), indent=1), "report.csv": csv}),
    )


def told_again(report: Report) -> Report:
    """The report with its sentences in the language that is spoken: all are made anew of its figures, but for what judges said of
    themselves, which comes first among the warnings."""
    if language_now() == "en":
        return report
    own = warnings(report)
    others = report.warnings[: len(report.warnings) - len(own)]
    told = phrase(" ").join([verdict(report), *seed_spread.sentences(report)])
    return replace(report, verdict=told, signs=signs(report), warnings=[*map(retold, others), *own])


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else to_json(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}{phrase(' … (cut here)')}"


def _browser(report: Report, rows: ByKey, opinions: Sequence[Opinion]) -> tuple[dict[str, Any], str]:
    """The example browser's data, and a sentence on what was cut to keep the page small ("" when nothing was)."""
    keys = list(next(iter(rows.values())))

    def at(cap: int) -> tuple[dict[str, Any], int]:
        data = _data(report, rows, opinions, keys, cap)
        return data, len(inline(data).encode("utf-8", "replace"))

    low, high = 0, len(CAPS)
    while low < high:  # the first cap that fits; sizes fall as caps do
        middle = (low + high) // 2
        low, high = (low, middle) if at(CAPS[middle])[1] <= BROWSER_BYTES else (middle + 1, high)
    cap = CAPS[min(low, len(CAPS) - 1)]
    data, size = at(cap)
    # the shortest texts are still too many: every n-th sample, spread evenly over the prompts
    while size > BROWSER_BYTES and len(keys) > 1:
        share = BROWSER_BYTES / size * 0.97
        wanted = max(1, min(len(keys) - 1, int(len(keys) * share)))
        keys = [keys[place * len(keys) // wanted] for place in range(wanted)]
        data, size = at(cap)
    return data, _cut(rows, keys, cap)


def _cut(rows: ByKey, keys: Sequence[tuple[str, int]], cap: int) -> str:
    texts = [own[key]["completion"] for own in rows.values() for key in keys]
    texts += [next(iter(rows.values()))[key]["prompt"] for key in keys]
    long = sum(len(text) > cap for text in texts)
    said = []
    if long:
        said.append(
            phrase("{long} of {texts} texts are cut after {cap} characters", long=long, texts=len(texts), cap=cap)
        )
    total = len(next(iter(rows.values())))
    if len(keys) < total:
        said.append(
            phrase("{here} of {total} samples of each model are here, spread evenly", here=len(keys), total=total)
        )
    if not said:
        return ""
    return phrase("To keep this page small, {what}; samples.jsonl has everything.", what=joined(said))


def _data(
    report: Report, rows: ByKey, opinions: Sequence[Opinion], keys: Sequence[tuple[str, int]], cap: int
) -> dict[str, Any]:
    scoring = [judge for judge, own in report.panel.items() if own.scores]
    first = next(iter(rows.values()))
    place = {prompt_id: i for i, prompt_id in enumerate(dict.fromkeys(key[0] for key in keys))}
    prompts: list[dict[str, Any]] = []
    languages = dict(zip(first, by_language(list(first.values())), strict=True))
    for key in keys:
        if place[key[0]] == len(prompts):
            row = first[key]
            told = {"tag": row.get("tag"), "source": row.get("source"), "language": languages[key]}
            slices = [
                phrase("{name}: {figure}", name=phrase(name), figure=name_of_slice(name, value))
                for name, value in told.items()
                if value
            ]
            prompts.append({"id": key[0], "text": row["prompt"][:cap], "cut": len(row["prompt"]) > cap, "in": slices})
    return {
        "main": report.main,
        "reference": reference_of(rows, report.main),
        "models": list(rows),
        "judges": [
            {"name": judge, "label": own.label, "place": scoring.index(judge) if judge in scoring else None}
            for judge, own in report.panel.items()
        ],
        "prompts": prompts,
        "items": [[place[key[0]], key[1], [_said(own[key], scoring, cap) for own in rows.values()]] for key in keys],
        "outcomes": {
            one.name: [
                [a, b, [found.get(key) for key in keys]]
                for a, b in pairs_of(list(rows))
                if (found := judged(one, rows, a, b))
            ]
            for one in opinions
            if one.outcomes is not None
        },
    }


def _said(row: Mapping[str, Any], scoring: Sequence[str], cap: int) -> list[Any]:
    """Text, whether it is cut, tokens, whether it ended, scores."""
    scores = [float(f"{row['scores'][judge]:.6g}") for judge in scoring]
    text = row["completion"]
    return [text[:cap], int(len(text) > cap), row["length"], int(bool(row["eos"])), scores]
