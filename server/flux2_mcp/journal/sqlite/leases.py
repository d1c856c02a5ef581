"""How tasks are claimed in SQLite. Times are on the machine's monotonic clock, which starts anew with the machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import OPEN, UNFINISHED, UNHELD
from flux2_mcp.journal.sql.leases import SqlLeases, lease

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database, Value


class SqliteLeases(SqlLeases):
    """See `contract.Leases`."""

    _store: JournalFile

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """See `contract.Leases.claim`."""
        found = self._store.warn_unreadable(await self._store.run(lambda database: self._claim(take, database)))
        return tuple(record for record in found if record.readable)

    async def version(self) -> int:
        """See `contract.Leases.version`."""
        return await self._store.run(lambda database: database.version())

    def _claim(self, take: bool, database: Database) -> tuple[TaskRecord, ...]:  # noqa: FBT001  # handed on by `claim`
        """Take leases. A record that can't be read is left to a newer version: its stand-in is returned."""
        file = self._store
        owners = database.read(f"SELECT DISTINCT owner FROM {OPEN} WHERE {UNFINISHED}", {"account": file.account})
        # An owner that is no text comes from a broken record: that record waits for its lease to lapse.
        names = [row["owner"] for row in owners if isinstance(row["owner"], str) and row["owner"] != file.owner]
        dead = json.dumps([name for name in names if self._is_dead(name)])
        free = f"{UNFINISHED} AND (owner = :owner OR :take AND ({UNHELD} OR owner IN (SELECT value FROM json_each(:dead))))"
        values: dict[str, Value] = {"account": file.account, "owner": file.owner, "dead": dead, "take": take}
        # Most calls find nothing to take; then this process need not block the writes of others.
        if not database.read(f"SELECT 1 FROM {OPEN} WHERE {free} LIMIT 1", values | lease(file.now(database))):
            return ()
        with database.write(durable=False):
            values |= lease(file.now(database))
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
