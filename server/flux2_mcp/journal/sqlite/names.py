"""Under which name a key's tasks are recorded. `accounts` has the rest, and loads more; see there what a name is."""

from __future__ import annotations

TYPE_CHECKING = False  # typing is not imported here: the server that sleeps has no use for it
if TYPE_CHECKING:
    from collections.abc import Sequence

    from flux2_mcp.journal.sql.store import Read, Row, Value

HERE = "account > :first AND account < :last AND substr(account, length(:first) + 1) NOT LIKE '%:%'"
"""The account is on the same service: its name is the service, a colon, and a rest without a colon."""

TASKS = "SELECT tasks FROM holder WHERE account = ?"
"""The name under which the tasks of a key are recorded; nothing, if that is the key's own."""


def tasks_of(name: str, read: Read) -> str:
    """The name under which a key's tasks are recorded."""
    return first_of(read(TASKS, (name,))) or name


def first_of(found: Sequence[Row]) -> str | None:
    """The name that was found; None also if it is no text, and so is no name."""
    return found[0]["tasks"] if found and isinstance(found[0]["tasks"], str) else None


def known(name: str, read: Read) -> bool:
    """Whether the journal has recorded which account the key belongs to."""
    return bool(read("SELECT 1 FROM holder WHERE account = ?", (name,)))


def has_others(name: str, read: Read) -> bool:
    """Whether other keys, of any account, have made tasks on the same service."""
    values = {"name": name, **service(name)}
    # Two ranges of the index: a condition <> would read a journal of years to its end.
    return any(
        read(f"SELECT 1 FROM task WHERE {HERE} AND {other} LIMIT 1", values)
        for other in ("account < :name", "account > :name")
    )


def service(name: str) -> dict[str, Value]:
    """The values of `HERE`. The sandbox has one name and no keys."""
    service, colon, _ = name.rpartition(":")
    return {"first": f"{service}:", "last": f"{service};"} if colon else {"first": name, "last": name}
