"""Which tasks a key may see: those of every key of its RunAPI account.

A task is recorded under a name made from the service and the key that made it (`engine.backend.account_name`). If a key
is replaced, its tasks would have no owner. So the journal records which RunAPI account each name belongs to, as RunAPI
said, and all tasks of one account are recorded under the first name of that account.

The name spells the service in one way. Earlier versions kept the spelling that the user typed: see `respell`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux2_mcp.domain.urls import one_spelling
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import TaskRecord, service_of
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import IS_OPEN, OPEN, UNHELD
from flux2_mcp.journal.sqlite import names
from flux2_mcp.journal.sqlite.names import HERE, first_of

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Read, Store, Value

_ADOPTED = "key = 'adopted-' || task_id"
"""The task was recorded because a caller asked for its id; see `records.adopted`."""
TWINS = {"task": "twin.key = task.key OR twin.task_id = task.task_id", "upload": "twin.identity = upload.identity"}
"""For each table that names accounts: what an account has once."""


class SqlAccounts:
    """See `contract.Accounts`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def belongs(self, account_id: str) -> None:
        """See `contract.Accounts.belongs`."""
        await self._store.write(lambda database: belongs(self._store.name, account_id, database))

    async def known(self) -> bool:
        """See `contract.Accounts.known`."""
        return await self._store.run(lambda database: names.known(self._store.name, database.read))

    async def has_others(self) -> bool:
        """See `contract.Accounts.has_others`."""
        return await self._store.run(lambda database: names.has_others(self._store.name, database.read))

    async def foreign_tasks(self) -> tuple[TaskRecord, ...]:
        """See `contract.Accounts.foreign_tasks`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            now = self._store.now(database)
            return foreign_tasks(self._store.name, now, now + LEASE_SECONDS, database.read)

        return await self._store.run(work)

    async def service_of_task(self, ident: str) -> str | None:
        """See `contract.Accounts.service_of_task`."""
        return await self._store.run(lambda database: service_of_task(self._store.name, ident, database.read))


def spelled(name: str) -> str:
    """The name, with its service in the one spelling."""
    service, colon, key = name.rpartition(":")
    return f"{one_spelling(service)}:{key}" if colon else name


def move(before: str, after: str, database: Database) -> None:
    """Move everything recorded under one name to another, except a key or a task id that the other name has already."""
    values: dict[str, Value] = {"before": before, "after": after}
    # A task may be recorded twice: created under one name, adopted under the other. Only the first knows its request.
    for twin, created in ((":before", ":after"), (":after", ":before")):
        made = f"SELECT task_id FROM task WHERE account = {created} AND NOT {_ADOPTED}"
        database.execute(f"DELETE FROM task WHERE account = {twin} AND {_ADOPTED} AND task_id IN ({made})", values)
    for table, same in TWINS.items():
        twin = f"SELECT 1 FROM {table} AS twin WHERE twin.account = :after AND ({same})"
        sql = f"UPDATE {table} SET account = :after WHERE account = :before AND NOT EXISTS ({twin})"
        database.execute(sql, values)


def take_over(name: str, task_id: str, owner: str, until: float, database: Database) -> bool:
    """Take over a task recorded under another name: RunAPI showed it to this key. Returns whether there is one."""
    sql = (
        "UPDATE task SET account = :tasks, owner = :owner, fence = fence + 1, lease_until = :until"
        " WHERE task_id = :task_id AND account LIKE '%:%'"
        f" AND NOT EXISTS (SELECT 1 FROM task AS twin WHERE twin.account = :tasks AND ({TWINS['task']}))"
    )
    values: dict[str, Value] = {"tasks": names.tasks_of(name, database.read), "owner": owner, "until": until}
    return bool(service_of(name)) and database.execute(sql, values | {"task_id": task_id}) > 0


def belongs(name: str, holder: str, database: Database) -> None:
    """Record which account the key belongs to, and move its tasks there. Call inside `Store.write`."""
    values: dict[str, Value] = {"name": name, "holder": holder, **names.service(name)}
    sql = f"SELECT tasks FROM holder WHERE holder = :holder AND {HERE} ORDER BY rowid LIMIT 1"
    found = database.read(sql, values)
    values["tasks"] = tasks = first_of(found) or name
    sql = "INSERT INTO holder (account, holder, tasks) VALUES (:name, :holder, :tasks) ON CONFLICT (account) DO NOTHING"
    if database.execute(sql, values) and tasks != name:
        move(name, tasks, database)


def foreign_tasks(name: str, now: float, until: float, read: Read) -> tuple[TaskRecord, ...]:
    """The open tasks that no key of this account made on this service and that no living process holds."""
    if not service_of(name):
        return ()
    sql = (
        f"SELECT * FROM {OPEN} WHERE {IS_OPEN} AND account LIKE '%:%' AND account <> :tasks"
        " AND account NOT IN (SELECT account FROM holder WHERE tasks = :tasks)"
        f" AND ({UNHELD}) ORDER BY n"
    )
    found = task_rows.records(read(sql, {"tasks": names.tasks_of(name, read), "now": now, "until": until}))
    return tuple(record for record in found if spelled(record.account) != name)


def service_of_task(name: str, ident: str, read: Read) -> str | None:
    """The service at which another key made the task with this id or key, this service first; or None."""
    sql = (
        f"SELECT account FROM task WHERE (task_id = :ident OR key = :ident) AND account LIKE '%:%'"
        f" ORDER BY {HERE} DESC, n DESC LIMIT 1"
    )
    found = read(sql, {"ident": ident, **names.service(name)}) if service_of(name) else []
    return service_of(str(found[0]["account"])) if found else None
