"""Checks that a journal holds everything that was written, as far as that is cheap. They run once for each opening.

SQLite itself notices a page that is invalid. It does not notice an index that lacks rows (an empty page is valid), nor
a deleted log after its process was killed: then the file has an older state, without the latest tasks.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Read

_COLUMNS = re.compile(r"ON task \((.+)\)$")
LOOKED_BACK_SECONDS = 86_400.0
LEAST_ROWS, MOST_ROWS = 100, 10_000
"""The tasks of the last day are counted, so many at least and at most: caps and joins look no further back, and a large
journal opens fast."""


def whole(read: Read, least: int) -> bool:
    """Whether the newest tasks are there, and every index has the tasks that the table has.

    Args:
        read: Runs a query on the file.
        least: The number `n` of a task that is known to have been written.

    Raises:
        sqlite3.Error: The file can't be read.
    """
    newest = int(read("SELECT coalesce(max(n), 0) FROM task")[0][0])
    if newest < least:
        return False
    found = read("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'task' ORDER BY name")
    since = (_since(read, newest),)
    rows = read("SELECT count(*) FROM task NOT INDEXED WHERE n > ?", since)[0][0]
    has_totals = read("SELECT 1 FROM sqlite_schema WHERE name = 'total'")  # an earlier version's file has none yet
    if has_totals and int(read("SELECT coalesce(sum(tasks), 0) FROM total")[0][0]) < rows:
        return False
    return _counted(read, since) == rows and all(_has_all(read, row["name"], row["sql"], since) for row in found)


def _counted(read: Read, since: tuple[int]) -> int:
    """How many tasks after `since` the index of the newest has, without a look at those before."""
    step = "SELECT min(account) FROM task INDEXED BY task_newest WHERE account > one"
    accounts = f"""
WITH RECURSIVE each (one) AS (
  SELECT min(account) FROM task INDEXED BY task_newest UNION ALL SELECT ({step}) FROM each WHERE one IS NOT NULL
)
SELECT one FROM each WHERE one IS NOT NULL
"""
    count = "SELECT count(*) FROM task INDEXED BY task_newest WHERE account = ? AND n > ?"
    return sum(read(count, (row["one"], *since))[0][0] for row in read(accounts))


def _has_all(read: Read, name: str, sql: str | None, since: tuple[int]) -> bool:
    """Whether an index has every task after `since` that belongs into it: each is looked up there."""
    head, _, condition = str(sql or "").partition(" WHERE ")
    columns = _COLUMNS.search(head)
    if columns is None:  # SQLite's own, of a UNIQUE constraint
        parts = [str(row["name"]) for row in read(f'PRAGMA index_info("{name}")')]
    else:
        parts = columns[1].split(", ")
    equal = " AND ".join(f"{_of('there', part)} IS {_of('here', part)}" for part in parts)
    here, there = (_of(table, condition) if condition else "1" for table in ("here", "there"))
    lost = (
        f'SELECT 1 FROM task AS here NOT INDEXED WHERE here.n > ? AND {here} AND NOT EXISTS (SELECT 1 FROM task AS there INDEXED BY "{name}"'
        f" WHERE {there} AND {equal} AND there.n = here.n) LIMIT 1"
    )
    return not read(lost, since)


def _of(table: str, expression: str) -> str:
    """An expression of an index, of one of two tables: each begins with the name of its only column."""
    return f"({table}.{expression})"


def _since(read: Read, newest: int) -> int:
    """The number `n` after which tasks are counted."""
    first, last = newest - MOST_ROWS, newest - LEAST_ROWS
    latest = "(SELECT created_at FROM task NOT INDEXED ORDER BY n DESC LIMIT 1)"
    older = f"n > :first AND created_at < {latest} - :back"
    found = read(
        f"SELECT n FROM task NOT INDEXED WHERE {older} ORDER BY n DESC LIMIT 1",
        {"first": first, "back": LOOKED_BACK_SECONDS},
    )
    return min(last, int(found[0][0]) if found else first)


def has_left_images(path: Path) -> bool:
    """Whether images beside the journal show that there was one: a task made each image, and images outlive its files.

    Args:
        path: The journal, or where it would be.
    """
    with suppress(OSError):
        return any(path.with_name("images").iterdir())
    return False
