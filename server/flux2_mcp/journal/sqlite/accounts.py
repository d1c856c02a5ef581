"""Which tasks a key may see, in SQLite: those of every key of its RunAPI account.

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
from flux2_mcp.journal.sqlite import names, task_rows
from flux2_mcp.journal.sqlite.fragments import IS_OPEN, OPEN, UNHELD
from flux2_mcp.journal.sqlite.names import HERE, first_of

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database, Read, Value

_NAMES = """
WITH RECURSIVE name (account) AS (
  SELECT min(account) FROM task
  UNION
  SELECT (SELECT min(account) FROM task WHERE account > name.account) FROM name WHERE account IS NOT NULL
)
SELECT account FROM name UNION SELECT account FROM holder UNION SELECT tasks FROM holder
"""
"""Steps from each name to the next in the index: there are few names, and many tasks of each."""
_ADOPTED = "key = 'adopted-' || task_id"
"""The task was recorded because a caller asked for its id; see `records.adopted`."""


class SqliteAccounts:
    """See `contract.Accounts`."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    async def belongs(self, account_id: str) -> None:
        """See `contract.Accounts.belongs`."""
        await self._file.write(lambda database: belongs(self._file.name, account_id, database))

    async def known(self) -> bool:
        """See `contract.Accounts.known`."""
        return await self._file.run(lambda database: names.known(self._file.name, database.read))

    async def has_others(self) -> bool:
        """See `contract.Accounts.has_others`."""
        return await self._file.run(lambda database: names.has_others(self._file.name, database.read))

    async def foreign_tasks(self) -> tuple[TaskRecord, ...]:
        """See `contract.Accounts.foreign_tasks`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            now = self._file.monotonic()
            return foreign_tasks(self._file.name, now, now + LEASE_SECONDS, database.read)

        return await self._file.run(work)

    async def service_of_task(self, ident: str) -> str | None:
        """See `contract.Accounts.service_of_task`."""
        return await self._file.run(lambda database: service_of_task(self._file.name, ident, database.read))


def spelled(name: str) -> str:
    """The name, with its service in the one spelling."""
    service, colon, key = name.rpartition(":")
    return f"{one_spelling(service)}:{key}" if colon else name


def respell(database: Database) -> None:
    """Bring names that an earlier version wrote as typed to the one spelling, so that each task keeps its owner."""
    there = [str(row[0]) for row in database.read(_NAMES) if isinstance(row[0], str)]
    others = [name for name in there if spelled(name) != name]
    if not others:
        return
    with database.write():
        known = database.read("SELECT account, holder FROM holder ORDER BY rowid")
        database.execute("DELETE FROM holder")
        for name in others:
            _move(name, spelled(name), database)
        for row in known:
            belongs(spelled(str(row["account"])), str(row["holder"]), database)


def _move(before: str, after: str, database: Database) -> None:
    """Move everything recorded under one name to another, except a key or a task id that the other name has already."""
    values: dict[str, Value] = {"before": before, "after": after}
    # A task may be recorded twice: created under one name, adopted under the other. Only the first knows its request.
    for twin, created in ((":before", ":after"), (":after", ":before")):
        made = f"SELECT task_id FROM task WHERE account = {created} AND NOT {_ADOPTED}"
        database.execute(f"DELETE FROM task WHERE account = {twin} AND {_ADOPTED} AND task_id IN ({made})", values)
    for table in ("task", "upload"):
        database.execute(f"UPDATE OR IGNORE {table} SET account = :after WHERE account = :before", values)


def take_over(name: str, task_id: str, owner: str, until: float, database: Database) -> bool:
    """Take over a task recorded under another name: RunAPI showed it to this key. Returns whether there is one."""
    sql = (
        "UPDATE OR IGNORE task SET account = :tasks, owner = :owner, fence = fence + 1, lease_until = :until"
        " WHERE task_id = :task_id AND instr(account, ':')"
    )
    values: dict[str, Value] = {"tasks": names.tasks_of(name, database.read), "owner": owner, "until": until}
    return bool(service_of(name)) and database.execute(sql, values | {"task_id": task_id}) > 0


def belongs(name: str, holder: str, database: Database) -> None:
    """Record which account the key belongs to, and move its tasks there. Call inside `Database.write`."""
    values: dict[str, Value] = {"name": name, "holder": holder, **names.service(name)}
    sql = f"SELECT tasks FROM holder WHERE holder = :holder AND {HERE} ORDER BY rowid LIMIT 1"
    found = database.read(sql, values)
    values["tasks"] = tasks = first_of(found) or name
    if database.execute("INSERT OR IGNORE INTO holder VALUES (:name, :holder, :tasks)", values) and tasks != name:
        _move(name, tasks, database)


def foreign_tasks(name: str, now: float, until: float, read: Read) -> tuple[TaskRecord, ...]:
    """The open tasks that no key of this account made on this service and that no living process holds."""
    if not service_of(name):
        return ()
    sql = (
        f"SELECT * FROM {OPEN} WHERE {IS_OPEN} AND instr(account, ':') AND account <> :tasks"
        " AND account NOT IN (SELECT account FROM holder WHERE tasks = :tasks)"
        f" AND ({UNHELD}) ORDER BY n"
    )
    found = task_rows.records(read(sql, {"tasks": names.tasks_of(name, read), "now": now, "until": until}))
    return tuple(record for record in found if spelled(record.account) != name)


def service_of_task(name: str, ident: str, read: Read) -> str | None:
    """The service at which another key made the task with this id or key, this service first; or None."""
    sql = (
        f"SELECT account FROM task WHERE (task_id = :ident OR key = :ident) AND instr(account, ':')"
        f" ORDER BY {HERE} DESC, n DESC LIMIT 1"
    )
    found = read(sql, {"ident": ident, **names.service(name)}) if service_of(name) else []
    return service_of(str(found[0]["account"])) if found else None
