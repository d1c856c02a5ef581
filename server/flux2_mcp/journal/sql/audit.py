"""The audit of a team: entries are added, and never changed or deleted. Loaded where a person calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from flux2_mcp.domain.audit import (
    MAX_ADDRESS_CHARS,
    MAX_CLIENT_CHARS,
    AuditEntry,
    AuditFilter,
    What,
    printable,
)
from flux2_mcp.errors import JournalError
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.store import NOTHING

if TYPE_CHECKING:
    from flux2_mcp.journal.records import TaskRecord
    from flux2_mcp.journal.sql.people import Whose
    from flux2_mcp.journal.sql.store import Database, Row, Store, Value

COLUMNS = ("at", "person", "client", "address", "whose", "task", "usd", "what", "outcome", "cap")
ALLOWED, REFUSED = "allowed", "refused"
UNWRITTEN = "What the team's audit must know of this call could not be written."


class SqlAudit:
    """See `team_contract.Audit`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def note(self, entries: Sequence[AuditEntry]) -> None:
        """See `team_contract.Audit.note`."""
        refused = any(not entry.allowed for entry in entries)
        await self._store.write(
            lambda database: write(database, entries, at_once=True),
            durable=refused,
            alone=NOTHING,
            tell=False,
            whole=True,
        )

    async def entries(self, wanted: AuditFilter, *, limit: int) -> tuple[AuditEntry, ...]:
        """See `team_contract.Audit.entries`."""
        values: dict[str, Value] = {"limit": limit, "person": wanted.person, "task": wanted.task}
        conditions = []
        if wanted.since is not None:
            conditions.append("at >= :since")
            values["since"] = wanted.since.timestamp()
        if wanted.task is not None:
            conditions.append("task = :task")
        if wanted.refused:
            conditions.append(f"outcome = '{REFUSED}'")
        # Each part ends at the limit by its own index; with OR, all of a person's entries would be sorted.
        parts = ["TRUE"] if wanted.person is None else ["person = :person", "whose = :person"]
        newest = "ORDER BY at DESC, n DESC LIMIT :limit"
        selects = [
            f"SELECT * FROM (SELECT * FROM audit WHERE {' AND '.join([part, *conditions])} {newest}) AS part{number}"
            for number, part in enumerate(parts)
        ]
        sql = f"SELECT * FROM ({' UNION ALL '.join(selects)}) AS entry {newest}"
        return tuple(map(_entry, await self._store.run(lambda database: database.read(sql, values))))


def write(database: Database, entries: Sequence[AuditEntry], *, at_once: bool = False) -> None:
    """Add entries, within `Store.write`, by one statement: with the next one, or at once."""
    if not entries:
        return
    rows = [_values(entry) for entry in entries]
    marks = ", ".join(f"({', '.join(f':{name}_{number}' for name in COLUMNS)})" for number in range(len(rows)))
    values = {f"{name}_{number}": row[name] for number, row in enumerate(rows) for name in COLUMNS}
    run = database.execute if at_once else database.later
    run(f"INSERT INTO audit ({', '.join(COLUMNS)}) VALUES {marks}", values)


def asked_for(database: Database, records: Sequence[TaskRecord], whose: Whose, at: datetime) -> None:
    """Add the entries of tasks that were just written for a person."""
    entries = [
        AuditEntry(
            at=at,
            what=What.GENERATE,
            person=record.person,
            client=whose.client,
            address=whose.address,
            task=record.key,
            usd=record.reserved_usd,
        )
        for record in records
    ]
    write(database, entries)


def step(record: TaskRecord, at: datetime, *, allowed: bool = True, cap: str | None = None) -> AuditEntry:
    """The entry of a later step whose turn has come. The call that asked for it may have been answered long before."""
    return AuditEntry(
        at=at,
        what=What.STEP,
        person=record.person,
        client=record.client,
        task=record.key,
        usd=record.reserved_usd,
        allowed=allowed,
        cap=cap,
    )


async def refused(store: Store, entry: AuditEntry) -> None:
    """Write down a refusal, after it and before it is told: its own transaction was undone.

    It is on disk when this returns. Calls that make tasks do not wait for that.

    Raises:
        JournalError: It can't be written, and so the refusal must not be told.
    """
    try:
        await SqlAudit(store).note([entry])
    except JournalError as exc:
        raise JournalError(f"{UNWRITTEN} {exc.message}", next_step=exc.next_step, reason=exc.reason) from exc


def _values(entry: AuditEntry) -> dict[str, Value]:
    return {
        "at": entry.at.timestamp(),
        "person": entry.person,
        "client": printable(entry.client, MAX_CLIENT_CHARS),
        "address": printable(entry.address, MAX_ADDRESS_CHARS),
        "whose": entry.whose,
        "task": entry.task,
        "usd": task_rows.micros(entry.usd),
        "what": str(entry.what),
        "outcome": ALLOWED if entry.allowed else REFUSED,
        "cap": entry.cap,
    }


def _entry(row: Row) -> AuditEntry:
    usd = row["usd"]
    return AuditEntry(
        at=datetime.fromtimestamp(row["at"], UTC),
        what=row["what"],
        person=row["person"],
        client=row["client"],
        address=row["address"],
        whose=row["whose"],
        task=row["task"],
        usd=None if usd is None else Decimal(usd) / task_rows.MICROS,
        allowed=row["outcome"] == ALLOWED,
        cap=row["cap"],
    )
