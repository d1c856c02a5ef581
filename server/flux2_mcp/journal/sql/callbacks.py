"""Marks on tasks for which RunAPI has called back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux2_mcp.domain.lifecycle import BEFORE_RESULT
from flux2_mcp.journal.sql.fragments import OPEN, UNFINISHED, among
from flux2_mcp.journal.sql.store import NOTHING

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Store


class SqlCallbacks:
    """See `contract.Callbacks`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def mark(self, push_url: str) -> None:
        """See `contract.Callbacks.mark`."""
        await self._mark("push_url", push_url)

    async def mark_task(self, task_id: str) -> None:
        """See `contract.Callbacks.mark_task`."""
        await self._mark("task_id", task_id)

    async def _mark(self, column: str, value: str) -> None:
        sql = f"UPDATE task SET nudged = 1 WHERE account = ? AND {column} = ? AND {among(BEFORE_RESULT)}"
        await self._store.write(
            lambda database: database.execute(sql, (self._store.account, value)),
            durable=False,
            alone=NOTHING,
            tell=True,
        )

    async def take(self) -> tuple[str, ...]:
        """See `contract.Callbacks.take`."""
        return await self._store.write(self._take, durable=False, alone=NOTHING)

    def _take(self, database: Database) -> tuple[str, ...]:
        sql = f"UPDATE {OPEN} SET nudged = 0 WHERE {UNFINISHED} AND owner = :owner AND nudged = 1 RETURNING key"
        values = {"account": self._store.account, "owner": self._store.owner}
        return tuple(row["key"] for row in database.read(sql, values))
