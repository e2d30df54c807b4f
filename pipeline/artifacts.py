"""What do the stages hand to each other? Folders that are complete or absent, each with a manifest written last.

`runs/<name>/<stage>/` is published by one rename; while a stage works, its resume state lies in `runs/<name>/<stage>.partial/`.
A stage opens its parents with `require()`, which checks every hash, and closes with `publish()`.
"""

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import seeds
from pipeline.config import Config
from pipeline.files import digest as digest
from pipeline.files import read_rows as read_rows
from pipeline.files import sha256 as sha256
from pipeline.files import weights_sha256 as weights_sha256
from pipeline.files import write_json as write_json
from pipeline.files import write_rows as write_rows
from pipeline.ownership import MANIFEST, MARK, check_replaceable, check_run_name, clear, held
from pipeline.ownership import ArtifactError as ArtifactError
from pipeline.stages import PARENTS as PARENTS
from pipeline.stages import READS as READS
from pipeline.stages import command_name, function_files, local_files, parents, section_values

CONTRACT = 1
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Check:
    """One line of a gate: a figure held against a threshold."""

    name: str
    result: str  # pass, warn or fail
    figure: float | None
    threshold: str
    why: str = ""


@dataclass(frozen=True)
class Gate:
    """The checks that close a stage; as good as the worst of them."""

    checks: list[Check]

    @property
    def result(self) -> str:
        results = {check.result for check in self.checks}
        return next((r for r in ("fail", "warn") if r in results), "pass")

    def to_json(self) -> dict[str, Any]:
        return {"result": self.result, "checks": [asdict(check) for check in self.checks]}


def check(
    name: str, figure: float | None, threshold: str, *, fail: bool = False, warn: bool = False, why: str = ""
) -> Check:
    """A gate's line: `fail` and `warn` say whether `figure` is past the threshold that fails or that warns."""
    return Check(name, "fail" if fail else "warn" if warn else "pass", figure, threshold, why)


def check_gain(name: str, gain: float, low: float, high: float) -> Check:
    """A gain with its 95% interval: fails where it is surely below 0, warns where it may be."""
    return check(name, gain, f"interval {low:.3f} to {high:.3f} above 0", fail=high < 0, warn=low <= 0)


@dataclass(frozen=True)
class Manifest:
    """What a published folder says of itself (manifest.json)."""

    contract: int
    stage: str
    run: str
    inputs: str
    parents: list[dict[str, str]]
    files: list[dict[str, Any]]
    config: dict[str, Any]
    tokenizer: str
    model: dict[str, Any]
    seed: int
    dtype: str
    world_size: int
    libraries: dict[str, str]
    machine: str
    git_commit: str | None
    data: dict[str, Any]
    metrics: dict[str, float]
    gate: dict[str, Any]
    started: str
    finished: str
    forced: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    command: dict[str, Any] | None = None  # what the command line was given (reproduce.given); None: not made by one


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


@dataclass(frozen=True)
class Run:
    """One run's folder, and the rules for what may enter it."""

    name: str
    root: Path = Path("runs")
    main_process: bool = True
    world_size: int = 1
    command: dict[str, Any] | None = None  # what the command line was given (reproduce.given), for the manifests
    beside: Mapping[str, str] = field(default_factory=dict)  # stages made in a folder of another name (seeds.settled)

    def __post_init__(self) -> None:
        check_run_name(self.name)

    def folder(self, stage: str) -> Path:
        return self.root / self.name / self.beside.get(stage, stage)

    def partial(self, stage: str) -> Path:
        return self.root / self.name / f"{self.beside.get(stage, stage)}.partial"

    def _old(self, stage: str) -> Path:
        return self.folder(stage).with_name(f"{self.folder(stage).name}.old")

    def _check_room(self, stage: str) -> None:
        for folder in (self.folder(stage), self._old(stage)):
            check_replaceable(folder, MANIFEST)

    def again(self, stage: str) -> str:
        """What makes a stage once more, for messages."""
        seeds_too = " with SEEDS as before" if "_seed_" in self.folder(stage).name else ""
        return f'run "make {command_name(stage)} RUN={self.name}"{seeds_too}'

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a finished stage, or None. Raises ArtifactError when it cannot be read."""
        path = self.folder(stage) / MANIFEST
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["contract"] != CONTRACT:
                raise ArtifactError(
                    f"{path}: contract {raw['contract']}, this version reads {CONTRACT}; "
                    f"remove {self.folder(stage)} and {self.again(stage)}"
                )
            found = Manifest(**raw)
            if not isinstance(found.files, list) or "result" not in found.gate:
                raise ValueError("files or gate are not what publish writes")
            return found
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: not a manifest ({error}); remove {self.folder(stage)} and {self.again(stage)}"
            ) from None

    def require(self, stage: str, tokenizer: str | None = None, force: bool = False) -> Manifest:
        """Open a finished stage: every file is there with its hash, it was made from the parents that are there now, its gate did
        not fail, its tokenizer is the one in use.

        `tokenizer` is the fingerprint of tokenizer, chat template and special tokens that the caller will use. Raises ArtifactError.
        """
        folder, again = self.folder(stage), self.again(stage)
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}: {again}")
        for item in found.files:
            path = folder / item["path"]
            if not path.is_file():
                raise ArtifactError(f"{path}: missing though the manifest lists it; remove {folder} and {again}")
            if sha256(path) != item["sha256"]:
                raise ArtifactError(f"{path}: changed since it was published; remove {folder} and {again}")
        self._check_lineage(stage, found)
        if tokenizer is not None and found.tokenizer != tokenizer:
            raise ArtifactError(
                f"{folder}: made with another tokenizer, chat template or special tokens ({found.tokenizer[:12]}, now {tokenizer[:12]}); "
                f"use the model it was made with, or remove {folder} and {again}"
            )
        if found.gate["result"] == "fail" and not force:
            failed = "; ".join(
                f"{c['name']} {c['figure']} ({c['threshold']})" for c in found.gate["checks"] if c["result"] == "fail"
            )
            raise ArtifactError(f"{folder}: failed its gate: {failed}; mend {stage} first, or go on with force=true")
        return found

    def _check_lineage(self, stage: str, found: Manifest) -> None:
        """The parents that a stage was made from are those that lie in the run now: its weights fit no others."""
        others = []
        for parent in found.parents:
            now_there = self.identity(parent["role"])
            if now_there != parent["sha256"]:
                others.append(f"{parent['role']} {parent['sha256'][:12]}, and {parent['role']} is now {now_there[:12]}")
        if others:
            raise ArtifactError(
                f"{self.folder(stage)} was made from {'; from '.join(others)}: the two do not belong together; {self.again(stage)}"
            )

    def read(self, stage: str, config: Config) -> tuple[str, ...]:
        """All that `stage` reads of this run: its parents, and what compare takes where it is there: the gold reward model
        and the models of further seeds."""
        found = parents(stage, config)
        if stage != "compare":
            return found
        gold = ("gold",) if config.compare.gold is None and self.manifest("gold") is not None else ()
        return (*found, *gold, *(one.folder for one in seeds.further(self, config)))

    def inputs(self, stage: str, config: Config) -> str:
        """Hash of everything that decides what a stage makes: its settings, its parents' contents, its local input files."""
        local = []
        for source in {"data": config.data.sources(), "compare": config.compare.files()}.get(stage, ()):
            local += [sha256(path) for path in local_files(source)]
        local += [sha256(path) for path in function_files(stage, config)]
        made_of = {parent: self.identity(parent) for parent in self.read(stage, config)}
        return digest(
            {
                "contract": CONTRACT,
                "stage": stage,
                "settings": section_values(config, stage),
                "parents": made_of,
                "local": local,
            }
        )

    def identity(self, stage: str) -> str:
        """One hash over the contents of a finished stage."""
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}: {self.again(stage)}")
        return digest([[item["path"], item["sha256"]] for item in found.files])

    def finished(self, stage: str, config: Config) -> Manifest | None:
        """The manifest, if the stage is already made from these very inputs and settings and all its files are there."""
        found = self.manifest(stage)
        if found is None or found.inputs != self.inputs(stage, config):
            return None
        present = all(
            (self.folder(stage) / f["path"]).is_file() and (self.folder(stage) / f["path"]).stat().st_size == f["size"]
            for f in found.files
        )
        return found if present else None

    def held(self, stage: str) -> AbstractContextManager[None]:
        """Within the block this run makes the stage, and no other process may. Raises ArtifactError that names who does."""
        return held(self.partial(stage), f"{self.folder(stage)}") if self.main_process else nullcontext()

    def start(self, stage: str, config: Config) -> Path:
        """The partial folder to work in. State of an interrupted attempt stays if it came from the same inputs, else it goes.

        Raises ArtifactError where a folder that is not ours stands in the place of this one or of what will be published.
        """
        partial, inputs = self.partial(stage), self.inputs(stage, config)
        if self.main_process:
            mark = partial / MARK
            check_replaceable(partial, MARK)
            self._check_room(stage)
            same = mark.is_file() and json.loads(mark.read_text()).get("inputs") == inputs
            partial.mkdir(parents=True, exist_ok=True)
            if not same:
                clear(partial)
            if not same:
                write_json(mark, {"inputs": inputs, "started": now()})
        return partial

    def publish(
        self,
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
        To be called by the main process alone.
        """
        figures = metrics | {c.name: c.figure for c in gate.checks if c.figure is not None}
        bad = sorted(name for name, value in figures.items() if not math.isfinite(value))
        if bad:
            raise ArtifactError(
                f"{stage}: not finite: {', '.join(bad)}; nothing was published, its state stays in {self.partial(stage)}"
            )
        mark = self.partial(stage) / MARK
        started = json.loads(mark.read_text())["started"] if mark.is_file() else now()
        own = (made / MANIFEST, made / f"{MANIFEST}.tmp")  # left by an attempt that was killed while publishing
        files = [
            {"path": path.relative_to(made).as_posix(), "size": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(made.rglob("*"))
            if path.is_file() and path not in own
        ]
        settings = section_values(config, stage)
        manifest = Manifest(
            contract=CONTRACT,
            stage=stage,
            run=self.name,
            inputs=self.inputs(stage, config),
            parents=[
                {"role": p, "path": os.path.relpath(self.folder(p), self.folder(stage)), "sha256": self.identity(p)}
                for p in self.read(stage, config)
            ],
            files=files,
            config={"settings": settings, "sha256": digest(settings)},
            tokenizer=tokenizer,
            model=model,
            seed=config.seed,
            dtype=dtype,
            world_size=self.world_size,
            libraries={name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()},
            machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            git_commit=_git_commit(),
            data=data or {},
            metrics=metrics,
            gate=gate.to_json(),
            started=started,
            finished=now(),
            forced=config.force,
            notes=notes or {},
            command=self.command,
        )
        for path in made.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        write_json(made / MANIFEST, asdict(manifest))
        self._check_room(stage)
        folder, old = self.folder(stage), self._old(stage)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        try:
            made.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        clear(self.partial(stage))
        with suppress(OSError):  # whoever holds it still removes it
            self.partial(stage).rmdir()
        return manifest
