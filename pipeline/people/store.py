"""Where is what people say kept? In `runs/NAME/people/people.sqlite`: items to rank, and events, which are only ever added.

SQLite in WAL mode with synchronous=FULL: what `Store.add` returned is on the disk, and was read back from there through another
connection. An event is identified by an id that its maker chose (a browser, a UUID), so that one which is sent twice is stored once.
Triggers forbid every change and removal. What is taken back is an event of its own, of kind "undo".
"""

import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.schema import Completion, PromptText
from pipeline.artifacts import refusals
from pipeline.artifacts.errors import ArtifactError
from pipeline.artifacts.files import digest
from pipeline.artifacts.ownership import check_folder, check_no_link, using
from pipeline.artifacts.run import Run
from pipeline.artifacts.said import DATABASE, PEOPLE

ITEM_KINDS = ("rank", "practice")
EVENT_KINDS = ("ranking", "skip", "report", "undo", "shown", "vote", "preference")
LONGEST_NAME, LONGEST_ID = 80, 100  # characters
BUSY = 5.0  # seconds for which a call waits while another process writes
_VERSION = 1  # of the tables
_APPLICATION = 0x524C4846  # "RLHF": whose database it is
_ID = re.compile(rf"[0-9A-Za-z_.:-]{{1,{LONGEST_ID}}}")
_TABLES = """
CREATE TABLE items (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, kind TEXT NOT NULL,
    prompt TEXT NOT NULL, completions TEXT NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE events (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, person TEXT NOT NULL,
    kind TEXT NOT NULL, body TEXT NOT NULL) STRICT;
"""
# REPLACE removes a row without its trigger, so that an id which is there is refused before it is inserted.
_TRIGGERS = """
CREATE TRIGGER {table}_never_change BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, '{table} are only ever added'); END;
CREATE TRIGGER {table}_never_go BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{table} are only ever added'); END;
CREATE TRIGGER {table}_once BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id OR number = NEW.number)
BEGIN SELECT RAISE(ABORT, '{table} are only ever added'); END;
"""


class StoreError(ArtifactError):
    """An event that cannot be stored as it was given; the store holds nothing of it."""


@dataclass(frozen=True)
class Item:
    """Answers to one prompt, to be put in an order. `id` is a hash of kind, prompt and texts, the completions' ids are c0, c1, …
    `body` holds what is known beside: "unsure" (larger: the reward model is less sure of its order), "order" (the known tiers of a
    practice item), "source"."""

    id: str
    kind: str  # of ITEM_KINDS
    prompt: PromptText
    completions: tuple[Completion, ...]
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One thing that a person did. `at` is when it was stored, UTC in ISO 8601."""

    id: str
    at: str
    person: str
    kind: str  # of EVENT_KINDS
    body: dict[str, Any]


def new_item(
    prompt: PromptText,
    answers: Sequence[tuple[str, str | None]],
    kind: str = "rank",
    body: Mapping[str, Any] | None = None,
) -> Item:
    """An item of `answers`, texts with the names of the models that wrote them."""
    completions = tuple(Completion(f"c{place}", text, model) for place, (text, model) in enumerate(answers))
    said = json.dumps(
        [kind, prompt, [text for text, _ in answers]], sort_keys=True
    )  # in ASCII, so that any text has a hash
    return Item(digest(said)[:32], kind, prompt, completions, dict(body or {}))


def path_of(run: Run) -> Path:
    """Where a run's store lies, whether it is there or not."""
    return run.root / run.name / PEOPLE / DATABASE


def open_store(run: Run) -> "Store":
    """The run's store, made where it is missing: a folder and files for their owner alone. Raises ArtifactError where something else
    lies in its place, and where the machine refuses."""
    path = path_of(run)
    check_folder(path.parent, "what people said")
    check_no_link(path)
    with using(path.parent.parent), _told(path):  # nobody removes the run meanwhile
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.parent.chmod(0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        path.chmod(0o600)  # the files that SQLite puts beside it get its permissions
        with closing(_connect(path)) as database:
            if database.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise ArtifactError(f"{path}: its disk takes no write-ahead log; put runs/ on a local disk")
            _make_tables(database, path)
    return Store(path)


@dataclass(frozen=True)
class Store:
    """What people are asked in one run, and what they did. May be used by several threads and processes: every call has a connection
    of its own. All raise ArtifactError where the file is damaged, gone or held, and where the machine refuses."""

    path: Path

    def add_items(self, items: Iterable[Item]) -> int:
        """Add items, all or none; how many of them were new. One that is there stays as it is."""
        rows = [_item_row(item) for item in items]
        with self._writing() as database:
            at, before = _now(), database.total_changes
            for identity, kind, *rest in rows:
                if database.execute("SELECT 1 FROM items WHERE id = ?", (identity,)).fetchone() is None:
                    database.execute(
                        "INSERT INTO items (id, at, kind, prompt, completions, body) VALUES (?, ?, ?, ?, ?, ?)",
                        (identity, at, kind, *rest),
                    )
            return database.total_changes - before

    def items(self) -> list[Item]:
        """All items in the order in which they were added."""
        return [
            _item(row) for row in self._rows("SELECT id, kind, prompt, completions, body FROM items ORDER BY number")
        ]

    def item(self, id: str) -> Item | None:
        found = self._rows("SELECT id, kind, prompt, completions, body FROM items WHERE id = ?", id)
        return _item(found[0]) if found else None

    def add(self, id: str, person: str, kind: str, body: Mapping[str, Any]) -> Event:
        """Store an event and return it as it was read back from the disk. One that is there with the same content is returned as it is
        there; raises StoreError where the content is another, or no event."""
        person, text = person_name(person), _json(body)
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise StoreError(f"an event's id has 1 to {LONGEST_ID} letters, digits or any of . _ : -")
        if kind not in EVENT_KINDS:
            raise StoreError(f"{ascii(kind)[:LONGEST_ID]}: no kind of event; there are {', '.join(EVENT_KINDS)}")
        with self._writing() as database:
            if database.execute("SELECT 1 FROM events WHERE id = ?", (id,)).fetchone() is None:
                database.execute(
                    "INSERT INTO events (id, at, person, kind, body) VALUES (?, ?, ?, ?, ?)",
                    (id, _now(), person, kind, text),
                )
        found = self._rows("SELECT id, at, person, kind, body FROM events WHERE id = ?", id)
        if not found:
            raise ArtifactError(f"{self.path}: the event that was written cannot be read back; see what lies there")
        if found[0][2:] != (person, kind, text):
            raise StoreError(f"event {id} is stored already, with other content; send what is new under a new id")
        return _event(found[0])

    def events(self, kind: str | None = None, person: str | None = None) -> list[Event]:
        """All events, of one kind or one person where these are given, in the order in which they were stored."""
        named = None if person is None else person_name(person)
        rows = self._rows(
            "SELECT id, at, person, kind, body FROM events WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR person = ?2) ORDER BY number",
            kind,
            named,
        )
        return [_event(row) for row in rows]

    def _rows(self, query: str, *values: str | None) -> list[tuple[str, ...]]:
        with _told(self.path), closing(_connect(self.path)) as database:
            return database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed where the block ends and undone where it raises."""
        with _told(self.path), closing(_connect(self.path)) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


def person_name(name: str) -> str:
    """A person's name as it is stored: NFC, single spaces. Raises StoreError for one that is empty, too long, or not to be read."""
    if not isinstance(name, str) or any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") for c in name):
        raise StoreError("a name is a text of characters that can be read")
    folded = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(folded) <= LONGEST_NAME:
        raise StoreError(f"a name has 1 to {LONGEST_NAME} characters")
    return folded


def _connect(path: Path) -> sqlite3.Connection:
    """A connection in which transactions begin only where they are begun; it makes no file."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    database = sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)
    try:
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA trusted_schema=OFF")
    except BaseException:
        database.close()
        raise
    return database


def _make_tables(database: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty database. Raises ArtifactError where it holds others."""
    database.execute("BEGIN IMMEDIATE")  # two processes may come here at once
    try:
        version, application = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))  # fmt: skip
        if (version, application) == (0, 0) and not database.execute("SELECT 1 FROM sqlite_schema").fetchone():
            whole = _TABLES + "".join(_TRIGGERS.format(table=table) for table in ("items", "events"))
            for statement in _statements(whole):
                database.execute(statement)
            database.execute(f"PRAGMA application_id={_APPLICATION}")
            database.execute(f"PRAGMA user_version={_VERSION}")
        elif application != _APPLICATION:
            raise ArtifactError(f"{path}: a database that is not ours; move it away, or choose another RUN")
        elif version != _VERSION:
            raise ArtifactError(f"{path}: written by a newer version of this project; update this one")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; sqlite3's own executescript would end the transaction."""
    one = ""
    for line in script.splitlines():
        one += line + "\n"
        if sqlite3.complete_statement(one):
            yield one
            one = ""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong with the file within the block, as one sentence."""
    try:
        with refusals.told(PEOPLE, path.parent):
            yield
    except sqlite3.Error as error:
        said = str(error).lower()
        if "locked" in said or "busy" in said:
            why = f"another program has held it locked for {BUSY:.0f} seconds; close that program, then try again"
        elif isinstance(error, sqlite3.DatabaseError) and ("not a database" in said or "malformed" in said):
            why = "damaged, or no database of ours; move it away (it may hold what people said), or choose another RUN"
        else:
            raise
        raise ArtifactError(f"{path}: {why}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _json(value: object) -> str:
    """A body as it is stored: in ASCII, so that halves of surrogate pairs and zero bytes are kept."""
    try:
        if isinstance(value, Mapping):
            return json.dumps(dict(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    raise StoreError("a body is a JSON object, its numbers finite")


def _item_row(item: Item) -> tuple[str, ...]:
    if item.kind not in ITEM_KINDS:
        raise StoreError(f"{ascii(item.kind)[:LONGEST_ID]}: no kind of item; there are {', '.join(ITEM_KINDS)}")
    completions = json.dumps([one.to_json() for one in item.completions], allow_nan=False)
    return item.id, item.kind, json.dumps(item.prompt, allow_nan=False), completions, _json(item.body)


def _item(row: tuple[str, ...]) -> Item:
    identity, kind, prompt, completions, body = row
    answers = tuple(Completion.from_json(one) for one in json.loads(completions))
    return Item(identity, kind, json.loads(prompt), answers, json.loads(body))


def _event(row: tuple[str, ...]) -> Event:
    identity, at, person, kind, body = row
    return Event(identity, at, person, kind, json.loads(body))
