"""How much did people say in a run? Counted for whoever lists or removes runs; pipeline/people/ keeps it. Only the standard library."""

import sqlite3
from contextlib import closing
from pathlib import Path

PEOPLE = "people"  # the folder of a run in which people/store.py keeps what they said
DATABASE = "people.sqlite"


def counted(run: Path) -> str | None:
    """What lies in the `people` folder of a run's folder, in words; None where there is no such folder."""
    folder = run / PEOPLE
    if not folder.is_dir() or folder.is_symlink():
        return None
    path = folder / DATABASE
    if not path.is_file():
        return "nothing that people said"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)) as database:
            events, people, items = (
                database.execute(query).fetchone()[0]
                for query in (
                    "SELECT COUNT(*) FROM events WHERE kind != 'shown'",
                    "SELECT COUNT(DISTINCT person) FROM events",
                    "SELECT COUNT(*) FROM items",
                )
            )
    except sqlite3.Error:
        return "what people said, which cannot be read"
    who = "1 person" if people == 1 else f"{people} people"
    return f"{events} answers of {who} to {items} items"
