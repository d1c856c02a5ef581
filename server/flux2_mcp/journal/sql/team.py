"""The people of a team, and the caps that one of them has in the place of everybody's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.store import NOTHING

if TYPE_CHECKING:
    from flux2_mcp.domain.budget import Caps
    from flux2_mcp.domain.people import KnownPerson, Person
    from flux2_mcp.journal.sql.store import Database, Row, Store, Value

OWN = "SELECT daily, monthly FROM person WHERE person = :person"
"""The caps that a person has in the place of everybody's."""
CAPS = {"daily": "FLUX2_PERSON_DAILY_BUDGET_USD", "monthly": "FLUX2_PERSON_MONTHLY_BUDGET_USD"}
"""The variable of everybody's cap for each column."""


class SqlPeople:
    """See `team_contract.People`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def meet(self, person: Person, *, at: datetime) -> None:
        """See `team_contract.People.meet`."""
        values: dict[str, Value] = {
            "person": person.key,
            "issuer": person.issuer,
            "subject": person.subject,
            "name": person.name,
            "admin": int(person.admin),
            "at": at.timestamp(),
        }
        sql = (
            "INSERT INTO person (person, issuer, subject, name, admin, seen_at)"
            " VALUES (:person, :issuer, :subject, :name, :admin, :at)"
            " ON CONFLICT (person) DO UPDATE SET name = excluded.name, admin = excluded.admin, seen_at = excluded.seen_at"
        )
        await self._store.write(
            lambda database: database.execute(sql, values), durable=False, alone=NOTHING, tell=False, whole=True
        )

    async def known(self) -> tuple[KnownPerson, ...]:
        """See `team_contract.People.known`."""
        rows = await self._store.run(
            lambda database: database.read("SELECT * FROM person ORDER BY seen_at DESC, person")
        )
        return tuple(map(_known, rows))

    async def cap(self, person: str, *, daily_usd: Decimal | None, monthly_usd: Decimal | None, at: datetime) -> bool:
        """See `team_contract.People.cap`."""
        from flux2_mcp.domain.audit import AuditEntry, What  # a server for one person has no use for it
        from flux2_mcp.journal.sql import audit

        new = {"daily": daily_usd, "monthly": monthly_usd}
        values: dict[str, Value] = {"person": person} | {name: task_rows.micros(usd) for name, usd in new.items()}

        def work(database: Database) -> bool:
            found = database.read("SELECT daily, monthly FROM person WHERE person = :person", values)
            if not found:
                return False
            changed = [name for name in new if found[0][name] != values[name]]
            database.execute("UPDATE person SET daily = :daily, monthly = :monthly WHERE person = :person", values)
            entries = [
                AuditEntry(at=at, what=What.CAPS, whose=person, usd=new[name], cap=CAPS[name]) for name in changed
            ]
            audit.write(database, entries)
            return True

        return await self._store.write(work)


def in_force(person: str | None, caps: Caps, database: Database) -> Caps:
    """The caps of a person: their own in the place of everybody's, where they have one."""
    return caps if person is None else with_own(caps, database.read(OWN, {"person": person}))


def with_own(caps: Caps, found: Sequence[Row]) -> Caps:
    """The same from what came of `OWN`."""
    return caps.with_own(_usd(found[0]["daily"]), _usd(found[0]["monthly"])) if found else caps


def _known(row: Row) -> KnownPerson:
    from flux2_mcp.domain.people import KnownPerson  # a server for one person has no use for it

    return KnownPerson(
        key=row["person"],
        issuer=row["issuer"],
        subject=row["subject"],
        name=row["name"],
        admin=bool(row["admin"]),
        seen_at=datetime.fromtimestamp(row["seen_at"], UTC),
        daily_usd=_usd(row["daily"]),
        monthly_usd=_usd(row["monthly"]),
    )


def _usd(micros: int | None) -> Decimal | None:
    return None if micros is None else Decimal(micros) / task_rows.MICROS
