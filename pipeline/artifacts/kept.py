"""Where does a finished result go that another replaces, and when does it come back? `runs/NAME/.kept/STAGE-HASH`.

Nothing that is finished is thrown away when a stage is made again: the former folder moves into the run's `.kept/`, under the name
of its folder and the first digits of its manifest's sha256. The last three of a folder stay there. As soon as the settings,
parents and files that one was made from are the stage's again, it is moved back instead of being made again.

Where the system lets two folders change places in one step, there is no moment without a finished result in the stage's place.
Elsewhere a kill between two renames leaves both results whole: the former one among the kept, the new one there too, or in the partial
folder it was made in. What a kill leaves anywhere is put where it belongs by the next command that makes the stage (`settled`).
"""

import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import flaw, sha256
from pipeline.artifacts.freshness import finished, inputs_of
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.moving import exchange
from pipeline.artifacts.ownership import LOCK, MANIFEST, MARK, begun_from, check_replaceable, clear, is_ours
from pipeline.artifacts.run import Run
from pipeline.settings.config import Config

AT_MOST = 3  # of a folder; `make prune` removes these too
_DIGITS = 12
_GOING = ".gone"  # what is being removed is called so, so that a kill leaves nothing that counts as kept
MADE = "made"  # where in its partial folder a stage puts together what it publishes


def former_place(run: Run, stage: str) -> Path | None:
    """Where the stage's finished folder goes when another takes its place; None where there is none."""
    folder = run.folder(stage)
    if not (folder / MANIFEST).is_file():
        return None
    return _free(run.kept / f"{folder.name}-{sha256(folder / MANIFEST)[:_DIGITS]}")


def _free(place: Path) -> Path:
    """`place`, or with a number behind it where something stands there."""
    places = [place, *(place.with_name(f"{place.name}-{number}") for number in range(2, 100))]
    return next(path for path in places if not os.path.lexists(path))


@dataclass(frozen=True)
class Contents:
    """What lies in a run's `.kept/`."""

    kept: dict[str, list[Path]]  # folder's name -> former results of it, the last kept first
    unreadable: list[Path]  # named as those are, and without a manifest that says so
    going: list[Path]  # what a kill left of some that were being removed
    strangers: list[Path]  # all else


def contents(run: Run) -> Contents:
    """What lies in the run's `.kept/`, each entry in one of the lists."""
    found = Contents({}, [], [], [])
    for path in sorted(run.kept.iterdir()) if run.kept.is_dir() and not run.kept.is_symlink() else ():
        name, folder = _folder_name(path.name.removesuffix(_GOING)), path.is_dir() and not path.is_symlink()
        if name is None or not folder:
            found.strangers.append(path)
        elif path.name.endswith(_GOING):
            found.going.append(path)
        elif is_ours(path, MANIFEST):
            found.kept.setdefault(name, []).append(path)
        else:
            found.unreadable.append(path)
    for paths in found.kept.values():
        paths.sort(key=_when, reverse=True)
    return found


def former_results(run: Run, folder: str) -> dict[Path, Manifest]:
    """What is kept of a folder, with manifests that can be read, the last kept first; no file of it has been looked at."""
    found = {}
    for path in contents(run).kept.get(folder, ()):
        with suppress(OSError, ValueError):
            found[path] = manifests.read(path / MANIFEST)
    return found


def check_room(run: Run, stage: str) -> None:
    """Raise ArtifactError where something that is not ours stands where the stage will, or where its former result will go."""
    check_replaceable(run.folder(stage), MANIFEST)
    if run.kept.is_symlink() or (run.kept.exists() and not run.kept.is_dir()):
        what = "a link" if run.kept.is_symlink() else "no folder"
        raise ArtifactError(f"{run.kept}: {what}, and former results go there; move it away, or choose another RUN")


def put_in_place(run: Run, stage: str, made: Path) -> Path | None:
    """Move the finished folder `made` to the stage's place, and the one that stood there among the kept: where, or None.

    To be called by the holder of the stage. Where the second move fails, the first is undone.
    """
    check_room(run, stage)
    folder, former = run.folder(stage), former_place(run, stage)
    if former is None:
        if folder.exists():  # an empty folder, or one that holds a lock alone
            clear(folder, last=MANIFEST)
            folder.rmdir()
        made.rename(folder)
    else:
        os.utime(folder)  # when it was replaced, which tells the last three
        if exchange(made, folder):
            try:
                _keep(made, former)
            except OSError:
                exchange(made, folder)
                raise
        else:
            _keep(folder, former)
            try:
                made.rename(folder)
            except OSError:
                former.rename(folder)
                raise
    _make_room(run, folder.name)
    return former


def _make_room(run: Run, folder: str) -> None:
    """Remove what is kept of a folder beyond the last three, and what a kill left of some that were being removed."""
    lying = contents(run)
    for path in [*lying.kept.get(folder, [])[AT_MOST:], *lying.going]:
        remove(path)


def settled(run: Run, stage: str) -> None:
    """Put what a kill left where it belongs, in the last moments of a publication or of taking back: a result that was exchanged goes
    among the kept by its own name, and the rest of an attempt that is published goes. Nothing where another process works there.

    Where the stage's place is empty it stays so: `taken_back` fills it.
    """
    place, done = run.partial(stage), run.manifest(stage)
    published = done is not None and (begun_from(place) == done.inputs or _nothing(place))
    lying = contents(run)
    live, every = _digits(run.folder(stage)), lying.kept.get(run.folder(stage).name, [])
    misnamed = [path for path in every if live and f"-{live}" in path.name and _digits(path) != live]  # exchanged
    if not (published and place.is_dir()) and not misnamed and not lying.going:
        return
    with suppress(ArtifactError), run.held(stage):
        for path in misnamed:
            with suppress(FileNotFoundError):
                path.rename(_free(run.kept / f"{run.folder(stage).name}-{_digits(path)}"))
        if published and place.is_dir():
            if is_ours(former := place / MADE, MANIFEST):
                _keep(former, _free(run.kept / f"{run.folder(stage).name}-{_digits(former)}"))
            clear(place)
        _make_room(run, run.folder(stage).name)


def _nothing(place: Path) -> bool:
    """Whether a partial folder holds at most a lock."""
    return place.is_dir() and not {path.name for path in place.iterdir()} - {LOCK, f"{MARK}.tmp"}


def _digits(kept: Path) -> str:
    with suppress(OSError):
        return sha256(kept / MANIFEST)[:_DIGITS]
    return ""


def taken_back(run: Run, stage: str, config: Config) -> Manifest | None:
    """The manifest of a kept result that was made from these very settings, parents and files, now in the stage's place again;
    None where there is none. In a process that is not the main one, nothing is moved: the main one does it.

    Raises ArtifactError where another process works on the stage, and where a parent is missing.
    """
    if not _candidates(run, stage):
        return None
    if not run.main_process:
        found = _returning(run, stage, config)[0]
        return None if found is None else found[1]
    with run.held(stage):
        if (done := finished(run, stage, config)) is not None:
            return done  # another process was quicker
        found, told = _returning(run, stage, config)
        for sentence in told:
            print(sentence, file=sys.stderr)
        if found is None:
            return None
        folder, manifest = found
        try:
            former = put_in_place(run, stage, folder)
        except FileNotFoundError:
            raise ArtifactError(f"{folder} was removed meanwhile; {run.remedy(stage)}") from None
        if begun := folder.parent == run.partial(stage):
            clear(run.partial(stage))
    where = "where it was put together" if begun else str(folder)
    also = "" if former is None else f", and the one that stood here is kept in {former}"
    print(
        f"{stage}: {run.folder(stage)} is taken back from {where}, made of these settings and parents{also}", flush=True
    )
    return manifest


def _candidates(run: Run, stage: str) -> list[Path]:
    """What may be taken back, and what is called so and cannot be read. What an interrupted command had put together in the
    partial folder, manifest and all, counts as kept."""
    lying, name, begun = contents(run), run.folder(stage).name, run.partial(stage) / MADE
    broken = [path for path in lying.unreadable if _folder_name(path.name) == name]
    return [*lying.kept.get(name, []), *([begun] if is_ours(begun, MANIFEST) else []), *broken]


def _returning(run: Run, stage: str, config: Config) -> tuple[tuple[Path, Manifest] | None, list[str]]:
    """The kept folder that is what the stage would make now, whole by every hash, with its manifest; and a sentence for each that
    is not whole."""
    told: list[str] = []
    for folder in _candidates(run, stage):
        try:
            manifest = manifests.read(folder / MANIFEST)
            wanted = inputs_of(run, stage, config, manifest.outside)
            wrong = None if manifest.inputs != wanted else flaw(folder, manifest.files) or ""
        except FileNotFoundError:  # moved by the process that works on it
            continue
        except (OSError, ValueError) as error:
            wrong = f"{folder}: {error}"
        if wrong == "":
            return (folder, manifest), told
        if wrong is not None and folder.parent != run.partial(stage):
            told.append(f"{stage}: {wrong}, so it is not taken back")
    return None, told


def rescue(run: Run, stage: str) -> None:
    """Move what an interrupted command had put together whole, of other settings than now, among the kept."""
    made = run.partial(stage) / MADE
    try:
        found = manifests.read(made / MANIFEST)
    except (OSError, ValueError):
        return
    if flaw(made, found.files) is None:
        place = run.kept / f"{run.folder(stage).name}-{sha256(made / MANIFEST)[:_DIGITS]}"
        if not place.exists():
            os.utime(made)
            _keep(made, place)


def remove(path: Path) -> None:
    """Remove a kept result. It is renamed first: then it is kept no longer, whatever ends this."""
    going = path if path.name.endswith(_GOING) else path.with_name(path.name + _GOING)
    with suppress(FileNotFoundError):  # another process was quicker
        path.rename(going)
        shutil.rmtree(going)


def _when(kept: Path) -> int:
    with suppress(FileNotFoundError):  # removed meanwhile
        return kept.stat().st_mtime_ns
    return 0


def _keep(folder: Path, place: Path) -> None:
    """Move a finished folder to its place among the kept."""
    place.parent.mkdir(exist_ok=True)
    folder.rename(place)


def _folder_name(kept: str) -> str | None:
    """ppo_seed_1 of ppo_seed_1-0123456789ab; None for what is no such name."""
    found = re.fullmatch(rf"(.+)-[0-9a-f]{{{_DIGITS}}}(-\d+)?", kept)
    return None if found is None else found[1]
