"""Which models does a run have to talk to, and where do they lie? By names alone, so that no text from a page becomes a path of ours."""

from pathlib import Path
from typing import Any

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import read_rows
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.other_runs import there
from pipeline.artifacts.ownership import MANIFEST
from pipeline.artifacts.run import Run
from pipeline.graph import STAGES
from pipeline.web.asking import Refused

BASE = "base"


def names(run: Run) -> list[str]:
    """The models of a run, the base first, in the order of the stages; those of further seeds behind the first."""
    policies = [stage.name for stage in STAGES.values() if stage.policy]
    found = [
        path.parent.name
        for stage in policies
        for path in sorted((run.root / run.name).glob(f"{stage}*/{MANIFEST}"))
        if path.parent.name == stage or path.parent.name.startswith(f"{stage}_seed_")
    ]
    return ([BASE] if _made(run) is not None else []) + found


def of_other_runs(run: Run) -> list[str]:
    """Models of the other runs, as RUN/STAGE."""
    return [name for name in there(run) if not name.startswith(f"{run.name}/")]


def source_of(run: Run, name: str) -> str:
    """What `from_pretrained` takes for a model's name: one of `names`, one of another run, a folder or a Hub id. Raises Refused."""
    if name == BASE and (made := _made(run)) is not None:
        return str(made.config["settings"]["model"])
    if name in names(run):
        return str(run.folder(name)) if name in STAGES else str(run.root / run.name / name)
    if name in there(run):
        return str(run.root / name)
    if Path(name).is_dir() and (Path(name) / "config.json").is_file():
        return name
    if name.count("/") == 1 and not name.startswith(("/", ".", "~")):
        return name
    raise Refused(
        400, f"{name}: it is no model of this run, no folder with a config.json and no Hub id such as name/model."
    )


def revision_of(run: Run, name: str) -> str | None:
    made = _made(run) if name == BASE else None
    return None if made is None else made.config["settings"].get("revision")


def in_turns(run: Run) -> bool:
    """Whether the prompts of a run are conversations, rather than texts that are gone on with."""
    path = run.root / run.name / "data" / "prompts.train.jsonl"
    first: Any = next(iter(read_rows(path)), {"prompt": []}) if path.is_file() else {"prompt": []}
    return not isinstance(first["prompt"], str)


def decoded(run: Run) -> dict[str, Any]:
    """With what length and temperature the run's policy samples; another one where the run has none yet."""
    try:
        made = run.manifest("ppo")
    except ArtifactError:
        made = None
    ppo = {} if made is None else made.config["settings"]["ppo"]
    return {"max_new_tokens": ppo.get("response_length", 128), "temperature": ppo.get("temperature", 1.0)}


def _made(run: Run) -> Manifest | None:
    try:
        return run.manifest("sft")
    except ArtifactError:
        return None
