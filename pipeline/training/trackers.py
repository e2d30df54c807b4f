"""Where do the figures of training go beside metrics.jsonl? To the trackers that report_to names: what they are told is the same for all.

Project is the run, name the stage with its seed; the settings go by their names in a recipe. TensorBoard's files lie under
runs/NAME/logs/STAGE/, each attempt in a folder named by when it began, so that none is lost when a stage is published again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.artifacts.files import digest
from pipeline.artifacts.freshness import section_values
from pipeline.artifacts.ownership import attempt
from pipeline.artifacts.run import Run
from pipeline.redaction import redacted, redacted_in
from pipeline.settings.config import Config, ConfigError


class Tracker(Protocol):
    """One tracker while a stage trains."""

    def begin(self, step: int) -> None:
        """Training goes on after so many steps."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def alert(self, title: str, text: str, step: int) -> None: ...

    def end(self) -> None: ...


class Trackers:
    """All trackers of a stage, told the same; none where report_to is empty, and none on other processes than the first."""

    def __init__(self, name: str, trackers: Sequence[Tracker] = ()):
        self.name, self.open = name, trackers

    def begin(self, step: int) -> None:
        for tracker in self.open:
            tracker.begin(step)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for tracker in self.open:
            tracker.log(figures, step)

    def alert(self, text: str, step: int) -> None:
        """Training was halted, and why."""
        text = redacted(text)
        for tracker in self.open:
            tracker.alert(f"{self.name} halted", text, step)

    def end(self) -> None:
        for tracker in self.open:
            tracker.end()


def open_trackers(stage: str, config: Config, run: Run) -> Trackers:
    """The trackers that report_to names for a stage whose partial folder is there. Raises ConfigError where one does not start."""
    called = f"{stage} seed {config.seed}"
    if not run.main_process:
        return Trackers(called)
    settings, folder = flat(redacted_in(section_values(config, stage))), run.partial(stage)
    began = attempt(folder)["started"]
    identity, resumed = digest([run.name, stage, config.seed, began])[:16], (folder / "metrics.jsonl").is_file()
    logs, found = run.root / run.name / "logs", list[Tracker]()
    for kind in config.report_to_of(stage):
        try:
            if kind == "tensorboard":
                found.append(
                    TensorBoard(logs / run.folder(stage).name / began.partition("+")[0].replace(":", ""), settings)
                )
            elif kind == "wandb":
                found.append(Wandb(run.name, called, settings, logs, identity))
            else:
                found.append(Trackio(run.name, called, settings, resumed))
        except Exception as error:  # a missing key, a server that does not answer: whatever its client raises
            help_ = {
                "wandb": "run wandb login, or set WANDB_MODE=offline",
                "trackio": "look at its settings (TRACKIO_…)",
            }
            why = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"report_to: {kind} did not start: {why}; {help_.get(kind, 'install it again')}, or leave it out"
            ) from error
    return Trackers(called, found)


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, bool | int | float | str]:
    """Settings by their full names, such as ppo.lora.r; lists and nothing as JSON writes them."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            found[f"{before}{name}"] = value if plain else json.dumps(value, ensure_ascii=False)
    return found


class TensorBoard:
    """Event files in `folder`."""

    def __init__(self, folder: Path, settings: dict[str, bool | int | float | str]):
        self.folder, self.settings = folder, settings

    def begin(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        writer: Any = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
        for summary in hparams(self.settings, {}):  # add_hparams would open a folder of its own for them
            writer.file_writer.add_summary(summary)
        self.writer = writer

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def alert(self, title: str, text: str, step: int) -> None:
        self.writer.add_text("alert", f"{title}: {text}", step)

    def end(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases. An interrupted stage goes on in the run of its `identity`."""

    def __init__(self, project: str, name: str, settings: dict[str, Any], logs: Path, identity: str):
        import wandb

        logs.mkdir(parents=True, exist_ok=True)  # else wandb writes into the system's temporary folder
        self.run: Any = wandb.init(
            project=project, name=name, id=identity, resume="allow", config=settings, dir=str(logs)
        )

    def begin(self, step: int) -> None: ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def alert(self, title: str, text: str, step: int) -> None:
        self.run.alert(title=title, text=text, level="ERROR")

    def end(self) -> None:
        self.run.finish()


class Trackio:
    """trackio. An interrupted stage goes on in the run of its name, another attempt is a run of its own."""

    def __init__(self, project: str, name: str, settings: dict[str, Any], resumed: bool):
        import trackio

        self.trackio: Any = trackio
        resume = "allow" if resumed else "never"
        self.run: Any = trackio.init(project=project, name=name, config=settings, resume=resume, embed=False)

    def begin(self, step: int) -> None: ...

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def alert(self, title: str, text: str, step: int) -> None:
        self.trackio.alert(title=title, text=text, level=self.trackio.AlertLevel.ERROR)

    def end(self) -> None:
        self.run.finish()
