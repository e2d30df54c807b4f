"""Does what people said stay where runs are cleaned and pruned, and is it told by name and count?"""

from pathlib import Path

import pytest

from pipeline.artifacts import cleaning, overview
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.people.store import new_item, open_store

SAID = "2 answers of 2 people to 1 items"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what people said in run demo, which a stage has begun to make, too."""
    monkeypatch.chdir(tmp_path)
    kept = open_store(Run("demo"))
    kept.add_items([new_item("p", [("a", None), ("b", None)])])
    for person in ("Anna", "Ben"):
        kept.add(f"shown-{person}", person, "shown", {"item": "x"})
        kept.add(f"skip-{person}", person, "skip", {"item": "x"})
    (tmp_path / "runs/demo/logs").mkdir()
    return kept.path.parent


@pytest.mark.parametrize("asked", [["--run", "demo"], []])
def test_cleaning_leaves_it_and_says_so(work: Path, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cleaning.main([*asked, "--yes"])
    assert (work / "people.sqlite").is_file() and not (work.parent / "logs").exists()
    told = f"runs/demo/people: {SAID}, which nothing could make again, so it stays; remove it yourself"
    assert told in capsys.readouterr().err
    assert len(open_store(Run("demo")).events()) == 4


def test_a_run_in_which_nothing_else_lies_stays_whole(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work.parent / "logs").rmdir()
    cleaning.main(["--run", "demo", "--yes"])
    assert (work / "people.sqlite").is_file() and "so it stays" in capsys.readouterr().err


def test_what_comes_while_the_question_stands_stays(work: Path) -> None:
    """The run was empty of it when it was listed, so that its whole folder was to go."""
    with pytest.raises(ArtifactError, match=f"{SAID} came meanwhile, so nothing was removed; run: make clean YES=1"):
        cleaning.clean([Path("runs/demo")], "make clean YES=1", yes=True)
    assert (work / "people.sqlite").is_file()


def test_pruning_and_listing_leave_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work.parent / ".kept").mkdir()
    overview.prune_asked(None, True)
    assert (work / "people.sqlite").is_file()
    assert any(SAID in line for line in overview.listing())


def test_a_database_that_cannot_be_read_stays_too(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "people.sqlite").write_bytes(b"broken" * 1000)
    cleaning.main(["--run", "demo", "--yes"])
    assert "what people said, which cannot be read" in capsys.readouterr().err and (work / "people.sqlite").is_file()
