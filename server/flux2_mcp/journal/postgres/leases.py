"""How tasks are claimed in PostgreSQL. Times are on the server's clock."""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread

from flux2_mcp.journal.owners import LEASE_SECONDS
from flux2_mcp.journal.postgres.connection import Database, Given, Row
from flux2_mcp.journal.postgres.listening import Listener
from flux2_mcp.journal.postgres.server import CLOCK, TAKE_SECONDS, JournalServer
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import UNFINISHED, UNHELD
from flux2_mcp.journal.sql.leases import SqlLeases
from flux2_mcp.journal.sql.store import NOTHING

OTHERS = f"SELECT DISTINCT owner FROM task WHERE {UNFINISHED} AND owner <> :owner"
OURS = f"{UNFINISHED} AND owner = :owner AND n <> ALL(:unreadable)"
RENEW = f"UPDATE task SET lease_until = :ends WHERE n IN (SELECT n FROM task WHERE {OURS} ORDER BY n FOR UPDATE) RETURNING *"
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
        self._dead: list[str] = []
        self._unreadable: list[int] = []

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """See `contract.Leases.claim`."""
        rows, free = await self._server.write(self._renew, durable=False, alone=NOTHING, tell=False, whole=True)
        if take and free and self._server.slowness.seconds < TAKE_SECONDS:
            rows += await self._server.write(self._take, durable=False, alone=NOTHING)
        rows.sort(key=lambda row: int(row["n"]))
        found = self._server.warn_unreadable(task_rows.records(rows))
        self._unreadable = [row["n"] for row, record in zip(rows, found, strict=True) if not record.readable]
        return tuple(record for record in found if record.readable)

    async def version(self) -> int:
        """See `contract.Leases.version`."""
        if self._listener.listens:
            return self._listener.version()
        return await anyio.to_thread.run_sync(self._listener.version)

    def _renew(self, database: Database) -> tuple[list[Row], bool]:
        """Renew our leases, and see whether there is a free task: all in one way to the server and back.

        Nothing is written to a record that can't be read. Our own rows are waited for, in one order.
        """
        values = self._values() | {"unreadable": self._unreadable}
        owners, free, rows = database.together(
            [
                (OTHERS, values),
                (self._timed(f"SELECT 1 FROM task WHERE {FREE} LIMIT 1"), values),
                (self._timed(RENEW), values),
            ]
        )
        self._dead = [row["owner"] for row in owners if self._is_dead(row["owner"])]
        return rows, bool(free or self._dead)

    def _take(self, database: Database) -> list[Row]:
        """Take free tasks. A record that can't be read is left to a newer version: its row comes as it is.

        A task whose row another process has locked is that one's: it is skipped.
        """
        values = self._values()
        rows = database.read(self._timed(f"SELECT * FROM task WHERE {FREE} ORDER BY n FOR UPDATE SKIP LOCKED"), values)
        found = dict(zip((row["n"] for row in rows), task_rows.records(rows), strict=True))
        readable = [n for n, record in found.items() if record.readable]
        # Fences grow, so that former owners lose their tasks.
        taken = "fence = fence + 1, owner = :owner, lease_until = :ends"
        sql = self._timed(f"UPDATE task SET {taken} WHERE n = ANY(:readable) RETURNING *")
        ours = database.read(sql, values | {"readable": readable}) if readable else []
        return [*(row for row in rows if not found[row["n"]].readable), *ours]

    def _timed(self, sql: str) -> str:
        """The statement with the clock in it: so the time need not be fetched first."""
        clock = "(SELECT :clock)" if self._server.clock is not None else f"(SELECT {CLOCK})"
        return (
            sql.replace(":now", clock)
            .replace(":until", f"{clock} + {LEASE_SECONDS}")
            .replace(":ends", f"{clock} + :life")
        )

    def _values(self) -> dict[str, Given]:
        clock = self._server.clock
        return {
            "account": self._server.account,
            "owner": self._server.owner,
            "dead": self._dead,
            "clock": None if clock is None else clock(),
            "life": self._server.lease_seconds,
        }
