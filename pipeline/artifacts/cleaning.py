"""What may be removed when a user asks for it? All runs and what tools left, or one run; never what was downloaded.

    python -m pipeline.artifacts.cleaning [--run NAME] [--yes]        # make clean, make clean-runs; only the standard library

It says what goes and how much that is, and asks; without a terminal it wants --yes.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.ownership import (
    BESIDE,
    MANIFEST,
    MARK,
    alone_in,
    check_folder,
    check_replaceable,
    check_root,
    check_run_name,
    is_ours,
)
from pipeline.artifacts.said import PEOPLE, counted
from pipeline.graph import STAGES

RUNS, DOWNLOADS = Path("runs"), ".cache"
OWN_FILES = ("data-check.html", "data-check.json", "gpu-check.json", "bench")  # beside the runs
OF_EXAMPLES = ("cartpole.html", "curve.svg", "episode.png", "figures.json")  # what make cartpole writes in its folder
LEFT_BY_TOOLS = (".pytest_cache", ".mypy_cache", ".ruff_cache", "*.egg-info")


def everything() -> list[Path]:
    """All that is ours in runs/, and beside it what tools left in the project and its rooms."""
    check_root(RUNS)
    runs = [path for path in sorted(RUNS.glob("*")) if path.name != DOWNLOADS]
    runs = [path for run in runs for path in (_of_a_run(run) if run.name not in OWN_FILES else [run])]
    caches = [path for pattern in LEFT_BY_TOOLS for path in sorted(Path().glob(pattern))]
    rooms = [path for path in sorted(Path().iterdir()) if path.is_dir() and not path.is_symlink() and path != RUNS]
    shown = [path for path in rooms if not path.name.startswith(".")]
    return [*runs, *caches, *(path for room in shown for path in sorted(room.rglob("__pycache__")))]


def one(name: str | None) -> list[Path]:
    """What is ours in the folder of one run. Raises ArtifactError where there is none of that name."""
    check_root(RUNS)
    known = [path.name for path in sorted(RUNS.glob("*")) if path.is_dir() and path.name != DOWNLOADS]
    there = f"there are {', '.join(known)}" if known else "there are none"
    if name is None:
        raise ArtifactError(f"clean-runs removes one run, and RUN names none; {there}")
    check_folder(RUNS / check_run_name(name), "a run's folder")
    if not (RUNS / name).is_dir():
        raise ArtifactError(f"{RUNS / name}: no such run; {there}")
    return _of_a_run(RUNS / name)


def _of_a_run(folder: Path) -> list[Path]:
    """The run's whole folder where all in it is ours, else what is; the rest stays, and is told."""
    inside = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    ours = [path for path in inside if _is_ours(path)]
    strange = [path for path in inside if path not in ours] if ours or folder.is_dir() else [folder]
    strange = [folder] if folder.is_symlink() or (strange and not ours) else strange
    for path in strange:
        said = counted(folder) if path.name == PEOPLE and path != folder else None
        why = "not made by a stage of ours" if said is None else f"{said}, which nothing could make again"
        print(f"{path}: {why}, so it stays; remove it yourself", file=sys.stderr)
    return ours if strange else [folder]


def _is_ours(path: Path) -> bool:
    """Whether something in a run's folder was made by us."""
    if path.name.startswith(".index-") or path.name in (*BESIDE, *OF_EXAMPLES):
        return not path.is_symlink()
    if path.is_dir() and not any(path.iterdir()) and not path.name.startswith((".kept", *STAGES)):
        return False
    try:
        check_replaceable(path, MARK if path.name.endswith(".partial") else MANIFEST)
    except ArtifactError:
        kept = path.name == ".kept" and path.is_dir() and not path.is_symlink()
        return kept and all(is_ours(one, MANIFEST) or one.name.endswith(".gone") for one in path.iterdir())
    return True


def clean(paths: Sequence[Path], again: str, yes: bool) -> bool:
    """Remove `paths`, after a question unless `yes`; whether they were. Raises ArtifactError where a stage is being made in one of
    them, or where nobody can be asked: `again` is the command that needs no answer."""
    if not paths:
        print("nothing to remove")
        return False
    below = [path for path in paths if RUNS in path.parents]
    with ExitStack() as locks:  # so that none begins while the user thinks about it
        for run in sorted({RUNS / path.relative_to(RUNS).parts[0] for path in below}):
            if run.is_dir() and not run.is_symlink():
                locks.enter_context(alone_in(run))
        return _clean(paths, below, again, yes)


def _clean(paths: Sequence[Path], below: Sequence[Path], again: str, yes: bool) -> bool:
    what = [f"{path} ({_size(path)})" for path in below]
    if others := len(paths) - len(below):
        what.append(f"{others} caches of tools")
    spared = f"; {RUNS / DOWNLOADS} stays ({_size(RUNS / DOWNLOADS)})" if (RUNS / DOWNLOADS).is_dir() else ""
    print(f"to be removed: {', '.join(what)}{spared}", flush=True)
    if not yes:
        if not sys.stdin.isatty():
            raise ArtifactError(f"nobody can be asked where there is no terminal, so nothing was removed; run: {again}")
        if input("remove them? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return False
    for path in below:
        if (said := counted(path)) is not None:
            raise ArtifactError(f"{path / PEOPLE}: {said} came meanwhile, so nothing was removed; run: {again}")
    remove(paths)
    print("removed")
    return True


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _size(path: Path) -> str:
    files = [path] if not path.is_dir() or path.is_symlink() else [one for one in path.rglob("*") if not one.is_dir()]
    total = float(sum(one.lstat().st_size for one in files))
    for unit in ("bytes", "kB", "MB"):
        if total < 1000:
            return f"{total:.0f} {unit}"
        total /= 1000
    return f"{total:.1f} GB"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.artifacts.cleaning", description="Remove runs.")
    parser.add_argument("--run", help="one run alone")
    parser.add_argument("--no-run", action="store_true", help="one run was meant and none was named")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    asked = parser.parse_args(arguments)
    single = asked.run is not None or asked.no_run
    again = "make clean YES=1" if not single else f"make clean-runs RUN={shlex.quote(asked.run or '')} YES=1"
    try:
        clean(one(asked.run) if single else everything(), again, asked.yes)
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, EOFError):
        print("\nnothing was removed", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
