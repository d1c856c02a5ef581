"""Whose tasks a key may have, in SQLite: those of every key of its RunAPI account.

Tasks stand under a name that is made from the service and the key that made them (`engine.backend.account_name`). A key that is replaced
would leave them to nobody. So it is written down which account of RunAPI each name belongs to, as RunAPI has told, and the
tasks of one account all stand under the name that was written down first.

The service is spelled in one way. Earlier versions took it as it was typed: see `respell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux2_mcp.domain.urls import one_spelling
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import TaskRecord, service_of
from flux2_mcp.journal.sqlite import task_rows
from flux2_mcp.journal.sqlite.fragments import IS_OPEN, OPEN, UNHELD

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database, Read, Row, Value

_HERE = "account > :first AND account < :last AND instr(substr(account, length(:first) + 1), ':') = 0"
"""On the same service: names begin with it, a colon follows, and what follows that holds none."""

_NAMES = """
WITH RECURSIVE name (account) AS (
  SELECT min(account) FROM task
  UNION
  SELECT (SELECT min(account) FROM task WHERE account > name.account) FROM name WHERE account IS NOT NULL
)
SELECT account FROM name UNION SELECT account FROM holder UNION SELECT tasks FROM holder
"""
"""From each name to the next in the index: there are few names, and many tasks of each."""
_ADOPTED = "key = 'adopted-' || task_id"
"""Written down because its id was asked for; see `records.adopted`."""


class SqliteAccounts:
    """See `contract.Accounts`."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    async def belongs(self, account_id: str) -> None:
        """See `contract.Accounts.belongs`."""
        await self._file.write(lambda database: belongs(self._file.name, account_id, database))

    async def known(self) -> bool:
        """See `contract.Accounts.known`."""
        return await self._file.run(lambda database: known(self._file.name, database.read))

    async def has_others(self) -> bool:
        """See `contract.Accounts.has_others`."""
        return await self._file.run(lambda database: has_others(self._file.name, database.read))

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
    """The name with its service in the one spelling."""
    service, colon, key = name.rpartition(":")
    return f"{one_spelling(service)}:{key}" if colon else name


def respell(database: Database) -> None:
    """Bring names that an earlier version wrote as they were typed to the one spelling, so that no task is left to nobody."""
    names = [str(row[0]) for row in database.read(_NAMES) if isinstance(row[0], str)]
    others = [name for name in names if spelled(name) != name]
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
    """Bring all that stands under one name to another. A task that stands there already, made under both, stays where it is."""
    values: dict[str, Value] = {"before": before, "after": after}
    # Its id was asked for under one name and its create sent under the other: that record alone knows what was asked for.
    for twin, created in ((":before", ":after"), (":after", ":before")):
        made = f"SELECT task_id FROM task WHERE account = {created} AND NOT {_ADOPTED}"
        database.execute(f"DELETE FROM task WHERE account = {twin} AND {_ADOPTED} AND task_id IN ({made})", values)
    for table in ("task", "upload"):
        database.execute(f"UPDATE OR IGNORE {table} SET account = :after WHERE account = :before", values)


def take_over(name: str, task_id: str, owner: str, until: float, database: Database) -> bool:
    """Bring a task that RunAPI has just told this key of from under another name; gives whether there is one."""
    sql = (
        "UPDATE OR IGNORE task SET account = :tasks, owner = :owner, fence = fence + 1, lease_until = :until"
        " WHERE task_id = :task_id AND instr(account, ':')"
    )
    values: dict[str, Value] = {"tasks": tasks_of(name, database.read), "owner": owner, "until": until}
    return bool(service_of(name)) and database.execute(sql, values | {"task_id": task_id}) > 0


def tasks_of(name: str, read: Read) -> str:
    """The name under which a key's tasks stand."""
    return _first(read("SELECT tasks FROM holder WHERE account = ?", (name,))) or name


def _first(found: Sequence[Row]) -> str | None:
    """The name that was found; None too where it is no text, and so is nobody's."""
    return found[0]["tasks"] if found and isinstance(found[0]["tasks"], str) else None


def known(name: str, read: Read) -> bool:
    """Whether it is written down whose key it is."""
    return bool(read("SELECT 1 FROM holder WHERE account = ?", (name,)))


def belongs(name: str, holder: str, database: Database) -> None:
    """Write down whose key it is; inside `Database.write`. What was made with it so far joins the account's other tasks."""
    values: dict[str, Value] = {"name": name, "holder": holder, **_service(name)}
    sql = f"SELECT tasks FROM holder WHERE holder = :holder AND {_HERE} ORDER BY rowid LIMIT 1"
    found = database.read(sql, values)
    values["tasks"] = tasks = _first(found) or name
    if database.execute("INSERT OR IGNORE INTO holder VALUES (:name, :holder, :tasks)", values) and tasks != name:
        _move(name, tasks, database)


def has_others(name: str, read: Read) -> bool:
    """Whether there are tasks on the same service that other keys have made, of whichever account."""
    values = {"name": name, **_service(name)}
    # Two ranges, so that a journal of years is not read through for one that is not ours.
    return any(
        read(f"SELECT 1 FROM task WHERE {_HERE} AND {other} LIMIT 1", values)
        for other in ("account < :name", "account > :name")
    )


def foreign_tasks(name: str, now: float, until: float, read: Read) -> tuple[TaskRecord, ...]:
    """The open tasks that no key of this account has made on this service, and that no living process looks after."""
    if not service_of(name):
        return ()
    sql = (
        f"SELECT * FROM {OPEN} WHERE {IS_OPEN} AND instr(account, ':') AND account <> :tasks"
        " AND account NOT IN (SELECT account FROM holder WHERE tasks = :tasks)"
        f" AND ({UNHELD}) ORDER BY n"
    )
    found = task_rows.records(read(sql, {"tasks": tasks_of(name, read), "now": now, "until": until}))
    return tuple(record for record in found if spelled(record.account) != name)


def service_of_task(name: str, ident: str, read: Read) -> str | None:
    """The service that a task id or key stands under in the journal, this one first, where another key made it; or None."""
    sql = (
        f"SELECT account FROM task WHERE (task_id = :ident OR key = :ident) AND instr(account, ':')"
        f" ORDER BY {_HERE} DESC, n DESC LIMIT 1"
    )
    found = read(sql, {"ident": ident, **_service(name)}) if service_of(name) else []
    return service_of(str(found[0]["account"])) if found else None


def _service(name: str) -> dict[str, Value]:
    """What `_HERE` asks for. The sandbox has no keys, and nobody beside it."""
    service, colon, _ = name.rpartition(":")
    return {"first": f"{service}:", "last": f"{service};"} if colon else {"first": name, "last": name}
