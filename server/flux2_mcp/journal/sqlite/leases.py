"""Leases in SQLite: which process looks after which task.

Times are on the machine's monotonic clock, which starts anew with the machine. It is always read inside the
transaction, so that a time written by an earlier transaction is never later than now.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sqlite import task_rows
from flux2_mcp.journal.sqlite.fragments import OPEN, UNDER_WAY, UNFINISHED, UNHELD

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database, Value


class SqliteLeases:
    """See `contract.Leases`.

    Args:
        file: The journal's file.
        is_dead: A hint: True for the name of a process that has certainly ended. Its leases are free before they lapse.
    """

    def __init__(self, file: JournalFile, is_dead: Callable[[str], bool]) -> None:
        self._file = file
        self._is_dead = is_dead

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """See `contract.Leases.claim`."""
        found = self._file.warn_unreadable(await self._file.run(lambda database: self._claim(take, database)))
        return tuple(record for record in found if record.readable)

    async def offer(self, record: TaskRecord) -> None:
        """See `contract.Leases.offer`."""
        sql = "UPDATE task SET lease_until = NULL WHERE account = ? AND key = ? AND owner = ? AND fence = ?"
        file = self._file
        await file.write(
            lambda database: database.execute(sql, (file.account, record.key, file.owner, record.fence)), durable=False
        )

    async def hold(self, record: TaskRecord) -> None:
        """See `contract.Leases.hold`."""
        file = self._file
        await file.run(lambda database: task_rows.held(database, file.account, file.owner, record))

    async def unfinished(self) -> int:
        """See `contract.Leases.unfinished`."""
        sql = f"SELECT count(*) FROM {OPEN} WHERE {UNFINISHED}"
        return await self._file.run(lambda database: int(database.read(sql, {"account": self._file.account})[0][0]))

    async def release(self) -> None:
        """See `contract.Leases.release`."""
        sql = f"UPDATE {OPEN} SET lease_until = NULL WHERE {UNFINISHED} AND owner = :owner"
        file = self._file
        await file.write(
            lambda database: database.execute(sql, {"account": file.account, "owner": file.owner}), durable=False
        )

    async def version(self) -> int:
        """See `contract.Leases.version`."""
        return await self._file.run(lambda database: database.version())

    def _claim(self, take: bool, database: Database) -> tuple[TaskRecord, ...]:  # noqa: FBT001  # handed on by `claim`
        """Take leases. A record that can't be read is left to a newer version: its stand-in is returned."""
        file = self._file
        owners = database.read(f"SELECT DISTINCT owner FROM {OPEN} WHERE {UNFINISHED}", {"account": file.account})
        # An owner that is no text comes from a broken record: that record waits for its lease to lapse.
        names = [row["owner"] for row in owners if isinstance(row["owner"], str) and row["owner"] != file.owner]
        dead = json.dumps([name for name in names if self._is_dead(name)])
        free = f"{UNFINISHED} AND (owner = :owner OR :take AND ({UNHELD} OR owner IN (SELECT value FROM json_each(:dead))))"
        values: dict[str, Value] = {"account": file.account, "owner": file.owner, "dead": dead, "take": take}
        # Most calls find nothing to take; then this process need not block the writes of others.
        if not database.read(f"SELECT 1 FROM {OPEN} WHERE {free} LIMIT 1", values | _lease(file.monotonic())):
            return ()
        with database.write(durable=False):
            values |= _lease(file.monotonic())
            rows = database.read(f"SELECT * FROM {OPEN} WHERE {free} ORDER BY n", values)
            found = task_rows.records(rows)
            unread = [row["n"] for row, record in zip(rows, found, strict=True) if not record.readable]
            values["unread"] = json.dumps(unread)
            # The fence of a task that this process already held stays. Others grow, so that former owners lose them.
            taken = "fence = fence + (owner IS NOT :owner), owner = :owner, lease_until = :until"
            known = "n NOT IN (SELECT value FROM json_each(:unread))"
            database.execute(f"UPDATE {OPEN} SET {taken} WHERE {free} AND {known}", values)
            return tuple(
                replace(record, owner=file.owner, fence=record.fence + (record.owner != file.owner))
                if record.readable
                else record
                for record in found
            )


def _lease(now: float) -> dict[str, Value]:
    """The values of `UNHELD`; `until` is also the end of a lease that is taken now."""
    return {"now": now, "until": now + LEASE_SECONDS}


def unreadable_under_way(account: str, now: float, database: Database) -> int:
    """The number of tasks under way that can't be read. Only tasks that no process holds are read, and they are few."""
    values = {"account": account, **_lease(now)}
    found = database.read(f"SELECT * FROM {OPEN} WHERE {UNDER_WAY} AND ({UNHELD})", values)
    return len(found) - len(task_rows.readable(found))
