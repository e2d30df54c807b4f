"""Does a name lead anywhere but to its own folder below runs/, in any command, and is anything replaced or removed that is not ours?"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plain_stages import ROOT, Plain, base_model, make, plain_stages, settings

import pipeline.__main__ as cli
from pipeline.artifacts import cleaning
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.graph import STAGES, command_name
from pipeline.settings.config import ConfigError
from pipeline.settings.recipe import load

BAD = [
    *("", ".", "..", "...", "../..", "../other", "..\\other", "a/..", "a/../../other", "a/b", "a\\b", "/", "//", "~", "~/x", "{here}/other"),
    *("{here}/project", "./a", "a/", "/tmp", "C:\\x", ".cache", ".kept", ".a", "-", "-x", "--run", "--yes", "a\nb", "a\tb", "a\rb", "\x1b[2J"),
    *(" ", " a", "a ", "a  b", "x" * 201, "é" * 101, "𝒳" * 51, "a:b", "a*", "?", "[a]", "$HOME", "$(touch x)", "`touch x`", "a;b", "a|b", "a&b"),
    *("a'b", 'a"b', "a\u202eb", "a\u200bb", "a\u2028b", "a\u00a0b", "\ufeffa", "a\x7fb", "a\u0085b", "a\ue000b", "%2e%2e", "a,b", "{{x}}", "a@b"),
]  # fmt: skip
GOOD = ["demo", "Demo", "two words", "v1.2_b-3", "опыт", "रन", "実験 1", "é", "x" * 200, "1", "data", "sft.partial", "a..b", "CON", "a.", "data.old", "runs"]  # fmt: skip
EVERY = [*map(command_name, STAGES), "all"]


def tree(folder: Path) -> dict[str, str]:
    """All there is below a folder: contents, and where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = os.readlink(path) if path.is_symlink() else path.read_bytes().hex() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = state
    return found


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A checkout whose packages are called as stages are, beside another one, and plain stages."""
    for folder in (tmp_path / "project", tmp_path / "other"):
        for name in STAGES:
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text("'''Mine.'''\n")
    (tmp_path / "project" / "try.yaml").write_text("model: tiny-random\n")
    with plain_stages(tmp_path / "project"):
        yield tmp_path


def ended(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.app(list(words))
    return int(left.value.code or 0)


def commands(name: str, stages: list[str]) -> Iterator[Callable[[], int]]:
    """Every way to say a run's name."""
    for stage in stages:
        yield lambda stage=stage: ended(stage, "try.yaml", f"--run={name}")
    yield lambda: ended("inspect", "try.yaml", "--prompt", "a", f"--run={name}")
    yield lambda: ended("push", "--to", "me/it", "--dry", f"--run={name}")
    yield lambda: ended("runs", f"--run={name}")
    yield lambda: ended("prune", "--yes", f"--run={name}")

    def removed() -> int:
        with pytest.raises(SystemExit) as left:
            cleaning.main([f"--run={name}", "--yes"])
        return int(left.value.code or 0)

    yield removed


def refused_everywhere(project: Path, name: str, stages: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name, before = name.format(here=project) if "{here}" in name else name, tree(project)
    for call in commands(name, stages):
        capsys.readouterr()
        assert call() == 2
        out, told = capsys.readouterr()
        assert out == "" and told.startswith("error: run name ") and told.count("\n") == 1, (out, told)
        assert told[:-1].isascii() and told[:-1].isprintable()
    assert tree(project) == before


def test_a_name_that_is_none_is_refused(project: Path, tally: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Each name by one stage in turn, and by all commands that are no stage; each by every stage among the slow tests."""
    with tally("names") as cases:
        for number, name in enumerate(BAD):
            with cases(f"--run {name!r}"):
                refused_everywhere(project, name, [EVERY[number % len(EVERY)]], capsys)


@pytest.mark.slow
def test_a_name_that_is_none_is_refused_by_every_stage(
    project: Path, tally: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with tally("names") as cases:
        for name in BAD:
            with cases(f"every stage --run {name!r}"):
                refused_everywhere(project, name, EVERY, capsys)


def test_a_name_is_one_folder_below_runs(project: Path, tally: Any) -> None:
    base_model(settings())
    before = tree(project)
    with tally("names") as cases:
        for name in GOOD:
            with cases(f"--run {name!r}"):
                make("data", name)
                more = {path for path in tree(project) if path not in before}
                assert more and all(path.startswith((f"project/runs/{name}", "project/runs/.cache/")) for path in more)
                cleaning.clean(cleaning.one(name), "", yes=True)
                assert {path: state for path, state in tree(project).items() if "hashes.json" not in path} == before


def foreign(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("years of work")
    return folder


PLACES = ("", "a", "a/data", "a/data.partial", "a/.kept", "a/inspect", "a/logs", "a/index.html", "a/llm_judge.jsonl")


def at_all(name: str) -> list[int]:
    """All that works on a run of that name, each an ArtifactError or an exit code."""
    found = []
    for work in (
        lambda: make("data", name),
        lambda: ended("prune", "--yes", f"--run={name}"),
        lambda: cleaning.clean(cleaning.one(name), "", yes=True),
        lambda: cleaning.clean(cleaning.everything(), "", yes=True),
    ):
        try:
            found.append(int(work() or 0))
        except ArtifactError as error:
            assert "\n" not in str(error)
            found.append(2)
    return found


@pytest.mark.slow
def test_a_link_in_the_place_of_a_folder_leads_nowhere(project: Path, tally: Any) -> None:
    """To a folder of ours elsewhere, to one of others, to nothing: what it leads to stays as it is, and the first command says so."""
    with tally("names") as cases:
        for place in PLACES:
            for target in ("ours", "mine", "nothing"):
                with cases(f"runs/{place} is a link to {target}"):
                    for old in (project / "elsewhere", Path("runs")):
                        old.unlink() if old.is_symlink() else shutil.rmtree(old, ignore_errors=True)
                    elsewhere = foreign(project / "elsewhere")
                    make("data", "a")
                    shutil.copytree("runs", elsewhere / "runs")
                    leads = {"ours": elsewhere / "runs" / place, "mine": elsewhere, "nothing": project / "gone"}[target]
                    link = Path("runs") / place
                    if link.is_dir() and not link.is_symlink():
                        shutil.rmtree(link)
                    else:
                        link.unlink(missing_ok=True)
                    link.symlink_to(leads)
                    Plain.salt = "another"
                    shutil.rmtree("runs/a/data", ignore_errors=True) if place not in ("", "a", "a/data") else None
                    before = tree(elsewhere)
                    assert at_all("a")[0] == 2
                    assert tree(elsewhere) == before and not (project / "gone").exists()
                    Plain.salt = ""
                    link.unlink(missing_ok=True)


STRANGE: dict[str, Callable[[Path], Any]] = {
    "files without a manifest": lambda folder: foreign(folder),
    "a web page's manifest": lambda folder: (foreign(folder) / "manifest.json").write_text('{"name": "app", "inputs": "x"}'),
    "a manifest that is a list": lambda folder: (foreign(folder) / "manifest.json").write_text("[]"),
    "half a manifest": lambda folder: (foreign(folder) / "manifest.json").write_text('{"inputs": "0'),
    "a folder called so": lambda folder: (foreign(folder) / "manifest.json").mkdir(),
    "a file": lambda folder: (folder.parent.mkdir(parents=True, exist_ok=True), folder.write_text("mine")),
    "a pipe": lambda folder: (folder.parent.mkdir(parents=True, exist_ok=True), os.mkfifo(folder)),
}  # fmt: skip


@pytest.mark.slow
def test_what_is_not_ours_is_neither_replaced_nor_removed(project: Path, tally: Any) -> None:
    base_model(settings())
    with tally("names") as cases:
        for place in ("a/data", "a/data.partial", "smoke", "a/notes", "a/.kept/data-0123456789ab", "mine"):
            for what, put in STRANGE.items():
                with cases(f"runs/{place}: {what}"):
                    for old in ("runs/a", "runs/smoke", "runs/mine"):
                        Path(old).unlink() if Path(old).is_file() or Path(old).is_fifo() else shutil.rmtree(
                            old, ignore_errors=True
                        )
                    folder = Path("runs") / place
                    put(folder)
                    strange = {path: one for path, one in tree(Path("runs")).items() if path.startswith(place)}
                    found = at_all("smoke" if place == "smoke" else "a")
                    assert place not in ("a/data", "a/data.partial") or found[0] == 2
                    after = {path: one for path, one in tree(Path("runs")).items() if path.startswith(place)}
                    assert after.items() >= strange.items(), (strange, after)
                if folder.is_fifo():
                    folder.unlink()


def test_names_inside_of_settings_and_options(project: Path, tally: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A comparison's name, models of other runs, the model to push or to look into, and where pages go."""
    for stage in ("data", "sft", "reward", "ppo"):
        make(stage)
    shutil.copytree("runs/a", project / "x")
    before = tree(project)
    with tally("names") as cases:
        for name in ("", ".", "..", "../x", "/x", "a/b", "a b", "a.b", "x" * 101, "a\nb"):
            with cases(f"compare.name={name!r}"), pytest.raises(ConfigError):
                load(Path("try.yaml"), [f"compare.name={name!r}"])
        for name in (
            "../kto",
            "../dpo",
            ".cache/ppo",
            "a b /ppo",
            "-a/ppo",
            "~/ppo",
            "a\\tb/ppo",
            "x" * 201 + "/ppo",
            "$a/ppo",
        ):
            with cases(f"compare.models: {name!r}"):
                code = ended("compare", "try.yaml", f"compare.models=[sft,{name!r}]", "--run", "a")
                told = capsys.readouterr().err
                assert code == 2 and told.startswith("error: ") and told.count("\n") == 1, told
        for name in ("../x", "..", ".", "/ppo", "ppo_seed_1/../../../x/ppo", "ppo_seed_../x", "data", "a/ppo", ""):
            with cases(f"push --model {name!r}"):
                assert ended("push", "--to", "me/it", "--dry", "--run", "a", "--model", name) == 2
                told = capsys.readouterr().err
                assert told.startswith("error: ") and told.count("\n") == 1, told
        for role in ("../x/ppo", "..", ".kept", "/tmp", "a/b/c", "ppo\n", ""):
            with cases(f"a role {role!r}"), pytest.raises(ArtifactError):
                Run("a").require(role)
        after = tree(project)
        assert {path for path in after if after[path] != before.get(path)} <= {
            "project/runs/a/index.html",
            "project/runs/.cache/hashes.json",
        }
        assert before.keys() <= after.keys()


def test_a_page_of_a_check_is_written_over_its_own_alone(
    project: Path, tally: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.data_check import check

    result = {"sound": True, "aside": []}
    monkeypatch.setattr(check, "check", lambda *_: result)
    monkeypatch.setattr(check.page, "text", lambda _: "")
    monkeypatch.setattr(check.page, "html", lambda _: f"<head>{check.page.TITLE}</head>")
    Path("rows.jsonl").write_text('{"prompt": "a"}\n')
    Path("mine.html").write_text("<title>mine</title>")
    Path("link").symlink_to("mine.html")
    Path("folder").mkdir()
    with tally("names") as cases:
        for option in ("to", "html"):
            for name in ("rows.jsonl", "mine.html", "link", "folder", "try.yaml", "data/__init__.py"):
                with cases(f"{option}: {name}"):
                    before = tree(project)
                    place: dict[str, Any] = {"to": None, "html": None, option: Path(name)}
                    with pytest.raises(ConfigError, match="is there and no page of ours"):
                        check.run("rows.jsonl", [], None, **place)
                    assert tree(project) == before
            with cases(f"{option}: its own"):
                place = {"to": None, "html": None, option: Path("new") / option}
                check.run("rows.jsonl", [], None, **place)
                check.run("rows.jsonl", [], None, **place)
                assert (Path("new") / option).is_file()


SAID = [
    *("demo", "two words", "it's", 'say "x"', "$(shell touch pwned)", "$$(touch pwned)", "$(touch pwned)", "`touch pwned`", "; touch pwned"),
    *("$RUN", "$(RUN)", "${HOME}", "#x", "a,b", "\\", "a\\", "'; touch pwned; '", "-x", "*", "%", "=x", "a\ttouch"),
]  # fmt: skip


def test_make_hands_a_name_on_as_it_was_written(tmp_path: Path, tally: Any) -> None:
    """Neither make nor the shell reads anything of it; what has two lines is refused. A python that writes down what it is given."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nwhile [ "$1" != --run ]; do shift; done; printf %s "$2" > said\n')
    python.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if name not in ("RUN", "MAKEFLAGS", "MAKELEVEL")}

    def make_data(*words: str, **environment: str) -> int:
        (tmp_path / "said").unlink(missing_ok=True)
        call = ["make", "-s", "-f", str(ROOT / "Makefile"), "-o", ".venv/ready", *words]
        return subprocess.run(call, cwd=tmp_path, env=clean | environment, capture_output=True).returncode

    with tally("names") as cases:
        for number, name in enumerate(SAID):
            with cases(f"make RUN={name!r}"):
                target = ("data", "runs", "prune", "inspect")[number % 4]
                assert make_data(target, f"RUN={name}") == 0 and (tmp_path / "said").read_text() == name
                assert make_data("ppo", RUN=name) == 0 and (tmp_path / "said").read_text() == name
        with cases("make RUN of two lines"):
            assert make_data("data", "RUN=a\ntouch pwned") == 2 and make_data("data", RUN="a\ntouch pwned") == 2
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "x").exists()
