"""What lies in a run, and may it be used? Its folders, their manifests, and what is checked before a stage opens a parent.

`runs/<name>/<stage>/` is published by one rename (publish.py); while a stage works, its resume state lies in
`runs/<name>/<stage>.partial/`. A stage opens its parents with `require()`, which checks every hash.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts import refusals
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest, flaw
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import MANIFEST, check_run_name, held
from pipeline.commands import Call, pruning

NAMED = "compare-"  # how the folder of a comparison with a name begins


@dataclass(frozen=True)
class Run:
    """One run's folder, and the rules for what may enter it."""

    name: str
    root: Path = Path("runs")
    main_process: bool = True
    world_size: int = 1
    call: Call | None = None  # what the command line was given, for the manifests and for the commands in messages
    beside: Mapping[str, str] = field(default_factory=dict)  # stages made in a folder of another name (seeds.with_seed)

    def __post_init__(self) -> None:
        check_run_name(self.name)

    def at(self, role: str) -> tuple["Run", str]:
        """The run and the folder behind a parent's role: `ppo` is of this run, `demo/ppo` of another one."""
        other, slash, folder = role.partition("/")
        if not slash:
            return self, role
        there = Run(other, self.root)
        return there if self.call is None else there.as_made(), folder

    def folder(self, stage: str) -> Path:
        """Where a stage is published; `stage` may be a role as `at` has it."""
        return self.root / stage if "/" in stage else self.root / self.name / self.beside.get(stage, stage)

    def partial(self, stage: str) -> Path:
        return self.root / self.name / f"{self.beside.get(stage, stage)}.partial"

    @property
    def kept(self) -> Path:
        """Where former results lie (kept.py)."""
        return self.root / self.name / ".kept"

    def remedy(self, *stages: str, anew: bool = False, adding: Sequence[str] = ()) -> str:
        """The end of a message: what makes `stages` (or roles, of one run) once more, `anew` where what lies there has to go first,
        `adding` settings.

        Without a command line, as in a notebook, there is no command that could be pasted, and the stages are named.
        """
        run, names = self.at(stages[0])[0], [self.folder(stage).name for stage in stages]
        folders = [str(self.folder(stage)) for stage in stages] if anew else []
        named = [f'compare.name="{name.removeprefix(NAMED)}"' for name in names if name.startswith(NAMED)]
        adding, names = [*adding, *named], ["compare" if name.startswith(NAMED) else name for name in names]
        if run.call is None:
            changed = f" with {', '.join(adding)}" if adding else ""
            removed = f"remove {shlex.join(folders)} and " if folders else ""
            return f"{removed}make {_and(names)}{'' if run is self else f' in run {run.name}'}{changed}"
        line = run.call.line(*names, adding=adding, seeds=max(map(run._seeds, names)))
        return f"run: {f'rm -r {shlex.join(folders)} && ' if folders else ''}{line}"

    def following(self, *stages: str, models: Sequence[str] = ()) -> str:
        """The command that comes next, for the line that closes a stage; named only, where there is no command line."""
        return f"make {_and(stages)}" if self.call is None else self.call.line(*stages, models=models)

    def as_made(self) -> "Run":
        """This run with the command line that one of its stages was given, where one was: for messages where none is at hand."""
        for path in sorted((self.root / self.name).glob(f"*/{MANIFEST}")):
            with suppress(ValueError):
                if (given := manifests.read(path).command) is not None:
                    return replace(self, call=Call.of(given["recipe"], self.name, given["overrides"]))
        return self

    def _seeds(self, stage: str) -> int:
        """With how many seeds a stage has to be made to be made with that of its folder, such as ppo_seed_2."""
        own, _, seed = self.folder(stage).name.partition("_seed_")
        first = replace(self, beside={}).manifest(own) if seed else None
        return int(seed) - first.seed + 1 if first is not None else 1

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a finished stage, or None. Raises ArtifactError when it cannot be read."""
        path = self.folder(stage) / MANIFEST
        if not path.is_file():
            return None
        try:
            return manifests.read(path)
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}; {self.remedy(stage, anew=True)}") from None

    def require(self, stage: str, tokenizer: str | None = None, force: bool = False, lineage: bool = True) -> Manifest:
        """Open a finished stage: every file is there with its hash, it was made from the parents that are there now (`lineage`), its
        gate did not fail, its tokenizer is the one in use.

        `tokenizer` is the fingerprint of tokenizer, chat template and special tokens that the caller will use. Raises ArtifactError.
        """
        folder = self.folder(stage)
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}; {self.remedy(stage)}")
        if (wrong := flaw(folder, found.files)) is not None:
            raise ArtifactError(f"{wrong}; {self.remedy(stage, anew=True)}")
        if lineage:
            self._check_lineage(stage, found)
        if tokenizer is not None and found.tokenizer != tokenizer:
            raise ArtifactError(
                f"{folder}: made with another tokenizer, chat template or special tokens ({found.tokenizer[:12]}, now {tokenizer[:12]}); "
                f"use the model it was made with, or make it with this one; {self.remedy(stage, anew=True)}"
            )
        if found.gate["result"] == "fail" and not force:
            failed = "; ".join(
                f"{c['name']} {c['figure']} ({c['threshold']})" for c in found.gate["checks"] if c["result"] == "fail"
            )
            how = "with force=true" if self.call is None else f"all the same; run: {self.call.again('force=true')}"
            raise ArtifactError(f"{folder}: failed its gate: {failed}; mend {stage} first, or go on {how}")
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
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}; {self.remedy(stage)}")
        return digest([[item["path"], item.get("identity", item["sha256"])] for item in found.files])

    @contextmanager
    def held(self, stage: str) -> Iterator[None]:
        """Within the block this run makes the stage, and no other process may. Raises ArtifactError that names who does, and Refused
        for what the machine refuses within the block."""
        partial, former = self.partial(stage), ""
        with suppress(OSError):
            former = (
                f"; what is kept of former results goes too; {pruning(self.name)}" if any(self.kept.iterdir()) else ""
            )
        with (
            refusals.told(stage, partial, former),
            held(partial, f"{self.folder(stage)}") if self.main_process else nullcontext(),
        ):
            yield


def _and(stages: Sequence[str]) -> str:
    return f"its stage {stages[0]}" if len(stages) == 1 else f"its stages {', '.join(stages)}"
