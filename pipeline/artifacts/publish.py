"""How does a result take its place? Made in a partial folder, then renamed whole, the manifest written last."""

import hashlib
import json
import math
import os
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest, permitted, sha256, write_json
from pipeline.artifacts.freshness import inputs_of, read_by, section_values
from pipeline.artifacts.gate import Gate
from pipeline.artifacts.kept import check_room, put_in_place, rescue
from pipeline.artifacts.manifest import CONTRACT, Manifest, git_commit, libraries, machine, now
from pipeline.artifacts.ownership import LOCK, MANIFEST, MARK, check_replaceable, clear
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config

BELOW_RUNS = re.compile(rb'"/[^"]*/(runs/[^"]*)"')
"""A whole path into runs/, in JSON; what is behind the machine's part of it is the same everywhere."""


def working_folder(run: Run, stage: str, config: Config) -> Path:
    """The partial folder to work in. State of an interrupted attempt stays if it came from the same inputs, else it goes.

    Raises ArtifactError where a folder that is not ours stands in the place of this one or of what will be published.
    """
    partial, inputs = run.partial(stage), inputs_of(run, stage, config)
    if run.main_process:
        mark = partial / MARK
        check_replaceable(partial, MARK)
        check_room(run, stage)
        same = mark.is_file() and json.loads(mark.read_text()).get("inputs") == inputs
        partial.mkdir(parents=True, exist_ok=True)
        if not same:
            _tell_what_goes(stage, mark)
            rescue(run, stage)
            clear(partial)
            write_json(mark, {"inputs": inputs, "started": now()})
    return partial


def _tell_what_goes(stage: str, mark: Path) -> None:
    """One line where the state of an attempt is removed that another recipe, setting or parent began."""
    if mark.is_file() and {path.name for path in mark.parent.iterdir()} - {MARK, LOCK}:
        began = json.loads(mark.read_text(encoding="utf-8")).get("started", "earlier")
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
    begun, inputs = json.loads((run.partial(stage) / MARK).read_text(encoding="utf-8")), inputs_of(run, stage, config)
    if begun["inputs"] != inputs:
        raise ArtifactError(
            f"{stage}: a stage, a file or a function that it was made from has changed since it began, so nothing was published; "
            f"{run.remedy(stage)}"
        )
    settings = section_values(config, stage)
    manifest = Manifest(
        contract=CONTRACT,
        stage=stage,
        run=run.name,
        inputs=inputs,
        parents=[
            {"role": p, "path": os.path.relpath(run.folder(p), run.folder(stage)), "sha256": run.identity(p)}
            for p in read_by(run, stage, config)
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
        gate=gate.to_json(),
        started=begun["started"],
        finished=now(),
        forced=config.force,
        notes=notes or {},
        command=None if run.call is None else run.call.given(),
    )
    permitted(made)
    _flush(made)
    write_json(made / MANIFEST, asdict(manifest))
    put_in_place(run, stage, made)
    clear(run.partial(stage))
    with suppress(OSError):  # whoever holds it still removes it
        run.partial(stage).rmdir()
    return manifest


def _files(made: Path) -> list[dict[str, Any]]:
    """Path, size and hash of every file, but for a manifest that an attempt left which was killed while publishing. An adapter's
    settings name its base by the whole path, so they have a second hash, "identity", that is the same on every machine."""
    own = (made / MANIFEST, made / f"{MANIFEST}.tmp")
    found = []
    for path in sorted(path for path in made.rglob("*") if path.is_file() and path not in own):
        item = {"path": path.relative_to(made).as_posix(), "size": path.stat().st_size, "sha256": sha256(path)}
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
