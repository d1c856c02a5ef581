"""A SQLite file of ours: its migrations, its transactions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from flux2_mcp.system.migrations import Migrations
from flux2_mcp.system.sqlite_file import Database, Read, is_lost, looked_at, opened, renewed
from tests.support.together import at_once

ONE = ("one", "CREATE TABLE one (n INTEGER);\nINSERT INTO one VALUES (1)")
TWO = ("two", "CREATE TABLE two (n INTEGER)")
THREE = ("three", "CREATE TABLE three (n INTEGER)")
TWO_STEPS = (ONE, TWO)
CHILDREN = (
    ("parents", "CREATE TABLE parent (n INTEGER PRIMARY KEY)"),
    ("children", "CREATE TABLE child (n INTEGER REFERENCES parent (n) DEFERRABLE INITIALLY DEFERRED)"),
)
BEGUN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sqlite3"


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """As any program reads it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def applied(path: Path, migrations: Migrations) -> list[tuple[object, ...]]:
    """Open it, and give what it records."""
    Database(path, migrations, durable=False).close()
    return rows(path, "SELECT id, name FROM migration ORDER BY id")


def tables(path: Path) -> set[object]:
    return {name for (name,) in rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")} - {"migration"}


def unnamed(path: Path, *migrations: tuple[str, str], more: int = 0) -> None:
    """A file as versions made it that recorded a migration by its place alone; `more` of them are of a later one."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE migration (id INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)")
        for number, (_, script) in enumerate(migrations, start=1):
            connection.executescript(script)
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number, BEGUN))
        for number in range(len(migrations) + 1, len(migrations) + 1 + more):
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number, BEGUN))


# --- migrations ---


def test_each_migration_runs_once_whenever_it_came(path: Path) -> None:
    assert applied(path, TWO_STEPS[:1]) == [(1, "one")]
    assert applied(path, TWO_STEPS) == [(1, "one"), (2, "two")]
    assert applied(path, TWO_STEPS) == [(1, "one"), (2, "two")]
    assert rows(path, "SELECT count(*) FROM one") == [(1,)]


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    assert applied(path, TWO_STEPS[:1]) == [(1, "one")]
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        applied(path, (ONE, ("two", "CREATE TABLE two (n INTEGER);\nCREATE TABLE one (n INTEGER)")))
    assert applied(path, TWO_STEPS) == [(1, "one"), (2, "two")]


def test_a_migration_is_known_by_its_name_wherever_it_stands_in_the_list(path: Path) -> None:
    """Else one that is put before those that ran would never run, and one of those run twice."""
    applied(path, TWO_STEPS)
    assert applied(path, (TWO, ONE)) == [(1, "one"), (2, "two")]
    assert applied(path, (ONE, THREE, TWO)) == [(1, "one"), (2, "two"), (3, "three")]
    assert tables(path) == {"one", "two", "three"}


def test_a_file_of_a_later_version_is_opened_as_it_is(path: Path) -> None:
    applied(path, TWO_STEPS)
    assert applied(path, TWO_STEPS[:1]) == [(1, "one"), (2, "two")]


def test_a_file_of_a_later_version_that_has_dropped_a_migration_does_not_get_it_back(path: Path) -> None:
    applied(path, (ONE, THREE))
    assert applied(path, TWO_STEPS) == [(1, "one"), (2, "three")]
    assert tables(path) == {"one", "three"}


def test_a_file_without_names_gets_them_and_what_it_lacks_and_is_otherwise_left_as_it_is(path: Path) -> None:
    unnamed(path, ONE)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE one SET n = 7")
    assert applied(path, TWO_STEPS) == [(1, "one"), (2, "two")]
    assert rows(path, "SELECT n FROM one") == [(7,)]
    # As versions without names ask: when the file was begun, which names it, and how many migrations it has had.
    assert rows(path, "SELECT applied_at FROM migration ORDER BY id LIMIT 1") == [(BEGUN,)]
    assert rows(path, "SELECT count(*) FROM migration") == [(2,)]


def test_a_file_without_names_that_lacks_nothing_gets_its_names(path: Path) -> None:
    unnamed(path, *TWO_STEPS)
    assert applied(path, TWO_STEPS) == [(1, "one"), (2, "two")]


def test_a_file_without_names_that_has_more_than_this_version_is_opened_as_it_is(path: Path) -> None:
    unnamed(path, ONE, more=1)
    Database(path, TWO_STEPS[:1], durable=False).close()
    assert rows(path, "SELECT * FROM migration") == [(1, BEGUN), (2, BEGUN)]


def opens(path: Path, migrations: Migrations, _: int) -> None:
    applied(path, migrations)


def test_of_many_that_open_a_new_file_or_one_without_names_at_once_each_migration_is_run_by_one(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"{number}.sqlite3"
        if number % 2:
            unnamed(path, ONE)
        at_once(6, partial(opens, path, TWO_STEPS))
        assert applied(path, TWO_STEPS) == [(1, "one"), (2, "two")]
        assert rows(path, "SELECT count(*) FROM one") == [(1,)]


# --- transactions ---


def test_a_transaction_that_raises_changes_nothing_and_frees_the_file(path: Path) -> None:
    one, two = (Database(path, TWO_STEPS, durable=True) for _ in range(2))

    def broken() -> None:
        with one.write():
            one.execute("DELETE FROM one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert two.execute("UPDATE one SET n = 2") == 1
    assert [row["n"] for row in one.read("SELECT n FROM one")] == [2]
    one.close()
    two.close()


def test_a_commit_that_fails_frees_the_file_too(path: Path) -> None:
    one, two = (Database(path, CHILDREN, durable=True) for _ in range(2))

    def orphan() -> None:
        with one.write():
            one.execute("INSERT INTO child VALUES (7)")

    with pytest.raises(sqlite3.IntegrityError):
        orphan()
    assert two.execute("INSERT INTO parent VALUES (1)") == 1
    with one.write():
        one.execute("INSERT INTO child VALUES (1)")
    assert [row["n"] for row in two.read("SELECT n FROM child")] == [1]
    one.close()
    two.close()


@pytest.mark.parametrize(
    ("error", "corrupt"),
    [(sqlite3.DatabaseError("made by hand"), False), (sqlite3.ProgrammingError("closed"), False), (OSError(), False)],
)
def test_errors_without_a_name_are_not_taken_for_a_broken_file(error: Exception, *, corrupt: bool) -> None:
    assert is_lost(error) is corrupt


# --- whether a file is whole ---


def test_that_others_write_meanwhile_makes_no_file_look_broken(path: Path) -> None:
    """Else a journal that many processes use would be moved aside while nothing is wrong with it."""
    table, seeded = (("one", "CREATE TABLE one (n INTEGER)"),), list[str | None]()
    count = "SELECT count(*) FROM one"
    with closing(Database(path, table, durable=False)) as other:

        def whole(read: Read, _: int) -> bool:
            (before,) = read(count)
            other.execute("INSERT INTO one VALUES (1)")
            return tuple(before) == tuple(read(count)[0])

        def seed(_: Database, name: str | None) -> None:
            seeded.append(name)

        opened(path, table, durable=False, seed=seed, whole=whole).close()
        renewed(path, table, durable=False, seed=seed, whole=whole).close()
        assert looked_at(path, count, whole) == (True, 3)
    assert seeded == [None]
    assert rows(path, count) == [(3,)]
