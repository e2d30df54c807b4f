"""What lies in each run, what is being made now, how far is it, and did it work?

What is said here is what the manifests, the partial folders and the reports say; nothing that cannot be read stops it.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts import overview
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.ownership import LOCK, MANIFEST, at_work, attempt
from pipeline.artifacts.run import Run, stage_of
from pipeline.graph import STAGES
from pipeline.language import language_now
from pipeline.pages import index
from pipeline.web.begun import config_of
from pipeline.web.curves import Log, limits

_PARTIAL = ".partial"
EXAMPLE = 320  # characters of a text of the example
TEXTS = 8 * 2**20  # bytes of a report's samples that an example is looked for in


@dataclass(frozen=True)
class Stage:
    """One stage as it is shown. `state` is made, missing or unreadable; `work` is working where somebody makes it now, stopped where an
    attempt lies there that nobody goes on with, else empty."""

    folder: str
    stage: str
    help: str
    command: str
    state: str
    gate: str
    said: str
    figures: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    pages: tuple[str, ...]
    finished: str
    work: str
    since: float | None  # when who makes it began, seconds of the epoch
    anew: bool  # whether `since` is when its attempt began, too: no state of an earlier process was gone on from


@dataclass(frozen=True)
class Progress:
    """How far a stage is that is being made: `left` in seconds; None for what is not known yet."""

    step: int | None
    steps: int | None
    left: float | None


def runs(root: Path = Path("runs")) -> list[Run]:
    """The runs below `root`, that which changed last first."""
    return sorted(overview.runs(root), key=_touched, reverse=True)


def run_named(name: str, root: Path = Path("runs")) -> Run | None:
    """The run of that name, if there is one; whatever the name is, no path is made of it."""
    return next((run for run in overview.runs(root) if run.name == name), None)


def stages(run: Run) -> list[Stage]:
    """The stages of a run in the order of the walk, those that are not made too."""
    folder = run.root / run.name
    partial = {path.name.removesuffix(_PARTIAL): path for path in folder.glob(f"*{_PARTIAL}") if path.is_dir()}
    partial = {name: path for name, path in partial.items() if stage_of(name) in STAGES}
    states = tuple((path.parent.name, _changed(path)) for path in sorted(folder.glob(f"*/{MANIFEST}")))
    found = []
    for entry in _entries(run.root, run.name, tuple(sorted(partial)), states, language_now()):
        there = (folder / entry.folder / MANIFEST).is_file()
        work, since, anew = _work(partial[entry.folder]) if entry.folder in partial else ("", None, False)
        found.append(
            Stage(
                entry.folder,
                stage_of(entry.folder),
                entry.help,
                entry.command,
                "made" if entry.gate else "unreadable" if there else "missing",
                *(entry.gate, entry.said, entry.figures, entry.doubts, entry.pages, entry.finished),
                *(work, since, anew),
            )
        )
    return found


@lru_cache(maxsize=256)  # by the times of the manifests, so that a look at what did not change reads nothing
def _entries(
    root: Path, name: str, also: tuple[str, ...], states: tuple[tuple[str, int], ...], language: str
) -> list[index.Entry]:
    return index.entries(Run(name, root), also)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # moved meanwhile
        return 0


def _touched(run: Run) -> int:
    """When something in a run changed last: a stage was published, or wrote a row."""
    folder = run.root / run.name
    paths = [*folder.glob(f"*/{MANIFEST}"), *folder.glob(f"*{_PARTIAL}/metrics.jsonl"), *folder.glob(f"*{_PARTIAL}")]
    return max(map(_changed, paths), default=0)


def _work(partial: Path) -> tuple[str, float | None, bool]:
    """Whether somebody works in a partial folder, since when, and whether the attempt began then."""
    holder, began = _holder(partial), _time(attempt(partial).get("started"))
    if holder is None:
        return ("stopped" if began is not None else ""), None, False
    since = _time(holder.get("since"))
    return "working", since, since is not None and (began is None or began >= since)


def _holder(partial: Path) -> dict[str, Any] | None:
    """Who works there. The lock is tried only where the process that its file names may be alive, so that a look is never in the way of
    one that is just taking it."""
    try:
        text = (partial / LOCK).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    holder: dict[str, Any] = {}
    with suppress(ValueError, TypeError):
        holder = dict(json.loads(text))
    if holder.get("host") == socket.gethostname() and not _alive(holder.get("pid")):
        return None
    return holder if at_work(partial) is not None else None


def _alive(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return True


def _time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def progress(run: Run, stage: Stage, log: Log) -> Progress:
    """How far a stage is that somebody makes; `log` as far as it was read."""
    step, steps = log.step(), log.steps()
    if stage.stage == "ppo":
        config = config_of(run, stage.folder)
        steps = config.ppo.iterations() if config is not None else None
    pace = log.pace(stage.since if stage.anew else None)
    if step is None or steps is None or pace is None:
        return Progress(step, steps, None)
    waited = max(0.0, time.time() - log.seen[-1][0]) if log.seen else 0.0
    return Progress(step, steps, max(0.0, (steps - step) * pace - min(waited, pace)))


def limits_of(run: Run, folder: str, working: bool) -> dict[str, dict[str, Any]]:
    """The limits that would halt the stage in `folder`, by figure, while it works, or that held when it was made; none where its
    settings are not known, or it is no ppo."""
    if stage_of(folder) != "ppo":
        return {}
    if working:
        config = config_of(run, folder)
        return {} if config is None else limits(config.ppo.model_dump(mode="json"))
    with suppress(OSError, ValueError, ArtifactError, KeyError, AttributeError):
        return limits(manifests.read(run.root / run.name / folder / MANIFEST).config["settings"]["ppo"])
    return {}


def shown(run: Run, found: Sequence[Stage]) -> dict[str, Any]:
    """A run as JSON: what it is about, what its comparisons say, and its stages, as they were `found`."""
    compared = [one for one in found if one.stage == "compare" and one.said]
    folder = run.root / run.name
    reports = [(one.folder, _changed(folder / one.folder / MANIFEST)) for one in compared]
    return {
        "name": run.name,
        "about": _about(folder, tuple(_changed(folder / one.folder / MANIFEST) for one in found)),
        "working": [one.folder for one in found if one.work == "working"],
        "answers": [_answer(folder, name, when, language_now()) for name, when in reports],
        "stages": [asdict(one) for one in found],
    }


@lru_cache(maxsize=256)
def _about(folder: Path, states: tuple[int, ...]) -> dict[str, Any]:
    """Model, recipe and rows of a run, as far as its manifests say them."""
    for name in ("data", "sft", "reward", "ppo", "compare"):
        with suppress(OSError, ValueError):
            found = manifests.read(folder / name / MANIFEST)
            count = {key: found.metrics.get(key) for key in ("demonstrations_train", "rankings_train", "prompts_eval")}
            return {
                "model": Path(str(found.model.get("base", ""))).name,
                "recipe": Path(found.command["recipe"]).stem if found.command else "",
                "settings": found.command["overrides"] if found.command else [],
                **{key: value for key, value in count.items() if value is not None},
            }
    return {}


@lru_cache(maxsize=64)
def _answer(folder: Path, name: str, when: int, language: str) -> dict[str, Any]:
    """What one comparison says: yes, no or cannot tell, why, its verdict, and an example."""
    answer = verdict = english = ""
    with suppress(OSError, ValueError):
        found_now = manifests.read(folder / name / MANIFEST)
        answer, verdict = manifests.noted(found_now, "answer"), manifests.noted(found_now, "verdict")
        english = str(found_now.notes.get("answer") or "")
    word, _, why = answer.partition("。" if "。" in answer else ". ")
    kind = {"Yes": "yes", "No": "no"}.get(english.partition(". ")[0], "")
    found = None
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        found = _example(folder / name)
    return {"folder": name, "kind": kind, "word": word, "why": why, "verdict": verdict, "example": found}


def _example(folder: Path) -> dict[str, Any] | None:
    """One held-out prompt with what the original, the fine-tuned and the aligned model said: that whose gain by the most trusted judge is
    the median, so neither the best nor the worst that there is."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    judge = next((one for one in report["judges"] if report["panel"][one]["scores"]), report["optimised"])
    main, said = report["main"], dict[str, dict[str, Any]]()
    for row in _rows(folder / "samples.jsonl"):
        said.setdefault(row["prompt_id"], {}).setdefault(row["model"], row)  # of several samples the first
    before = next(one for one in ("base", "sft", *report["models"]) if one in report["models"] and one != main)
    both = {name: own for name, own in said.items() if main in own and before in own}
    if not both:
        return None

    def gain(name: str) -> tuple[float, str]:
        return both[name][main]["scores"][judge] - both[name][before]["scores"][judge], name

    chosen = both[sorted(both, key=gain)[len(both) // 2]]
    models = [one for one in dict.fromkeys(("base", "sft", main)) if one in chosen]
    return {
        "prompt": _cut(chosen[main]["prompt"]),
        "answers": [{"model": one, "text": _cut(chosen[one]["completion"])} for one in models],
    }


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as stream:
        for line in stream.read(TEXTS).split(b"\n")[:-1]:
            yield json.loads(line)


def _cut(text: str) -> str:
    return text if len(text) <= EXAMPLE else f"{text[:EXAMPLE]} …"
