"""How does a person watch a run without a browser? `make watch`: a table that refreshes; without a terminal, one line a minute.

make watch RUN=demo                     # Ctrl-C ends it
python -m pipeline watch --run demo > watch.log
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from pipeline.artifacts import overview
from pipeline.artifacts.run import Run
from pipeline.web import curves, runs_now
from pipeline.web.curves import FIGURES, Log
from pipeline.web.runs_now import Progress, Stage

LOOK, LINE = 1.0, 60.0  # seconds between two looks at the files, and between two lines
PAUSES = 5  # looks without anybody at work after which lines end: between two stages nobody is
AT_ONCE = 3  # figures beside a stage
SIGNS = {"pass": "✓ pass", "warn": "! warn", "fail": "✕ fail"}


@dataclass
class Watched:
    """A run and its logs as far as they were read."""

    run: Run
    logs: dict[str, Log] = field(default_factory=dict)

    def look(self) -> list[tuple[Stage, Progress, dict[str, float]]]:
        """Every stage, how far it is where an attempt lies there, and its last figures."""
        found = []
        for stage in runs_now.stages(self.run):
            log = self.logs.setdefault(stage.folder, Log(self.run.root / self.run.name, stage.folder))
            log.more()
            far = runs_now.progress(self.run, stage, log) if stage.work else Progress(None, None, None)
            found.append((stage, far, curves.values_of(log.last)))
        return found


def watch(name: str, root: Path = Path("runs")) -> None:
    """Show the run `name` until Ctrl-C, or without a terminal until nobody works on it. Raises ArtifactError where there is no such run."""
    watched = Watched(overview.runs(root, name)[0])
    with suppress(KeyboardInterrupt):  # how it is ended
        if sys.stdout.isatty():
            _table_until_ended(watched)
        else:
            for told in lines(watched):
                print(told, flush=True)


def lines(
    watched: Watched, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """What the stages came to, then a line a minute of each that is at work, and one of each that ends, until nobody is at work."""
    known, at, pauses = dict[str, str](), clock() - LINE, 0
    while True:
        found, due = watched.look(), clock() - at >= LINE
        for stage, far, figures in found:
            if stage.work == "working":
                if due:
                    yield line(stage, far, figures)
            elif (outcome := told(stage)) != known.get(stage.folder, ""):
                known[stage.folder] = outcome
                yield f"{stage.folder}: {outcome}"
        at = clock() if due else at
        pauses = 0 if any(stage.work == "working" for stage, _, _ in found) else pauses + 1
        if pauses >= PAUSES:
            return
        sleep(LOOK)


def line(stage: Stage, far: Progress, figures: dict[str, float]) -> str:
    """Such as "ppo: 12 of 32 steps, 03:20 left; reward 1.43, KL to sft 2.10, entropy 3.2"."""
    if far.step is None:
        return f"{stage.folder}: at work"
    told = f"{stage.folder}: {far.step}{'' if far.steps is None else f' of {far.steps}'} steps"
    told += "" if far.left is None else f", {tqdm.format_interval(far.left)} left"
    few = figures_in_words(figures)
    return f"{told}; {few}" if few else told


def told(stage: Stage) -> str:
    """What a stage came to that nobody works on; nothing of one that is not made."""
    if stage.work == "stopped" and stage.state == "missing":
        return "interrupted; the same command goes on"
    if stage.state == "unreadable":
        return "its manifest cannot be read"
    if stage.state == "missing":
        return ""
    few = ", ".join(f"{name} {value}" for name, value in stage.figures[:AT_ONCE])
    return f"gate {stage.gate}" + (f"; {few}" if few else "") + (f"; {stage.said}" if stage.said else "")


def figures_in_words(figures: dict[str, float]) -> str:
    """The first figures as they stand beside a stage."""
    share = {figure.name for figure in FIGURES if figure.share}
    few = list(figures.items())[:AT_ONCE]
    return ", ".join(f"{name} {f'{value:.1%}' if name in share else f'{value:.3g}'}" for name, value in few)


def _table_until_ended(watched: Watched) -> None:
    with Live(_table(watched), auto_refresh=False) as live:
        while True:
            time.sleep(LOOK)
            live.update(_table(watched), refresh=True)


def _table(watched: Watched) -> RenderableType:
    """A table for rich. All is plain text: what stands in brackets is no markup."""
    table = Table(title=Text(f"{watched.run.root / watched.run.name}"), title_justify="left", expand=True, box=None)
    for name, width in (("stage", None), ("", 14), ("steps", None), ("left", 8), ("figures", None)):
        table.add_column(name, width=width, ratio=None if name != "figures" else 1, header_style="dim")
    answers = []
    for stage, far, figures in watched.look():
        style = {"pass": "green", "warn": "yellow", "fail": "red"}.get(stage.gate, "dim")
        working = stage.work == "working"
        few = figures_in_words(figures) if working else ", ".join(f"{name} {value}" for name, value in stage.figures)
        steps = "" if far.step is None else f"{far.step}" if far.steps is None else f"{far.step} of {far.steps}"
        left = "" if far.left is None or not working else tqdm.format_interval(far.left)
        state: RenderableType = Text(SIGNS.get(stage.gate, _state(stage)), style)
        if working:
            whole = far.step is not None and far.steps
            state = ProgressBar(total=far.steps, completed=far.step or 0) if whole else Text("at work", "cyan")
        table.add_row(
            Text(stage.folder, "bold" if working else ""),
            state,
            Text(steps),
            Text(left),
            Text(few or stage.help, "dim"),
        )
        answers += [Text(stage.said, "bold")] if stage.said else []
    return Group(table, *answers, Text("Ctrl-C ends this; the run goes on.", "dim"))


def _state(stage: Stage) -> str:
    return "interrupted" if stage.work == "stopped" else "not made" if stage.state == "missing" else "cannot be read"
