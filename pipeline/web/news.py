"""What is new for somebody who watches? The runs, how far each stage is, the points of the curves that are open, the samples: told once,
then only what changed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.run import Run
from pipeline.language import phrase
from pipeline.web import curves, runs_now
from pipeline.web.curves import FIGURES, Log
from pipeline.web.runs_now import Stage

Event = tuple[str, Any]
"""The name of an event and what it says, as JSON."""

MOST = 12  # curves that one page may have open
AT_ONCE = 3  # figures that stand beside a stage that is being made


@dataclass
class News:
    """What one page was told. `open` are its curves, as (run, folder); what is none of this machine is passed over."""

    root: Path
    open: Sequence[tuple[str, str]] = ()
    logs: dict[tuple[str, str], Log] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)  # the last of each kind of event, as it was sent

    def look(self) -> list[Event]:
        """The events since the last look, in the order in which they are to be sent."""
        found = [(run, runs_now.stages(run)) for run in runs_now.runs(self.root)]
        events = self._if_new("runs", [runs_now.shown(run, stages) for run, stages in found])
        for run, stages in found:
            for stage in stages:
                if (run.name, stage.folder) in self.open[:MOST]:
                    events += self._curve(run, stage)
        far = {f"{run.name}/{one.folder}": self._far(run, one) for run, all in found for one in all if one.work}
        return events + self._if_new("progress", far)

    def _log(self, run: Run, stage: Stage) -> Log:
        return self.logs.setdefault((run.name, stage.folder), Log(run.root / run.name, stage.folder))

    def _curve(self, run: Run, stage: Stage) -> list[Event]:
        of, folder = f"{run.name}/{stage.folder}", run.root / run.name
        anew, points = self._log(run, stage).more()
        events: list[Event] = []
        if points or anew or of not in self.told:
            events.append(("points", {"of": of, "anew": anew or of not in self.told, "points": curves.told(points)}))
            self.told[of] = ""
        bounds = runs_now.limits_of(run, stage.folder, bool(stage.work))
        events += self._if_new(f"limits {of}", {"of": of, "limits": bounds})
        return events + self._if_new(f"samples {of}", {"of": of, "samples": curves.samples(folder, stage.folder)})

    def _far(self, run: Run, stage: Stage) -> dict[str, Any]:
        log = self._log(run, stage)
        if (run.name, stage.folder) not in self.open[:MOST]:
            log.more()
        figures = list(curves.values_of(log.last).items())[:AT_ONCE]
        return asdict(runs_now.progress(run, stage, log)) | {"figures": dict(figures)}

    def _if_new(self, kind: str, value: Any) -> list[Event]:
        text = json.dumps(value, sort_keys=True)
        if self.told.get(kind) == text:
            return []
        self.told[kind] = text
        return [(kind.partition(" ")[0], value)]


def figures() -> list[dict[str, Any]]:
    """What each curve is, for who draws it."""
    return [
        {"name": one.name, "label": phrase(one.name), "words": phrase(one.words), "share": one.share} for one in FIGURES
    ]


def sent(event: str, value: Any) -> str:
    """An event as it goes over the line."""
    return f"event: {event}\ndata: {json.dumps(value, allow_nan=False)}\n\n"
