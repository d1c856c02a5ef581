"""Lists of tasks in PostgreSQL. The rest of the tasks is what both databases read: `sql.tasks`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flux2_mcp.domain.lifecycle import UNFINISHED
from flux2_mcp.journal.listed import ListedTask
from flux2_mcp.journal.postgres import history
from flux2_mcp.journal.postgres.connection import Database, Row
from flux2_mcp.journal.postgres.server import JournalServer
from flux2_mcp.journal.records import ANY, Intent, TaskFilter, TaskRecord
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import IS_OPEN
from flux2_mcp.journal.sql.money import SqlMoney
from flux2_mcp.journal.sql.people import EVERYBODY, Whose
from flux2_mcp.journal.sql.store import Value
from flux2_mcp.journal.sql.tasks import SqlTasks
from flux2_mcp.journal.sqlite import glance
from flux2_mcp.system.text import folded

PAGE = "{seen} AND (:before IS NULL OR n < (SELECT n FROM task WHERE {seen} AND key = :before)) ORDER BY n DESC LIMIT :limit"


class PostgresTasks(SqlTasks):
    """See `contract.Tasks`.

    Args:
        server: The journal's database.
        money: See `SqlTasks`.
        whose: See `SqlTasks`.
    """

    def __init__(self, server: JournalServer, money: SqlMoney, whose: Whose = EVERYBODY) -> None:
        super().__init__(server, money, whose)
        self._server = server

    @staticmethod
    def columns(intent: Intent) -> Mapping[str, Value]:
        """PostgreSQL's own functions can't read each JSON that Python writes: searches and sums have their own columns."""
        return {"variant": intent.request.variant, "prompt": folded(intent.request.prompt)}

    async def recent(
        self, *, limit: int, wanted: TaskFilter = ANY, before: str | None = None
    ) -> tuple[TaskRecord, ...]:
        """See `contract.Tasks.recent`."""
        # Of open tasks there are few, and an index of their own has them.
        only_open = wanted.states is not None and UNFINISHED.issuperset(wanted.states)
        sql = f"SELECT * FROM task WHERE {history.MATCHES} AND {IS_OPEN if only_open else 'TRUE'} AND "

        def work(database: Database) -> tuple[TaskRecord, ...]:
            rows = self._rows
            values = history.matching(rows, wanted)
            page = PAGE.format(seen=rows.seen)
            return task_rows.records(database.read(sql + page, values | {"before": before, "limit": limit}))

        return self._server.warn_unreadable(await self._server.run(work))

    async def newest(self, *, limit: int, before: str | None = None) -> tuple[ListedTask, ...]:
        """See `contract.Tasks.newest`."""
        sql = "SELECT key, task_id, request, images, created_at, completed_at FROM task WHERE "

        def work(database: Database) -> tuple[ListedTask, ...]:
            rows = self._rows
            values = rows.values | {"before": before, "limit": limit}
            return tuple(map(_listed, database.read(sql + PAGE.format(seen=rows.seen), values)))

        return await self._server.run(work)


def _listed(row: Row) -> ListedTask:
    try:
        prompt = json.loads(row["request"])["prompt"]
    except (ValueError, LookupError, TypeError):
        prompt = None
    return glance.listed(row, prompt)
