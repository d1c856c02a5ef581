"""Brings the schema up to date while servers of an earlier version work on it.

- A step commits together with its own record, so no step holds up others longer than it takes.
- A step has no statement timeout: with very many tasks it takes longer than any call may, and would never come to its end.
- Nor does it wait long for a lock: whoever asks for the same table afterwards would wait behind it, and a backup that runs
  holds each table for hours. It gives up its place, and tries again.
- Of several processes one does a step, or a slice of it, and the others wait; whoever comes next goes on.
- A step that adds up all tasks locks the table against writes until it commits. So with very many tasks, sums of hours are
  filled in slices. From the first moment a trigger adds what changes, but only of tasks up to the mark (`spent_fill`). A slice
  locks out writes, adds the next tasks as they are, and moves the mark; whoever waited for it sees the new mark. So each task is
  added once, as it was when the mark passed it, and each later change of it. Reads wait for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from flux2_mcp.journal.postgres import migrations
from flux2_mcp.journal.postgres.connection import Connection, Database, Error
from flux2_mcp.journal.postgres.migrations import LOCK, MIGRATIONS, SPENT, TEXT, pending

SLICE_TASKS = 20_000
"""Tasks of a slice: some tenths of a second, in which writes wait."""
LOCK_SECONDS, PAUSE_SECONDS = 2.0, 3.0
"""How long a step waits for a lock, and until it is tried again."""
LOCKED = "55P03"
MARK = "spent_fill"
_NEXT = "SELECT max(n) AS n, count(*) AS tasks FROM (SELECT n FROM task WHERE n > :mark ORDER BY n LIMIT :most) AS each"
_ADD = "ON CONFLICT (sandbox, whose, hour) DO UPDATE SET usd = spent.usd + excluded.usd"


def migrate(connection: Connection, *, slice_tasks: int = SLICE_TASKS) -> None:
    """Bring the schema up to date.

    Args:
        connection: It is in no transaction.
        slice_tasks: The maximum number of tasks that are added up while writes wait.
    """
    more = bool(pending(Database(connection)))
    while more:
        try:
            more = step(connection, slice_tasks)
        except Error as exc:
            if exc.sqlstate != LOCKED:
                raise
            time.sleep(PAUSE_SECONDS)


def step(connection: Connection, slice_tasks: int) -> bool:
    """Do the next step, or a slice of it, in one transaction. Args as of `migrate`. Returns whether more may wait."""
    database = Database(
        connection,
        [
            # Whatever the database's default is: what is added up is what stands there when the lock is held.
            ("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", ()),
            ("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))", {"lock": LOCK}),
            ("SET LOCAL statement_timeout = 0", ()),  # not before: nobody waits for the lock without end
            (f"SET LOCAL lock_timeout = '{LOCK_SECONDS:g}s'", ()),
        ],
    )
    try:
        waiting = pending(database)  # another process may have been faster
        if waiting:
            _do(connection, database, waiting, slice_tasks)
        database.end(("COMMIT", ()))
    except BaseException:
        with suppress(Error):
            connection.execute("ROLLBACK")
        raise
    return bool(waiting)


def _do(connection: Connection, database: Database, waiting: Sequence[tuple[str, str]], slice_tasks: int) -> None:
    name, script = waiting[0]
    if len(waiting) == len(MIGRATIONS):
        applied_at = "applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()"
        database.later(f"CREATE TABLE IF NOT EXISTS migration (name {TEXT} PRIMARY KEY, {applied_at})")
    if name == SPENT and _is_large(database, slice_tasks):
        done = _slice(connection, database, slice_tasks)
    else:
        database.later(script)
        done = True
    if done:
        database.later("INSERT INTO migration (name) VALUES (:name)", {"name": name})


def _is_large(database: Database, slice_tasks: int) -> bool:
    if _has(database, MARK):
        return True
    return bool(database.read("SELECT 1 FROM task OFFSET :most LIMIT 1", {"most": slice_tasks}))


def _has(database: Database, name: str) -> bool:
    sql = "SELECT 1 FROM pg_class WHERE relname = :name AND relnamespace = current_schema()::regnamespace"
    return bool(database.read(sql, {"name": name}))


def _slice(connection: Connection, database: Database, slice_tasks: int) -> bool:
    """Do the next bit of the sums of hours. Return whether it was the last."""
    for name, script in migrations.SPENT_INDICES.items():  # each in a transaction of its own
        if not _has(database, name):
            connection.execute(script.encode())
            return False
    connection.execute(b"LOCK TABLE task IN SHARE ROW EXCLUSIVE MODE")
    if not _has(database, MARK):
        for script in (
            "CREATE TABLE spent_fill AS SELECT CAST(-9223372036854775808 AS bigint) AS mark",
            migrations.SPENT_TABLE,
            migrations.spent_function("n <= (SELECT mark FROM spent_fill)"),
            migrations.SPENT_TRIGGERS,
        ):
            connection.execute(script.encode())
        return False
    mark = database.read("SELECT mark FROM spent_fill")[0]["mark"]
    found = database.read(_NEXT, {"mark": mark, "most": slice_tasks})[0]
    if found["tasks"]:
        values = {"mark": mark, "last": found["n"]}
        database.execute(f"{migrations.spent_of_tasks('n > :mark AND n <= :last')} {_ADD}", values)
        database.execute("UPDATE spent_fill SET mark = :last", values)
    if found["tasks"] == slice_tasks:
        return False
    connection.execute(migrations.spent_function().encode())  # all tasks are in, and nobody writes
    connection.execute(b"DROP TABLE spent_fill")
    return True
