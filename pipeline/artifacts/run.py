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
from pipeline.artifacts.files import digest, flaw, strangers
from pipeline.artifacts.hashes import hashed, memory
from pipeline.artifacts.manifest import Manifest, Newer
from pipeline.artifacts.ownership import (
    BESIDE,
    MANIFEST,
    check_folder,
    check_no_link,
    check_root,
    check_run_name,
    held,
    is_plain_name,
)
from pipeline.commands import Call, pruning
from pipeline.graph import STAGES

NAMED = "compare-"  # how the folder of a comparison with a name begins


@dataclass(frozen=True)
class Inputs:
    """What decides what a stage makes, as it was found at one time (freshness.read_now)."""

    sha256: str  # of all of it, the settings too
    parents: Mapping[str, str]  # role -> identity
    outside: Mapping[str, str]  # what it reads outside of the run, as the recipe names it -> sha256


@dataclass(frozen=True)
class Run:
    """One run's folder, and the rules for what may enter it."""

    name: str
    root: Path = Path("runs")
    main_process: bool = True
    world_size: int = 1
    call: Call | None = None  # what the command line was given, for the manifests and for the commands in messages
    beside: Mapping[str, str] = field(default_factory=dict)  # stages made in a folder of another name (seeds.with_seed)
    begun: Inputs | None = None  # what the stage that is being made reads, fixed when it began

    def __post_init__(self) -> None:
        check_run_name(self.name)
        check_root(self.root)
        check_folder(self.root / self.name, "a run's folder")
        for name in BESIDE:
            check_no_link(self.root / self.name / name)

    @property
    def verify(self) -> bool:
        """Whether every file is to be read again, where its hash is remembered too."""
        return self.call is not None and self.call.verify

    def at(self, role: str) -> tuple["Run", str]:
        """The run and the folder behind a parent's role: `ppo` is of this run, `demo/ppo` of another one."""
        other, slash, folder = role.partition("/")
        if not slash:
            return self, role
        there = Run(other, self.root)
        return there if self.call is None else there.as_made(), folder

    def folder(self, stage: str) -> Path:
        """Where a stage is published; `stage` may be a role as `at` has it."""
        run, name = self.at(stage)
        name = run.beside.get(name, name)
        if not is_plain_name(name):
            raise ArtifactError(f"{ascii(name)}: a stage of a run is one folder of it, such as ppo or ppo_seed_1")
        return run.root / run.name / name

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
        """The manifest of a finished stage, or None. Raises ArtifactError when it cannot be read, or is another stage's."""
        folder = self.folder(stage)
        check_folder(folder, "what a stage made")
        path = folder / MANIFEST
        if not path.exists() and not path.is_symlink():
            return None
        try:
            if path.is_symlink() or not path.is_file():
                raise ValueError("no file of its own")
            found = manifests.read(path)
        except Newer as error:
            raise ArtifactError(f"{path}: {error}; update this project, or choose another RUN") from None
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}; {self.remedy(stage, anew=True)}") from None
        if (wrong := _misplaced(folder.name, found)) is not None:
            raise ArtifactError(f"{path}: {wrong}; move it to where it belongs, or {self.remedy(stage, anew=True)}")
        return found

    def flaw(self, stage: str, found: Manifest, anew: bool = True) -> str | None:
        """What is not whole of a finished stage (files.flaw), every file read again, or only those whose hash is not remembered.

        Raises ArtifactError where something lies there that its maker did not put there: that is nothing to make the stage again for.
        """
        folder = self.folder(stage)
        if more := strangers(folder, found.files):
            raise ArtifactError(
                f"{more[0]}: not among the files that {folder / MANIFEST} lists, and it may change what is read here; move it out of "
                f"{folder}, such as into this folder; run: mv -n {shlex.quote(str(more[0]))} ."
            )
        there = [path for item in found.files if (path := folder / item["path"]).is_file()]
        wrong = flaw(folder, found.files, hashed(there, memory(self.root), anew).__getitem__)
        return wrong if wrong is None or anew else self.flaw(stage, found)  # what is remembered may itself be damaged

    def require(self, stage: str, tokenizer: str | None = None, force: bool = False, lineage: bool = True) -> Manifest:
        """Open a finished stage: every file is there with its hash and no other is, it was made from the parents that are there now, as
        they were from theirs (`lineage`), its gate did not fail, its tokenizer is the one in use. Where a stage is being made, it is
        still what that stage found when it began.

        `tokenizer` is the fingerprint of tokenizer, chat template and special tokens that the caller will use. Raises ArtifactError.
        """
        folder = self.folder(stage)
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}; {self.remedy(stage)}")
        if (wrong := self.flaw(stage, found)) is not None:
            raise ArtifactError(f"{wrong}; {self.remedy(stage, anew=True)}")
        if lineage and (chains := list(self.broken(stage, found))):
            stale = [*chains[0].stages[::-1], *(one for chain in chains[1:] for one in chain.stages[::-1])]
            raise ArtifactError(
                f"{'; '.join(chain.words(self.folder(stage)) for chain in chains)}: the two do not belong together; "
                f"{self.remedy(*in_order(stale))}"
            )
        if self.begun is not None and self.begun.parents.get(stage, contents(found)) != contents(found):
            raise ArtifactError(
                f"{folder}: made again while it was being read, so nothing is made of it; run the same command again"
            )
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

    def broken(self, stage: str, found: Manifest) -> Iterator["Chain"]:
        """Where a finished stage's origin ends in a parent that is not the one that lies in the run now. Of parents that are the same,
        theirs are looked at; what a model of another run was made of need not be there any more. Raises ArtifactError."""
        for parent in found.parents:
            role, was = parent["role"], parent["sha256"]
            if (now := self.identity(role)) != was:
                yield Chain((stage,), ((role, was),), now)
            elif "/" not in role and (above := self.manifest(role)) is not None:
                for chain in self.broken(role, above):
                    yield Chain((stage, *chain.stages), ((role, was), *chain.origin), chain.now)

    def identity(self, stage: str) -> str:
        """One hash over the contents of a finished stage."""
        found = self.manifest(stage)
        if found is None:
            raise ArtifactError(f"no finished {stage} in {self.root / self.name}; {self.remedy(stage)}")
        return contents(found)

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


@dataclass(frozen=True)
class Chain:
    """From a stage up to the ancestor that is another one now."""

    stages: tuple[str, ...]  # that were made from the former one, the last of them itself
    origin: tuple[tuple[str, str], ...]  # role and identity of what each of them was made from
    now: str  # the identity of what lies there in place of the last

    def words(self, folder: Path) -> str:
        made = [f"{role} {was[:12]}" for role, was in self.origin]
        return f"{folder} was made from {', which was made from '.join(made)}, and {self.origin[-1][0]} is now {self.now[:12]}"


def contents(found: Manifest) -> str:
    """One hash over the contents of a finished stage. Times, and where it was made, are no part of it."""
    return digest([[item["path"], item.get("identity", item["sha256"])] for item in found.files])


def stage_of(folder: str) -> str:
    """The stage that a folder is of: ppo_seed_1 is of ppo, compare-greedy of compare."""
    own, seeded, _ = folder.partition("_seed_")
    return own if seeded else "compare" if folder.startswith(NAMED) else folder


def in_order(folders: Sequence[str]) -> list[str]:
    """Each folder once, as they are made one after another."""
    place = {stage: number for number, stage in enumerate(STAGES)} | {"compare": len(STAGES)}
    return sorted(dict.fromkeys(folders), key=lambda name: place.get(stage_of(name), len(STAGES)))


def _misplaced(folder: str, found: Manifest) -> str | None:
    """Why a manifest is not of the folder it lies in."""
    stage = stage_of(folder)
    if stage in STAGES and found.stage != stage:
        return f"made by stage {found.stage}, and {stage} belongs there"
    return None


def _and(stages: Sequence[str]) -> str:
    return f"its stage {stages[0]}" if len(stages) == 1 else f"its stages {', '.join(stages)}"
