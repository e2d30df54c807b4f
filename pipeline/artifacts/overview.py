"""What lies in runs/, and what of it can go? `make runs` and `make prune`.

Nothing here stops at a folder that cannot be read: it is told on its own line, and the rest is listed.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.artifacts import manifest as manifests
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.freshness import section_values
from pipeline.artifacts.kept import contents, remove
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.ownership import MANIFEST, alone_in, at_work, check_run_name
from pipeline.artifacts.refusals import size_words
from pipeline.artifacts.run import Run
from pipeline.artifacts.said import PEOPLE, counted
from pipeline.commands import ROOT, Call, pruning
from pipeline.graph import STAGES
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.deciding import ABSENT, Difference, differences, shown
from pipeline.settings.recipe import load

MOST = 12  # settings that differ between runs, or of one stage from its recipe, before the rest is counted
_PARTIAL = ".partial"


def runs(root: Path = Path("runs"), only: str | None = None) -> list[Run]:
    """The runs below `root`: folders with something that a stage made. Raises ArtifactError where `only` is none of them."""
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        with suppress(ArtifactError):
            if path.is_dir() and _folders(path):
                found.append(Run(check_run_name(path.name), root))
    if only is None:
        return found
    check_run_name(only)
    if only not in [run.name for run in found]:
        known = ", ".join(run.name for run in found)
        raise ArtifactError(f"no run {only} in {root}; " + (f"there are {known}" if known else "there is none yet"))
    return [run for run in found if run.name == only]


def listing(root: Path = Path("runs"), only: str | None = None) -> Iterator[str]:
    """All runs as lines: stages, gates, times, sizes, the settings that are not the recipe's, what is kept; then in what they differ."""
    found = runs(root, only)
    if not found:
        yield f"no runs in {root} yet; run: {Call.of('recipes/film_reviews.yaml', 'demo').line('all')}"
        return
    for run in found:
        yield f"{run.root / run.name}  {size_words(_size(run.root / run.name))}{_recipes(run)}"
        yield from _table([*_stages(run), *_kept(run)])
    if between := _between(found):
        yield "settings that differ:"
        yield from _table(between[:MOST])
        if more := len(between) - MOST:
            yield from [f"  and {more} more"] * (more > 0)


def prunable(found: Sequence[Run]) -> tuple[list[Path], list[str]]:
    """What `make prune` removes: all that the runs keep of former results, and what is left of some that were being removed; and
    a sentence for each folder there that it leaves alone."""
    paths, left = [], []
    for run in found:
        lying = contents(run)
        paths += [path for kept in lying.kept.values() for path in kept] + lying.going
        left += [f"{path}: not a former result of ours that can be read, so it stays" for path in _unknown(run)]
    return paths, left


def prune_asked(only: str | None, yes: bool, root: Path = Path("runs")) -> None:
    """Show what is kept, ask, and remove it. Raises ArtifactError where nobody can be asked and `yes` was not said."""
    found = runs(root, only)
    paths, left = prunable(found)
    for sentence in left:
        print(sentence, file=sys.stderr)
    if not paths:
        print("prune: nothing is kept" + ("" if only is None else f" in {root / only}"))
        return
    with ExitStack() as locks:  # so that no stage takes back what is removed
        for run in found:
            locks.enter_context(alone_in(run.root / run.name))
        _prune(paths, only, yes)


def _prune(paths: Sequence[Path], only: str | None, yes: bool) -> None:
    for line in _table([[str(path), size_words(_size(path))] for path in paths]):
        print(line)
    several = f"{len(paths)} former results, {size_words(sum(map(_size, paths)))}"
    if not yes:
        if not sys.stdin.isatty():
            raise ArtifactError(f"{several} would be removed for good, and nobody can be asked; {pruning(only)}")
        if input(f"remove {several}, for good? [y/N] ").strip().lower() not in ("y", "yes"):
            print("prune: nothing was removed")
            return
    print(f"prune: {size_words(prune(paths))} are free")


def prune(paths: Sequence[Path]) -> int:
    """Remove kept results: the bytes that were freed."""
    freed = 0
    for path in paths:
        freed += _size(path)
        remove(path)
    for folder in {path.parent for path in paths}:
        with suppress(OSError):  # something else lies there
            folder.rmdir()
    return freed


def _folders(path: Path) -> list[str]:
    """The names of what stages made or began in a run, in the order of the stages."""
    order = {stage: number for number, stage in enumerate(STAGES)}
    names = [
        one.name
        for one in path.iterdir()
        if one.is_dir() and ((one / MANIFEST).exists() or one.name.endswith(_PARTIAL) or one.name == ".kept")
    ]

    def place(name: str) -> tuple[int, str]:
        stage = name.removesuffix(_PARTIAL)
        return order.get(stage.partition("_seed_")[0].partition("-")[0], len(order)), name

    return sorted(names, key=place)


def _stages(run: Run) -> Iterator[list[str]]:
    for name in _folders(run.root / run.name):
        folder = run.root / run.name / name
        if name.endswith(_PARTIAL):
            holder = at_work(folder)
            yield [name, "being made" if holder else "not finished", "", size_words(_size(folder)), holder or ""]
        elif name != ".kept":
            yield _row(name, folder, _remarks(run, folder))
    if (said := counted(run.root / run.name)) is not None:
        folder = run.root / run.name / PEOPLE
        yield [PEOPLE, said, "", size_words(_size(folder)), "stays whatever is cleaned or pruned"]


def _kept(run: Run) -> Iterator[list[str]]:
    for name, paths in contents(run).kept.items():
        live = _manifest(run.root / run.name / name)
        for path in paths:
            found, told = _manifest(path), ""
            if isinstance(live, Manifest) and isinstance(found, Manifest):
                others = differences(live.config["settings"], found.config["settings"])
                told = _settings(others) or _parents(live, found)
            yield _row(f".kept/{path.name}", path, told)
    for path in _unknown(run):
        yield [f".kept/{path.name}", "not a former result that can be read", "", size_words(_size(path)), ""]


def _row(name: str, folder: Path, told: str) -> list[str]:
    found = _manifest(folder)
    if isinstance(found, str):
        return [name, "cannot be read", "", size_words(_size(folder)), found]
    return [
        name,
        f"gate {found.gate['result']}",
        found.finished[:16].replace("T", " "),
        size_words(_size(folder)),
        told,
    ]


def _manifest(folder: Path) -> Manifest | str:
    """The manifest of a folder, or in words why there is none."""
    try:
        return manifests.read(folder / MANIFEST)
    except FileNotFoundError:
        return f"{folder / MANIFEST}: missing"
    except (OSError, ValueError) as error:
        return f"{folder / MANIFEST}: {error}"


def _remarks(run: Run, folder: Path) -> str:
    """The settings of a finished stage that are not its recipe's, and the parents that it was made of and that are no longer there."""
    found = _manifest(folder)
    if isinstance(found, str):
        return ""
    told = []
    recipe = _recipe(found.command["recipe"] if found.command else "")
    if recipe is not None and found.stage in STAGES:
        told.append(_settings(differences(section_values(recipe, found.stage), found.config["settings"])))
    elif found.command:
        told.append(" ".join(found.command["overrides"]))
    for parent in found.parents:
        try:
            same = run.identity(parent["role"]) == parent["sha256"]
        except ArtifactError:
            same = False
        if not same:
            told.append(f"made of another {parent['role']} than is there")
    return "; ".join(filter(None, told))


@cache
def _recipe(name: str) -> Config | None:
    """A recipe as it is now; None where there is none, or none that can be read."""
    for path in (Path(name), ROOT / name):
        if name and path.is_file():
            try:
                return load(path)
            except ConfigError:
                return None
    return None


def _recipes(run: Run) -> str:
    found = [_manifest(run.root / run.name / name) for name in _folders(run.root / run.name)]
    names = dict.fromkeys(
        str(one.command["recipe"])
        for one in found
        if isinstance(one, Manifest) and one.command and one.command.get("recipe")
    )
    return f"  {', '.join(names)}" if names else ""


def _settings(found: Sequence[Difference]) -> str:
    told = [f"{one.name}={shown(one.now)}" for one in found if one.now is not ABSENT]
    return " ".join([*told[:MOST], f"and {len(told) - MOST} more"] if len(told) > MOST else told)


def _parents(live: Manifest, kept: Manifest) -> str:
    """Of what a kept result was made, where its settings are those of the one that is there."""
    now = {parent["role"]: parent["sha256"] for parent in live.parents}
    others = [parent["role"] for parent in kept.parents if now.get(parent["role"]) != parent["sha256"]]
    return f"made of another {', '.join(others)}" if others else "made of other files"


def _between(found: Sequence[Run]) -> list[list[str]]:
    """Rows of the settings that several runs have and that are not the same in all of them."""
    values: dict[str, dict[str, Any]] = {}
    for run in found:
        for stage in STAGES:
            one = _manifest(run.root / run.name / stage)
            if stage != "gold" and isinstance(one, Manifest):  # gold has a seed of its own
                for difference in differences({}, one.config["settings"]):
                    values.setdefault(difference.name, {})[run.name] = shown(difference.now)
    return [
        [name, *(f"{run} {value}" for run, value in by_run.items())]
        for name, by_run in values.items()
        if len(set(by_run.values())) > 1
    ]


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines whose columns, but for the last, stand below each other."""
    widths: dict[int, int] = {}
    for row in rows:
        for place, cell in enumerate(row[:-1]):
            widths[place] = max(widths.get(place, 0), len(cell))
    for row in rows:
        yield "  " + "  ".join([*(f"{cell:<{widths[n]}}" for n, cell in enumerate(row[:-1])), row[-1]]).rstrip()


def _unknown(run: Run) -> list[Path]:
    lying = contents(run)
    return [*lying.unreadable, *lying.strangers]


def _size(path: Path) -> int:
    """Bytes of all files below a folder, links not followed; what goes meanwhile counts nothing."""
    total = 0
    for one in [path, *path.rglob("*")]:
        with suppress(OSError):
            total += one.lstat().st_size if not one.is_dir() else 0
    return total
