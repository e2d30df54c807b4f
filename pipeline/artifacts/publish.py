"""How does a result take its place? Made in a partial folder, then renamed whole, the manifest written last."""

import hashlib
import math
import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest, permitted, sha256, write_json
from pipeline.artifacts.freshness import read_now, replaced, section_values
from pipeline.artifacts.gate import Gate
from pipeline.artifacts.kept import MADE, check_room, put_in_place, rescue
from pipeline.artifacts.manifest import CONTRACT, Closed, File, Given, Manifest, git_commit, libraries, machine, now
from pipeline.artifacts.ownership import LOCK, MANIFEST, MARK, attempt, begun_from, check_replaceable, clear
from pipeline.artifacts.run import Inputs, Run
from pipeline.settings.config import Config
from policies.sealed import BROKEN

BELOW_RUNS = re.compile(rb'"/[^"]*/(runs/[^"]*)"')
"""A whole path into runs/, in JSON; what is behind the machine's part of it is the same everywhere."""


def working_folder(run: Run, stage: str, config: Config) -> Path:
    """The partial folder to work in. State of an interrupted attempt stays if it came from the same inputs, else it goes.

    Raises ArtifactError where a folder that is not ours stands in the place of this one or of what will be published.
    """
    partial, begun = run.partial(stage), run.begun or read_now(run, stage, config)
    mark, made = partial / MARK, partial / MADE
    if run.main_process:
        check_replaceable(partial, MARK)
        check_room(run, stage)
        partial.mkdir(parents=True, exist_ok=True)
        torn = mark.exists() and not attempt(partial)
        if not torn and begun_from(partial) != begun.sha256:
            _tell_what_goes(stage, mark)
            rescue(run, stage)
            clear(partial)
        elif made.exists():  # put together in part, or damaged: what is whole of these inputs was taken back before
            if torn:
                rescue(run, stage)
            shutil.rmtree(made, ignore_errors=True)
        if torn:  # what lies here says itself to what it belongs, row by row and state by state
            shutil.copyfile(mark, mark.with_name(f"{MARK}{BROKEN}"))
            print(f"{mark}: cannot be read, so it is made again; it is kept as {MARK}{BROKEN}", file=sys.stderr)
        if begun_from(partial) != begun.sha256:
            write_json(mark, {"inputs": begun.sha256, "started": now(), **_told(begun)})
    return partial


def _tell_what_goes(stage: str, mark: Path) -> None:
    """One line where the state of an attempt is removed that another recipe, setting or parent began."""
    if mark.is_file() and {path.name for path in mark.parent.iterdir()} - {MARK, LOCK}:
        began = attempt(mark.parent)["started"]
        print(
            f"{stage}: an attempt begun {began} from other settings or parents is given up; its state goes", flush=True
        )


def publish(
    run: Run,
    stage: str,
    config: Config,
    made: Path,
    *,
    tokenizer: str,
    model: dict[str, Any],
    dtype: str,
    metrics: dict[str, float],
    gate: Gate,
    data: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
) -> Manifest:
    """Publish the folder `made` (inside the partial folder) as the finished stage, by one rename, manifest written last.

    `metrics` and the gate's figures must be finite. A former result of the stage is kept (kept.py), and only once the new one is complete.
    To be called by the main process alone. Raises ArtifactError where what the stage was begun from has changed meanwhile.
    """
    figures = metrics | {c.name: c.figure for c in gate.checks if c.figure is not None}
    if bad := sorted(name for name, value in figures.items() if not math.isfinite(value)):
        raise ArtifactError(
            f"{stage}: not finite: {', '.join(bad)}; nothing was published, its state stays in {run.partial(stage)}"
        )
    mark = attempt(run.partial(stage))
    begun = _unchanged(run, stage, config, mark)
    settings = section_values(config, stage)
    manifest = Manifest(
        contract=CONTRACT,
        stage=stage,
        run=run.name,
        inputs=begun.sha256,
        parents=[
            {"role": role, "path": os.path.relpath(run.folder(role), run.folder(stage)), "sha256": sha}
            for role, sha in begun.parents.items()
        ],
        files=_files(made),
        config={"settings": settings, "sha256": digest(settings)},
        tokenizer=tokenizer,
        model=model,
        seed=config.seed,
        dtype=dtype,
        world_size=run.world_size,
        libraries=libraries(),
        machine=machine(),
        git_commit=git_commit(),
        data=data or {},
        metrics=metrics,
        gate=cast(Closed, gate.to_json()),
        started=mark["started"],
        finished=now(),
        forced=config.force,
        notes=notes or {},
        command=None if run.call is None else cast(Given, run.call.given()),
        outside=dict(begun.outside),
    )
    permitted(made)
    manifest = manifests.sealed(manifest)
    _flush(made)
    write_json(made / MANIFEST, asdict(manifest))
    put_in_place(run, stage, made)
    clear(run.partial(stage))
    with suppress(OSError):  # whoever holds it still removes it
        run.partial(stage).rmdir()
    return manifest


def _told(begun: Inputs) -> dict[str, Any]:
    """For the mark: what the attempt was begun from, so that what has changed can be named."""
    return {"parents": dict(begun.parents), "outside": dict(begun.outside)}


def _unchanged(run: Run, stage: str, config: Config, mark: dict[str, Any]) -> Inputs:
    """What the stage was begun from, if all of that is still what lies there, every file of its parents too. Raises ArtifactError."""
    found = read_now(run, stage, config)
    begun = run.begun or found
    if not begun.sha256 == mark["inputs"] == found.sha256:
        before = run.begun or Inputs(
            mark["inputs"], mark.get("parents", found.parents), mark.get("outside", found.outside)
        )
        what = ", ".join(replaced(before, found)) or "a setting, a file or a function that it was made from"
        raise ArtifactError(
            f"{stage}: {what} has changed since it began, so nothing was published; {run.remedy(stage)}"
        )
    for role in begun.parents:
        parent = run.manifest(role)
        if parent is not None and (wrong := run.flaw(role, parent, anew=False)) is not None:
            raise ArtifactError(
                f"{stage}: {wrong} while it was made from that, so nothing was published; {run.remedy(role, anew=True)}"
            )
    return begun


def _files(made: Path) -> list[File]:
    """Path, size and hash of every file, but for a manifest that an attempt left which was killed while publishing. An adapter's
    settings name its base by the whole path, so they have a second hash, "identity", that is the same on every machine."""
    own = (made / MANIFEST, made / f"{MANIFEST}.tmp")
    found = []
    for path in sorted(path for path in made.rglob("*") if path.is_file() and path not in own):
        item: File = {"path": path.relative_to(made).as_posix(), "size": path.stat().st_size, "sha256": sha256(path)}
        if path.name == "adapter_config.json":
            here = BELOW_RUNS.sub(rb'"\1"', path.read_bytes())
            item["identity"] = hashlib.sha256(here).hexdigest()
        found.append(item)
    return found


def _flush(made: Path) -> None:
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
