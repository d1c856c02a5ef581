"""How tasks are claimed in PostgreSQL. Times are on the server's clock."""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread
from msgspec.structs import replace

from flux2_mcp.journal.postgres.connection import Database, Given
from flux2_mcp.journal.postgres.listening import Listener
from flux2_mcp.journal.postgres.server import JournalServer
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import UNFINISHED, UNHELD
from flux2_mcp.journal.sql.leases import SqlLeases, lease
from flux2_mcp.journal.sql.store import NOTHING

OURS = f"{UNFINISHED} AND owner = :owner"
FREE = f"{UNFINISHED} AND owner IS DISTINCT FROM :owner AND ({UNHELD} OR owner = ANY(:dead))"


class PostgresLeases(SqlLeases):
    """See `contract.Leases`.

    Args:
        server: The journal's database.
        listener: Counts what other processes write.
        is_dead: A hint: True for the name of a process that has certainly ended. It knows this machine's processes only.
    """

    def __init__(self, server: JournalServer, listener: Listener, is_dead: Callable[[str], bool]) -> None:
        super().__init__(server, is_dead)
        self._server = server
        self._listener = listener

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """See `contract.Leases.claim`."""
        if not await self._server.run(lambda database: self._finds(database, take=take)):
            return ()  # most calls: no transaction is needed
        found = await self._server.write(
            lambda database: self._claim(database, take=take), durable=False, alone=NOTHING
        )
        return tuple(record for record in self._server.warn_unreadable(found) if record.readable)

    async def version(self) -> int:
        """See `contract.Leases.version`."""
        if self._listener.listens:
            return self._listener.version()
        return await anyio.to_thread.run_sync(self._listener.version)

    def _finds(self, database: Database, *, take: bool) -> bool:
        mine_or_free = f"({OURS}) OR ({FREE})" if take else OURS
        return bool(database.read(f"SELECT 1 FROM task WHERE {mine_or_free} LIMIT 1", self._values(database)))

    def _claim(self, database: Database, *, take: bool) -> tuple[TaskRecord, ...]:
        """Take leases. A record that can't be read is left to a newer version: its stand-in is returned.

        A free task whose row another process has locked is that one's: it is skipped. Our own are waited for; a task
        that is left out would be given up.
        """
        values = self._values(database)
        rows = database.read(f"SELECT * FROM task WHERE {OURS} ORDER BY n FOR UPDATE", values)
        if take:
            rows += database.read(f"SELECT * FROM task WHERE {FREE} ORDER BY n FOR UPDATE SKIP LOCKED", values)
            rows.sort(key=lambda row: int(row["n"]))
        found = task_rows.records(rows)
        readable = [row["n"] for row, record in zip(rows, found, strict=True) if record.readable]
        # The fence of a task that this process already held stays. Others grow, so that former owners lose them.
        taken = "fence = fence + CASE WHEN owner = :owner THEN 0 ELSE 1 END, owner = :owner, lease_until = :ends"
        database.execute(f"UPDATE task SET {taken} WHERE n = ANY(:readable)", values | {"readable": readable})
        owner = self._server.owner
        return tuple(
            replace(record, owner=owner, fence=record.fence + (record.owner != owner)) if record.readable else record
            for record in found
        )

    def _values(self, database: Database) -> dict[str, Given]:
        account, owner, now = self._server.account, self._server.owner, self._server.now(database)
        sql = f"SELECT DISTINCT owner FROM task WHERE {UNFINISHED} AND owner <> :owner"
        others = [row["owner"] for row in database.read(sql, {"account": account, "owner": owner})]
        dead = [name for name in others if self._is_dead(name)]
        ends = now + self._server.lease_seconds
        return {"account": account, "owner": owner, "dead": dead, "ends": ends, **lease(now)}
