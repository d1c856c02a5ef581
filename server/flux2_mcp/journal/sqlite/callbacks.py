"""Marks on tasks for which RunAPI has called back, in SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux2_mcp.domain.lifecycle import BEFORE_RESULT
from flux2_mcp.journal.sqlite.fragments import OPEN, UNFINISHED, among

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database


class SqliteCallbacks:
    """See `contract.Callbacks`."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    async def mark(self, push_url: str) -> None:
        """See `contract.Callbacks.mark`."""
        await self._mark("push_url", push_url)

    async def mark_task(self, task_id: str) -> None:
        """See `contract.Callbacks.mark_task`."""
        await self._mark("task_id", task_id)

    async def _mark(self, column: str, value: str) -> None:
        sql = f"UPDATE task SET nudged = 1 WHERE account = ? AND {column} = ? AND {among(BEFORE_RESULT)}"
        await self._file.write(lambda database: database.execute(sql, (self._file.account, value)), durable=False)

    async def take(self) -> tuple[str, ...]:
        """See `contract.Callbacks.take`."""
        return await self._file.write(self._take, durable=False)

    def _take(self, database: Database) -> tuple[str, ...]:
        marked = f"{UNFINISHED} AND owner = :owner AND nudged = 1"
        values = {"account": self._file.account, "owner": self._file.owner}
        keys = tuple(row["key"] for row in database.read(f"SELECT key FROM {OPEN} WHERE {marked}", values))
        if keys:
            database.execute(f"UPDATE {OPEN} SET nudged = 0 WHERE {marked}", values)
        return keys
