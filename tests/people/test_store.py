"""Is what people said kept, whatever happens? Stored once, read back from the disk, never changed, for the owner alone."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.run import Run
from pipeline.people import store
from pipeline.people.store import Item, Store, StoreError, new_item, open_store, path_of

ROOT = Path(__file__).resolve().parents[2]
BODY = {
    "item": "x",
    "tiers": [["c1"], ["c0", "c2"]],
    "unranked": [],
    "all_bad": False,
    "note": "gut 👍",
    "seconds": 2.5,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("demo", tmp_path / "runs")


@pytest.fixture
def kept(run: Run) -> Store:
    return open_store(run)


@pytest.fixture
def raw(kept: Store) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(kept.path)
    yield database
    database.close()


def items(count: int = 3) -> list[Item]:
    return [new_item(f"prompt {n}", [("one", "sft"), ("two", None)], body={"unsure": n / 2}) for n in range(count)]


def test_items_come_back_as_they_were_added_and_are_added_once(kept: Store) -> None:
    chat = new_item(
        [{"role": "user", "content": "ä\ud800\0"}], [("a", "sft"), ("b", "ppo")], "practice", {"order": [["c1"]]}
    )
    assert kept.add_items([*items(), chat]) == 4
    assert kept.add_items([chat, *items(5)]) == 2
    found = kept.items()
    assert [one.id for one in found] == [one.id for one in [*items(), chat, *items(5)[3:]]]
    assert found[3] == chat and found[3].completions[1].model == "ppo" and found[0] == items()[0]
    assert kept.item(chat.id) == chat and kept.item("none") is None
    assert len({one.id for one in found}) == 6
    assert new_item("p", [("a", None)]).id != new_item("p", [("a", None)], "practice").id


def test_of_items_all_or_none_are_added(kept: Store) -> None:
    with pytest.raises(StoreError, match="'odd': no kind of item; there are rank, practice"):
        kept.add_items([*items(), Item("i", "odd", "p", ())])
    assert kept.items() == []


def test_an_event_is_read_back_from_the_disk(kept: Store, raw: sqlite3.Connection) -> None:
    event = kept.add("e-1", "  Anna \u0041\u030a ", "ranking", BODY)
    assert (event.id, event.person, event.kind, event.body) == ("e-1", "Anna Å", "ranking", BODY)
    assert event.at.endswith("+00:00") and kept.events() == [event]
    assert raw.execute("SELECT id, at, person FROM events").fetchall() == [("e-1", event.at, "Anna Å")]


def test_what_is_read_back_is_what_lies_on_the_disk_and_not_what_was_sent(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hands back what it was given would hide that something else was written."""
    monkeypatch.setattr(store, "_json", lambda body: '{"tiers": "others"}')
    assert kept.add("e", "Anna", "ranking", BODY).body == {"tiers": "others"}


def test_an_event_that_is_sent_twice_is_stored_once(kept: Store) -> None:
    first = kept.add("e", "Anna", "ranking", BODY)
    assert kept.add("e", "Anna", "ranking", dict(reversed(BODY.items()))) == first
    for person, kind, body in (
        ("Ben", "ranking", BODY),
        ("Anna", "skip", BODY),
        ("Anna", "ranking", BODY | {"note": ""}),
    ):
        with pytest.raises(StoreError, match="event e is stored already, with other content"):
            kept.add("e", person, kind, body)
    assert kept.events() == [first]


def test_events_are_found_by_kind_and_person(kept: Store) -> None:
    for number, (person, kind) in enumerate([("Anna", "skip"), ("Ben", "skip"), ("Anna", "shown")]):
        kept.add(f"e{number}", person, kind, {"item": "x"})
    assert [one.id for one in kept.events()] == ["e0", "e1", "e2"]
    assert [one.id for one in kept.events("skip")] == ["e0", "e1"]
    assert [one.id for one in kept.events(person=" Anna")] == ["e0", "e2"]
    assert [one.id for one in kept.events("shown", "Ben")] == []


@pytest.mark.parametrize(
    ("id", "person", "kind", "body", "why"),
    [
        ("", "Anna", "skip", {}, "id has 1 to 100"),
        ("../../etc", "Anna", "skip", {}, "id has"),
        ("e" * 101, "Anna", "skip", {}, "id has"),
        ("e", "  ", "skip", {}, "a name has 1 to 80"),
        ("e", "A" * 81, "skip", {}, "a name has 1 to 80"),
        ("e", "An\x1bna", "skip", {}, "can be read"),
        ("e", "An\ud800", "skip", {}, "can be read"),
        ("e", "Anna", "score", {}, "'score': no kind of event; there are ranking, skip"),
        ("e", "Anna", "skip", {"seconds": float("nan")}, "numbers finite"),
        ("e", "Anna", "skip", [1], "JSON object"),
        ("e", "Anna", "skip", {"x": {1, 2}}, "JSON object"),
    ],
)
def test_what_is_no_event_is_refused(kept: Store, id: str, person: str, kind: str, body: dict, why: str) -> None:
    with pytest.raises(StoreError, match=why):
        kept.add(id, person, kind, body)
    assert kept.events() == []


@pytest.mark.parametrize("table", ["items", "events"])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {table} SET id = 'other'",
        "DELETE FROM {table}",
        "REPLACE INTO {table} SELECT * FROM {table}",
        "INSERT OR REPLACE INTO {table} SELECT * FROM {table} WHERE id IS NOT NULL",
        "INSERT INTO {table} SELECT * FROM {table} WHERE true ON CONFLICT DO UPDATE SET id = 'other'",
    ],
)
def test_nothing_is_changed_or_removed(kept: Store, raw: sqlite3.Connection, table: str, change: str) -> None:
    kept.add_items(items())
    event = kept.add("e", "Anna", "ranking", BODY)
    with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
        raw.execute(change.format(table=table))
    raw.rollback()
    assert kept.items() == items() and kept.events() == [event]


def test_the_files_are_their_owners_alone(run: Run, kept: Store) -> None:
    database = sqlite3.connect(kept.path)
    database.execute("SELECT * FROM events").fetchall()  # from now on it holds the write-ahead log open
    kept.add("e", "Anna", "skip", {"item": "x"})
    assert kept.path == path_of(run) and kept.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in kept.path.parent.iterdir()} == {
        "people.sqlite": 0o600,
        "people.sqlite-wal": 0o600,
        "people.sqlite-shm": 0o600,
    }
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_two_people_at_once_lose_nothing(run: Run, kept: Store) -> None:
    """Each thread opens the store for itself, too: the tables are made once."""

    def work(number: int) -> None:
        own = open_store(run)
        own.add(f"e{number}", f"person {number % 2}", "skip", {"item": str(number)})
        own.add_items(items(number % 7))
        kept.add("same", "Anna", "skip", {"item": "x"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert len(kept.events()) == 41 and len(kept.items()) == 6


def test_a_kill_loses_nothing_that_was_confirmed(run: Run, kept: Store) -> None:
    """A process adds events and says so; it is killed with SIGKILL in the middle. Each of which it said so is there."""
    code = (
        "import sys; from pathlib import Path; from pipeline.artifacts.run import Run; from pipeline.people.store import open_store\n"
        "kept = open_store(Run('demo', Path(sys.argv[1])))\n"
        "for n in range(10**6): print(kept.add(f'e{n}', 'Anna', 'skip', {'item': str(n)}).id, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run.root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    confirmed = [child.stdout.readline().strip() for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    confirmed += child.stdout.read().split("\n")[:-1]  # the last may be torn
    child.wait()
    child.stdout.close()
    stored = [one.id for one in open_store(run).events()]
    assert confirmed == stored[: len(confirmed)] and len(stored) <= len(confirmed) + 1
    assert kept.add("after", "Anna", "skip", {"item": "x"}).id == "after"


def test_a_store_that_another_program_holds_says_so(
    kept: Store, raw: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY", 0.05)
    raw.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ArtifactError, match=r"people\.sqlite: another program has held it locked .*close that program"):
        kept.add("e", "Anna", "skip", {"item": "x"})
    raw.rollback()
    assert kept.add("e", "Anna", "skip", {"item": "x"}).id == "e"


def test_a_call_waits_while_another_writes(kept: Store, raw: sqlite3.Connection) -> None:
    raw.execute("BEGIN EXCLUSIVE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(kept.add, "e", "Anna", "skip", {"item": "x"})
        threading.Event().wait(0.1)
        assert not waiting.done()
        raw.rollback()
        assert waiting.result(timeout=60).id == "e"


def test_a_full_disk_says_so_and_stores_nothing(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    event, connect = kept.add("e", "Anna", "skip", {"item": "x"}), store._connect

    def small(path: Path) -> sqlite3.Connection:
        database = connect(path)
        database.execute(f"PRAGMA max_page_count={database.execute('PRAGMA page_count').fetchone()[0]}")
        return database

    monkeypatch.setattr(store, "_connect", small)
    with pytest.raises(ArtifactError, match="no space is left on its disk .*; make room"):
        kept.add("more", "Anna", "skip", {"item": "x" * 100_000})
    assert kept.events() == [event]
    monkeypatch.undo()
    assert kept.add("more", "Anna", "skip", {"item": "x" * 100_000}).id == "more"


@pytest.mark.parametrize(
    "content", [b"no database at all, but a text of some length" * 50, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_told(run: Run, content: bytes) -> None:
    path_of(run).parent.mkdir(parents=True)
    path_of(run).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"people\.sqlite: damaged, or no database of ours; move it away"):
        open_store(run)
    assert path_of(run).read_bytes() == content


def test_a_database_that_is_not_ours_is_told(run: Run) -> None:
    path_of(run).parent.mkdir(parents=True)
    with sqlite3.connect(path_of(run)) as database:
        database.execute("CREATE TABLE events (x)")
    database.close()
    with pytest.raises(ArtifactError, match="a database that is not ours; move it away"):
        open_store(run)


def test_a_newer_store_is_told(run: Run, kept: Store, raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA user_version=2")
    with pytest.raises(ArtifactError, match="newer version of this project; update this one"):
        open_store(run)


def test_links_and_folders_in_its_place_are_refused(run: Run, tmp_path: Path) -> None:
    folder = path_of(run).parent
    folder.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="a link to .*; move it away"):
        open_store(run)
    folder.unlink()
    folder.mkdir()
    path_of(run).symlink_to(tmp_path / "elsewhere" / "file")
    with pytest.raises(ArtifactError, match="a link to .*; move it away"):
        open_store(run)
    path_of(run).unlink()
    path_of(run).mkdir()
    with pytest.raises(ArtifactError, match="a folder is where a file belongs"):
        open_store(run)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_store_that_went_meanwhile_is_told_and_not_made_anew(kept: Store) -> None:
    shutil.rmtree(kept.path.parent)
    with pytest.raises(ArtifactError):
        kept.add("e", "Anna", "skip", {"item": "x"})
    assert not os.path.lexists(kept.path.parent)


def test_the_store_needs_no_heavy_library() -> None:
    code = "import sys, pipeline.people.store; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
