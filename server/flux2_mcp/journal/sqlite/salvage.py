"""Copies what can still be read of a lost journal into its replacement, so that tasks go on and caps count them.

A journal is lost when its file is broken, emptied, moved or deleted. Each row that can be read is copied unchanged,
except that invalid amounts and dates are removed. The unread part may hold money that was spent. So the new journal
names the lost one until the user says how much that was: see `SpentSums.lost`. Sync; called before another connection
can open the new file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import Struct

from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.money import FIRST_RELEASE
from flux2_mcp.system.sqlite_file import BEGUN, Database, Error, Read, Row, noted, reading, vanished

CHUNK_ROWS = 200
"""Rows that are read at once. If that fails, they are read one by one."""
MAX_BAD_ROWS = 50
"""After this many chunks without a readable row the search ends: a broken file's own bounds can't be trusted."""

FULL = ("task_newest", "task_recent", "task_digest", "task_spent")
"""Indices that hold every task."""

_THERE = "SELECT 1 FROM task WHERE account = :account AND key = :key"
_AMOUNTS = {name: task_rows.amount(name) for name in ("quoted", "reserved", "charged")}
_DATED = f"typeof(created_at) = 'real' AND created_at BETWEEN {FIRST_RELEASE} AND 253402300799"  # the year 9999
_COUNTABLE = (
    f"UPDATE task SET {', '.join(f'{name} = {amount}' for name, amount in _AMOUNTS.items())},"
    f" created_at = iif({_DATED}, created_at, :now) WHERE account = :account AND key = :key"
    f" AND ({' OR '.join(f'{name} IS NOT {amount}' for name, amount in _AMOUNTS.items())} OR NOT ({_DATED}))"
)
"""Removes amounts and a date that caps can't count. All other columns stay unchanged: a newer version may read them."""


class SalvageReport(Struct):
    """What was copied: the number of tasks, those without valid money or date, and whether nothing is missing."""

    tasks: int = 0
    uncounted: int = 0
    whole: bool = False


def salvage(before: Database | None, path: Path, name: str | None, into: Database) -> SalvageReport:
    """Copy what can be read.

    Args:
        before: The lost file, if this process has it open: so a file that was moved or deleted can still be read.
        path: Where the lost file was, and may still be.
        name: The name to record it under; None if another process has replaced it and has recorded what was not read.
        into: The new file.
    """
    done = SalvageReport()
    with into.write(), ExitStack() as stack:
        sources = [] if before is None else [before.read]
        with suppress(Error):
            # An empty file is not opened: SQLite would delete the log beside it.
            there = name is not None and path.exists() and path.stat().st_size
            sources += [stack.enter_context(reading(path))] if there else []
        for read in sources:
            done.whole = _take(read, into, done, path) or done.whole
        done.whole = done.whole and not done.uncounted
        if name is not None and not done.whole:
            into.execute("INSERT OR IGNORE INTO lost VALUES (?, ?, NULL)", (name, time.time()))
        if name is None and before is not None and done.whole:
            # Another process found the file gone and recorded it as lost; this process still had all of it open.
            with suppress(Error):
                into.execute("DELETE FROM lost WHERE missing IS NULL AND name = ?", (vanished(path, before.begun),))
    return done


def _take(read: Read, into: Database, done: SalvageReport, path: Path) -> bool:
    """Copy from one source. Returns whether all of it could be read and no task is missing."""
    seen, whole = 0, _copy(read, "lost", into)
    _copy(read, "holder", into)  # its loss does no harm: RunAPI says again which account a key belongs to
    _copy(read, "person", into)  # who can't be read has everybody's caps
    _copy(read, "token", into)  # what can't be read lets nobody in
    _copy(read, "consent", into)  # a yes is sent again within minutes, if at all
    _copy(read, "fact", into)  # servers state them again
    _copy_audit(read, into)
    for row in _rows(read, "task"):
        seen += row is not None
        if row is None or not (isinstance(row["account"], str) and isinstance(row["key"], str)):
            whole = False
            continue
        taken = _put(row, "task", into)
        done.tasks += taken
        name = {"account": row["account"], "key": row["key"]}
        if taken and into.execute(_COUNTABLE, name | {"now": time.time()}):
            done.uncounted += 1  # counted once: the same row of a second source is not inserted
        whole = whole and bool(taken or into.read(_THERE, name))
    return whole and seen == _number(read) and _reaches(read, path)


def _number(read: Read) -> int | None:
    """The number of tasks in the indices, or None if unknown. It shows that the table has lost a page.

    Indices have pages of their own. The largest number of any index is taken, since an index may be broken too.
    """
    counts = []
    for name in FULL:
        with suppress(Error):
            # The condition makes SQLite use the named index: without one it counts in the smallest.
            counts.append(int(read(f'SELECT count(*) FROM task INDEXED BY "{name}" WHERE n > 0')[0][0]))
    return max(counts, default=None)


def _reaches(read: Read, path: Path) -> bool:
    """Whether the newest task that is known to have been written can be read."""
    begun = None
    with suppress(Error, IndexError):
        begun = str(read(BEGUN)[0][0])
    try:
        return bool(read("SELECT coalesce(max(n), 0) FROM task")[0][0] >= noted(path, begun))
    except Error:
        return False


def _copy(read: Read, table: str, into: Database) -> bool:
    try:
        found = read(f"SELECT * FROM {table}")
    except Error:
        return False
    for row in found:
        _put(row, table, into)
    return True


def _copy_audit(read: Read, into: Database) -> None:
    """Copy who did what. Its rows have no key: one that a first source had already is told by all that it says."""
    names = [each["name"] for each in into.read("PRAGMA table_info(audit)") if each["name"] != "n"]
    there = f"SELECT 1 FROM audit WHERE {' AND '.join(f'{name} IS :{name}' for name in names)}"
    with suppress(Error):
        for row in _rows(read, "audit"):
            if row is not None and not into.read(there, {name: row[name] for name in names}):
                _put(row, "audit", into)


def _put(row: Row, table: str, into: Database) -> int:
    """Insert a row under a new number. Returns 0 if it is there already, or lacks a value that the table demands."""
    columns = {each["name"] for each in into.read(f"PRAGMA table_info({table})")} - {"n"}
    known = {name: row[name] for name in row.keys() if name in columns}  # noqa: SIM118  # a Row's own names
    names, marks = ", ".join(known), ", ".join(f":{name}" for name in known)
    return into.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", known)


def _rows(read: Read, table: str) -> Iterator[Row | None]:
    """All rows of a table that can be read, oldest first, and None for each that can't be read."""
    last, empty = 0, 0
    while empty < MAX_BAD_ROWS:
        try:
            found: list[Row | None] = [*_chunk(read, table, last)]
            if not found:
                return
            last = max(row["n"] for row in found if row is not None)
        except Error:
            found = [row for n in range(last + 1, last + 1 + CHUNK_ROWS) for row in _one(read, table, n)]
            last, empty = last + CHUNK_ROWS, 0 if any(found) else empty + 1
        yield from found


def _chunk(read: Read, table: str, last: int) -> list[Row]:
    """The next rows. A broken tree may lead back to rows that were read before; unchecked, that would never end."""
    found = read(f"SELECT * FROM {table} WHERE n > ? ORDER BY n LIMIT ?", (last, CHUNK_ROWS))
    numbers = [last, *(row["n"] for row in found)]
    if numbers != sorted(set(numbers)):
        raise Error("rows out of order")
    return found


def _one(read: Read, table: str, n: int) -> list[Row | None]:
    try:
        return list(read(f"SELECT * FROM {table} WHERE n = ?", (n,)))
    except Error:
        return [None]
