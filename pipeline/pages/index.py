"""What is in this run, and where is it read? runs/NAME/index.html: every stage with its gate, its figures and its page.

Written anew whenever a stage or an inspection is; every page of the run links back to it.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import commands
from pipeline.artifacts import manifest
from pipeline.artifacts.files import write_text
from pipeline.artifacts.manifest import Manifest, noted
from pipeline.artifacts.ownership import MANIFEST
from pipeline.artifacts.run import Run
from pipeline.graph import STAGES
from pipeline.language import fixed, named, phrase, recognised
from pipeline.pages.common import page_template
from pipeline.pages.visible import visible

FIGURES: Mapping[str, Mapping[str, str]] = {
    "pretrain": {
        "documents_train": "documents to learn from",
        "hidden_bits_per_byte_before": "held-out bits a hidden byte before",
        "hidden_bits_per_byte_after": "held-out bits a hidden byte after",
        "hidden_bits_per_byte_unigram": "the same by the frequency of tokens alone",
        "bits_per_byte_before": "held-out bits a byte before",
        "bits_per_byte_after": "held-out bits a byte after",
        "bits_per_byte_unigram": "the same by the frequency of tokens alone",
        "eos_rate": "samples that end by themselves",
    },
    "encoder": {
        "documents_train": "documents to learn from",
        "masked_accuracy_after": "hidden words found in held-out documents",
        "masked_accuracy_unigram": "the same by the most frequent token alone",
        "next_sentence_accuracy_after": "next sentences told from others",
    },
    "data": {
        "demonstrations_train": fixed("demonstrations to learn from"),
        "rankings_train": fixed("rankings to learn from"),
        "judgements_train": fixed("judgements to learn from"),
        "prompts_train": fixed("prompts to learn from"),
        "prompts_eval": fixed("prompts held out"),
        "rejected": fixed("rows rejected"),
    },
    "sft": {
        "loss_before": fixed("held-out loss before"),
        "loss_after": fixed("held-out loss after"),
        "eos_rate": fixed("answers that end by themselves"),
    },
    "reward": {
        "pairwise_accuracy": fixed("held-out pairs ordered as people did"),
        "length_accuracy": fixed("the same by length alone"),
    },
    "reward_encoder": {
        "pairwise_accuracy": "held-out pairs ordered as people did",
        "beside_accuracy": "the same by the model of stage reward",
        "beside_agreement": "pairs that both order alike",
    },
    "ppo": {
        "objective/scores": fixed("reward of the last training batch"),
        "objective/kl": fixed("KL to sft of the last training batch, nats"),
        "completions/mean_length": fixed("tokens an answer"),
        "completions/eos_rate": fixed("answers that end by themselves"),
    },
    "compare": {"prompts": fixed("held-out prompts")},
}
"""Of each stage, the figures that are shown, in plain words; a baseline's are those of ppo and sft that it has."""

SHARES = ("eos_rate", "accuracy")
PAGES = ("report.html", "samples.md", "rejects.jsonl", "MODEL_CARD.md", "README.md", "report.md")
"""What a person reads of a stage's folder, as far as it is there."""


@dataclass(frozen=True)
class Entry:
    """One stage as the page shows it: its folder, whether it is there, and what it came to."""

    folder: str
    help: str
    command: str
    gate: str = ""  # "" where it is not made
    said: str = ""
    figures: tuple[tuple[str, str], ...] = ()
    doubts: tuple[str, ...] = ()  # what its gate warns of, or failed
    pages: tuple[str, ...] = ()
    finished: str = ""


def write(run: Run) -> Path:
    """Write the run's index from the manifests that lie in it now; those that cannot be read are left out."""
    folder = run.root / run.name
    given = _given(run)
    found = entries(run)
    inside = sorted((folder / "inspect").glob("*.html"), key=lambda path: path.stat().st_mtime)
    page = page_template("index.html.j2").render(
        run=run.name,
        entries=found,
        answers=[
            (one.folder, _own(folder / one.folder, "report.html") or "report.html", one.said)
            for one in found
            if one.folder.startswith("compare") and one.said
        ],
        inspections=[path.name for path in inside][::-1],
        look=commands.commands(run.name, {"inspect": (given | {"options": [("PROMPT", "A funny")]}, 1)}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f".index-{os.getpid()}.html"  # two processes may work in one run, each on its own stage
    write_text(own, page)
    own.replace(folder / "index.html")
    for path in folder.glob(".index-*.html*"):  # of a process that was killed here
        if not _alive(int("".join(filter(str.isdecimal, path.name)) or 0)):
            path.unlink(missing_ok=True)
    return folder / "index.html"


def entries(run: Run, also: Collection[str] = ()) -> list[Entry]:
    """Every stage of the run in the order of the walk, as its manifest tells it now; those of the walk that are not made, and those of the
    folders `also`, without a gate."""
    given = _given(run)
    return [_entry(run, name, given) for name in _folders(run, also)]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _folders(run: Run, also: Collection[str]) -> list[str]:
    """Folders of stages in the order of the walk: those that are there or `also` count, and those of the walk that are not yet."""
    there = {path.parent.name for path in (run.root / run.name).glob(f"*/{MANIFEST}")}
    there = {name for name in there if not name.startswith(".") and not name.endswith((".partial", ".old"))} | set(also)
    names = []
    for stage in STAGES.values():
        own = sorted(name for name in there if name == stage.name or _stage_of(name) == stage.name)
        names += own or ([stage.name] if stage.walk else [])
    return names


def _stage_of(folder: str) -> str:
    """The stage that a folder is of: ppo_seed_1 is of ppo, compare-greedy of compare."""
    return next((name for name in STAGES if folder == name or folder.startswith((f"{name}_seed_", f"{name}-"))), folder)


def _given(run: Run) -> dict[str, Any]:
    """What the command line of the stage that was made last was given, so that the commands shown are of this run's recipe."""
    paths = sorted((run.root / run.name).glob(f"*/{MANIFEST}"), key=_when)
    for path in reversed(paths):
        try:
            if (given := manifest.read(path).command) is not None:
                return dict(given)
        except (OSError, ValueError):  # moved meanwhile, or not one of ours
            continue
    return {"recipe": "recipes/film_reviews.yaml", "overrides": []}


def _when(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # moved meanwhile
        return 0.0


def _entry(run: Run, folder: str, given: dict[str, Any]) -> Entry:
    stage = _stage_of(folder)
    told = phrase(STAGES[stage].help)
    entry = Entry(folder, told, commands.commands(run.name, {stage: (given, 1)}))
    place = run.root / run.name / folder
    try:
        found = manifest.read(place / MANIFEST)
    except (OSError, ValueError):  # not there, or not one of ours: who opens it as a parent says so
        return entry
    doubts = tuple(
        _doubt(one["name"], _number(one["figure"]), one["threshold"], one.get("why") or "")
        for one in found.gate["checks"]
        if one["result"] != "pass"
    )
    return Entry(
        folder,
        told,
        entry.command,
        gate=found.gate["result"],
        said=visible(noted(found, "answer") or noted(found, "verdict")),
        figures=_figures(found),
        doubts=doubts,
        pages=tuple(own for name in PAGES if (own := _own(place, name)) is not None),
        finished=found.finished[:16].replace("T", " "),
    )


def _doubt(name: str, figure: str, threshold: str, why: str) -> str:
    """A check of a gate in words; they lie in the manifest in English."""
    told = {"name": recognised(name), "figure": figure, "threshold": recognised(threshold)}
    if not why:
        return phrase("{name} {figure} ({threshold})", **told)
    return phrase("{name} {figure} ({threshold}): {why}", **told, why=recognised(why))


def _own(place: Path, name: str) -> str | None:
    """The page of that name in the language that is spoken; in English where there is no other, None where there is none."""
    return next((one for one in (named(name), name) if (place / one).is_file()), None)


def _figures(found: Manifest) -> tuple[tuple[str, str], ...]:
    wanted = FIGURES.get(found.stage) or {**FIGURES["sft"], **FIGURES["reward"], **FIGURES["ppo"]}
    return tuple(
        (phrase(words), f"{found.metrics[name]:.1%}" if name.endswith(SHARES) else _number(found.metrics[name]))
        for name, words in wanted.items()
        if name in found.metrics
    )


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}".replace("-", "−")
