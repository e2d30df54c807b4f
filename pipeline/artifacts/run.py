"""What lies in a run, and may it be used? Its folders, their manifests, and what is checked before a stage opens a parent.

`runs/<name>/<stage>/` is published by one rename (publish.py); while a stage works, its resume state lies in
`runs/<name>/<stage>.partial/`. A stage opens its parents with `require()`, which checks every hash.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest, flaw
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import MANIFEST, check_run_name, held
from pipeline.graph import command_name


@dataclass(frozen=True)
class Run:
    """One run's folder, and the rules for what may enter it."""

    name: str
    root: Path = Path("runs")
    main_process: bool = True
    world_size: int = 1
    command: dict[str, Any] | None = None  # what the command line was given (reproduce.given), for the manifests
    beside: Mapping[str, str] = field(default_factory=dict)  # stages made in a folder of another name (seeds.with_seed)

    def __post_init__(self) -> None:
        check_run_name(self.name)

    def at(self, role: str) -> tuple["Run", str]:
        """The run and the folder behind a parent's role: `ppo` is of this run, `demo/ppo` of another one."""
        other, slash, folder = role.partition("/")
        return (Run(other, self.root), folder) if slash else (self, role)

    def folder(self, stage: str) -> Path:
        """Where a stage is published; `stage` may be a role as `at` has it."""
        return self.root / stage if "/" in stage else self.root / self.name / self.beside.get(stage, stage)

    def partial(self, stage: str) -> Path:
        return self.root / self.name / f"{self.beside.get(stage, stage)}.partial"

    @property
    def kept(self) -> Path:
        """Where former results lie (kept.py)."""
        return self.root / self.name / ".kept"

    def remedy(self, stage: str) -> str:
        """What makes a stage once more, for messages."""
        run, stage = self.at(stage)
        folder = run.folder(stage).name
        seeds_too = " with SEEDS as before" if "_seed_" in folder else ""
        named = f" NAME={folder.removeprefix('compare-')}" if folder.startswith("compare-") else ""
        return f'run "make {command_name(stage)} RUN={run.name}{named}"{seeds_too}'

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a finished stage, or None. Raises ArtifactError when it cannot be read."""
        path = self.folder(stage) / MANIFEST
        if not path.is_file():
            return None
        try:
            return manifests.read(path)
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}; remove {self.folder(stage)} and {self.remedy(stage)}") from None

    def require(self, stage: str, tokenizer: str | None = None, force: bool = False, lineage: bool = True) -> Manifest:
        """Open a finished stage: every file is there with its hash, it was made from the parents that are there now (`lineage`), its
        gate did not fail, its tokenizer is the one in use.

        `tokenizer` is the fingerprint of tokenizer, chat template and special tokens that the caller will use. Raises ArtifactError.
        """
        folder, remedy = self.folder(stage), self.remedy(stage)
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}: {remedy}")
        if (wrong := flaw(folder, found.files)) is not None:
            raise ArtifactError(f"{wrong}; remove {folder} and {remedy}")
        if lineage:
            self._check_lineage(stage, found)
        if tokenizer is not None and found.tokenizer != tokenizer:
            raise ArtifactError(
                f"{folder}: made with another tokenizer, chat template or special tokens ({found.tokenizer[:12]}, now {tokenizer[:12]}); "
                f"use the model it was made with, or remove {folder} and {remedy}"
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
                f"{self.folder(stage)} was made from {'; from '.join(others)}: the two do not belong together; {self.remedy(stage)}"
            )

    def identity(self, stage: str) -> str:
        """One hash over the contents of a finished stage."""
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}: {self.remedy(stage)}")
        return digest([[item["path"], item.get("identity", item["sha256"])] for item in found.files])

    def held(self, stage: str) -> AbstractContextManager[None]:
        """Within the block this run makes the stage, and no other process may. Raises ArtifactError that names who does."""
        return held(self.partial(stage), f"{self.folder(stage)}") if self.main_process else nullcontext()
