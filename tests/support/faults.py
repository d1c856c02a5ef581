"""Faults that tests hand in: a journal or a client of which some calls are other ones, and a journal's file that breaks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.system.sqlite_file import Database

T = TypeVar("T")


class _Around:
    def __init__(self, real: object, instead: dict[str, Any]) -> None:
        self.__real, self.__instead = real, instead

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the real one has
        return self.__instead[name] if name in self.__instead else getattr(self.__real, name)


def around(real: T, **instead: object) -> T:
    """The real one, but for these of its calls or parts. It stays as it is for whoever had it before."""
    missing = [name for name in instead if not hasattr(real, name)]
    assert not missing, f"{real!r} has no {missing}"
    return cast("T", _Around(real, instead))


def sql(path: Path, statement: str, *values: object) -> None:
    """Change a journal's file as another process would: over a connection of its own."""
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute(statement, values)


def broken(path: Path, event: str, *, when: str = "true", saying: str = "disk is full") -> Callable[[], None]:
    """From now on the file refuses these writes of tasks, with an error of SQLite's own. Gives what mends it."""
    sql(path, f"CREATE TRIGGER broken BEFORE {event} ON task WHEN {when} BEGIN SELECT raise(FAIL, '{saying}'); END")
    return lambda: sql(path, "DROP TRIGGER broken")


async def bounded(journal: Journal, more_pages: int) -> None:
    """Let the journal's file grow by so many pages: the next one finds the disk full, as SQLite itself says it.

    SQLite keeps the bound for a connection, so it is set over the journal's own.
    """

    def bound(database: Database) -> None:
        pages = database.read("PRAGMA page_count")[0][0]
        database.execute(f"PRAGMA max_page_count = {pages + more_pages}")

    assert isinstance(journal, SqliteJournal)
    await journal.file.run(bound)


def garble(path: Path) -> None:
    """Spoil the file under those that have it open: what they have in memory of it is of no use to them any more."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE task SET account = account")  # whoever reads next reads the file anew
        with path.open("r+b") as file:
            file.write(b"no database any more" * 2000)
        other.execute("COMMIT")
