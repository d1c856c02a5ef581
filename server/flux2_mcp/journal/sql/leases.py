"""Leases: which process looks after which task. How tasks are claimed is each database's own.

Times are on the clock of `Store.now`. It is always read inside the transaction, so that a time written by an earlier
transaction is never later than now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import OPEN, UNDER_WAY, UNFINISHED, UNHELD
from flux2_mcp.journal.sql.people import Rows
from flux2_mcp.journal.sql.store import NOTHING

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Store, Value


class SqlLeases:
    """See `contract.Leases`.

    Args:
        store: The journal's database.
        is_dead: A hint: True for the name of a process that has certainly ended. Its leases are free before they lapse.
    """

    def __init__(self, store: Store, is_dead: Callable[[str], bool]) -> None:
        self._store = store
        self._is_dead = is_dead

    async def offer(self, record: TaskRecord) -> None:
        """See `contract.Leases.offer`."""
        sql = "UPDATE task SET lease_until = NULL WHERE account = ? AND key = ? AND owner = ? AND fence = ?"
        store = self._store
        await store.write(
            lambda database: database.execute(sql, (store.account, record.key, store.owner, record.fence)),
            durable=False,
            alone=NOTHING,
            whole=True,
        )

    async def hold(self, record: TaskRecord) -> None:
        """See `contract.Leases.hold`."""
        store = self._store
        await store.run(lambda database: task_rows.held(database, Rows(store.account), store.owner, record))

    async def unfinished(self) -> int:
        """See `contract.Leases.unfinished`."""
        sql = f"SELECT count(*) FROM {OPEN} WHERE {UNFINISHED}"
        return await self._store.run(lambda database: int(database.read(sql, {"account": self._store.account})[0][0]))

    async def release(self) -> None:
        """See `contract.Leases.release`."""
        sql = f"UPDATE {OPEN} SET lease_until = NULL WHERE {UNFINISHED} AND owner = :owner"
        store = self._store
        await store.write(
            lambda database: database.execute(sql, {"account": store.account, "owner": store.owner}),
            durable=False,
            alone=NOTHING,
            whole=True,
        )


def lease(now: float) -> dict[str, Value]:
    """The values of `UNHELD`; `until` is the latest end that a lease can have, of whatever version."""
    return {"now": now, "until": now + LEASE_SECONDS}


def unreadable_under_way(account: str, now: float, database: Database) -> int:
    """The number of tasks under way that can't be read. Only tasks that no process holds are read, and they are few."""
    values = {"account": account, **lease(now)}
    found = database.read(f"SELECT * FROM {OPEN} WHERE {UNDER_WAY} AND ({UNHELD})", values)
    return len(found) - len(task_rows.readable(found))
