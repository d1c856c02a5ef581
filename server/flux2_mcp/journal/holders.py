"""Whose tasks a key may have: those of every key of its RunAPI account. Sync; over one `Database`, or what reads a file.

Tasks stand under a name that is made from the service and the key that made them (`gateway.account`). A key that is replaced
would leave them to nobody. So it is written down which account of RunAPI each name belongs to, as RunAPI has told, and the
tasks of one account all stand under the name that was written down first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flux2_mcp.journal import rows
from flux2_mcp.journal.entry import Entry
from flux2_mcp.journal.shared import IS_OPEN, LOOSE, OPEN

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite import Database, Read, Row, Value

_HERE = "account > :first AND account < :last AND instr(substr(account, length(:first) + 1), ':') = 0"
"""On the same service: names begin with it, a colon follows, and what follows that holds none."""


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
        # One that stands there already, made under both keys, stays where it is.
        for table in ("task", "upload"):
            database.execute(f"UPDATE OR IGNORE {table} SET account = :tasks WHERE account = :name", values)


def apart(name: str, read: Read) -> bool:
    """Whether there are tasks on the same service that other keys have made, of whichever account."""
    values = {"name": name, **_service(name)}
    # Two ranges, so that a journal of years is not read through for one that is not ours.
    return any(
        read(f"SELECT 1 FROM task WHERE {_HERE} AND {other} LIMIT 1", values)
        for other in ("account < :name", "account > :name")
    )


def strangers(name: str, now: float, until: float, read: Read) -> tuple[Entry, ...]:
    """The open tasks on the same service that no key of this account has made, and that no living process looks after."""
    sql = (
        f"SELECT * FROM {OPEN} WHERE {IS_OPEN} AND {_HERE} AND account <> :tasks"
        " AND account NOT IN (SELECT account FROM holder WHERE tasks = :tasks)"
        f" AND ({LOOSE}) ORDER BY n"
    )
    values = {"tasks": tasks_of(name, read), "now": now, "until": until, **_service(name)}
    return rows.entries(read(sql, values))


def elsewhere(name: str, ident: str, read: Read) -> bool:
    """Whether a task id or key stands in the journal under the name of another key on the same service."""
    sql = f"SELECT 1 FROM task WHERE (task_id = :ident OR key = :ident) AND {_HERE} LIMIT 1"
    return bool(read(sql, {"ident": ident, **_service(name)}))


def _service(name: str) -> dict[str, Value]:
    """What `_HERE` asks for. The sandbox has no keys, and nobody beside it."""
    service, colon, _ = name.rpartition(":")
    return {"first": f"{service}:", "last": f"{service};"} if colon else {"first": name, "last": name}
