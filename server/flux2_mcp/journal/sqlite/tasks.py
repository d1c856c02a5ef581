"""Lists of tasks in SQLite. The rest of the tasks is what both databases read: `sql.tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux2_mcp.domain.lifecycle import UNFINISHED
from flux2_mcp.journal.listed import ListedTask
from flux2_mcp.journal.records import ANY, TaskFilter, TaskRecord
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import IS_OPEN, OPEN
from flux2_mcp.journal.sql.tasks import SqlTasks
from flux2_mcp.journal.sqlite import glance, history

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database


class SqliteTasks(SqlTasks):
    """See `contract.Tasks`."""

    async def recent(
        self,
        *,
        limit: int,
        wanted: TaskFilter = ANY,
        before: str | None = None,
    ) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.recent`."""
        # Of open tasks there are few, and an index of their own has them.
        only_open = wanted.states is not None and UNFINISHED.issuperset(wanted.states)
        source = f"{OPEN} WHERE {IS_OPEN}" if only_open else "task WHERE TRUE"

        def work(database: Database) -> tuple[TaskRecord, ...]:
            rows = self._rows
            sql = (
                f"SELECT * FROM {source} AND {rows.seen} AND {history.MATCHES}"
                f" AND (:before IS NULL OR n < (SELECT n FROM task WHERE {rows.seen} AND key = :before))"
                " ORDER BY n DESC LIMIT :limit"
            )
            values = history.matching(rows, wanted)
            return task_rows.records(database.read(sql, values | {"before": before, "limit": limit}))

        return self._store.warn_unreadable(await self._store.run(work))

    async def newest(self, *, limit: int, before: str | None = None) -> tuple[ListedTask, ...]:
        """See `contract.Tasks.newest`."""

        def work(database: Database) -> tuple[ListedTask, ...]:
            rows = self._rows
            return glance.newest(database.read, rows.values, limit=limit, before=before, seen=rows.seen)

        return await self._store.run(work)
