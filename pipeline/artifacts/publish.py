"""How does a result take its place? Made in a partial folder, then renamed whole, the manifest written last."""

import json
import math
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest, sha256, write_json
from pipeline.artifacts.freshness import inputs_of, read_by, section_values
from pipeline.artifacts.gate import Gate
from pipeline.artifacts.manifest import CONTRACT, Manifest, git_commit, libraries, machine, now
from pipeline.artifacts.ownership import MANIFEST, MARK, check_replaceable, clear
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config


def working_folder(run: Run, stage: str, config: Config) -> Path:
    """The partial folder to work in. State of an interrupted attempt stays if it came from the same inputs, else it goes.

    Raises ArtifactError where a folder that is not ours stands in the place of this one or of what will be published.
    """
    partial, inputs = run.partial(stage), inputs_of(run, stage, config)
    if run.main_process:
        mark = partial / MARK
        check_replaceable(partial, MARK)
        _check_room(run, stage)
        same = mark.is_file() and json.loads(mark.read_text()).get("inputs") == inputs
        partial.mkdir(parents=True, exist_ok=True)
        if not same:
            clear(partial)
            write_json(mark, {"inputs": inputs, "started": now()})
    return partial


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

    `metrics` and the gate's figures must be finite. An older result of the stage is replaced only once the new one is complete.
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
        command=run.command,
    )
    _flush(made)
    write_json(made / MANIFEST, asdict(manifest))
    _take_its_place(run, stage, made)
    return manifest


def _files(made: Path) -> list[dict[str, Any]]:
    """Path, size and hash of every file, but for a manifest that an attempt left which was killed while publishing."""
    own = (made / MANIFEST, made / f"{MANIFEST}.tmp")
    return [
        {"path": path.relative_to(made).as_posix(), "size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(made.rglob("*"))
        if path.is_file() and path not in own
    ]


def _flush(made: Path) -> None:
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _take_its_place(run: Run, stage: str, made: Path) -> None:
    """One rename puts `made` in the stage's place; the older result goes only then, and the partial folder with it."""
    _check_room(run, stage)
    folder, old = run.folder(stage), run.old(stage)
    _remove(old)
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _remove(old)
    clear(run.partial(stage))
    with suppress(OSError):  # whoever holds it still removes it
        run.partial(stage).rmdir()


def _remove(old: Path) -> None:
    """Remove an older result, its manifest last, so that what a kill leaves of it is known for ours."""
    clear(old, last=MANIFEST)
    with suppress(OSError):
        old.rmdir()


def _check_room(run: Run, stage: str) -> None:
    for folder in (run.folder(stage), run.old(stage)):
        check_replaceable(folder, MANIFEST)
