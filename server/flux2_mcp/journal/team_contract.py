"""What the journal keeps for a team beside its tasks: part of `contract`, with the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from flux2_mcp.domain.audit import AuditEntry, AuditFilter
from flux2_mcp.domain.people import Caller, KnownPerson, Person
from flux2_mcp.domain.personal_tokens import TokenRecord


class People(Protocol):
    """The people of a team. They are those of the database, whatever the account."""

    async def meet(self, person: Person, *, at: datetime) -> None:
        """Note that a person has called, with the name that they have now. Their caps stay."""
        ...

    async def known(self) -> tuple[KnownPerson, ...]:
        """All who have called, the latest first."""
        ...

    async def cap(self, person: str, *, daily_usd: Decimal | None, monthly_usd: Decimal | None, at: datetime) -> bool:
        """Give a person caps of their own, in USD; None: everybody's. Returns False if no such person has called.

        Each cap that changes has an entry in the audit, from the same transaction.
        """
        ...


class Tokens(Protocol):
    """The personal tokens of a team. They are those of the database, whatever the account."""

    async def add(self, token: TokenRecord, *, caller: Caller | None = None) -> None:
        """Keep a new token, and write into the audit who made it; None: whoever runs the server."""
        ...

    async def all(self) -> tuple[TokenRecord, ...]:
        """All tokens, also those that have ended, the latest first."""
        ...

    async def live(self, *, at: datetime) -> tuple[TokenRecord, ...]:
        """Those that are in force."""
        ...

    async def revoke(self, digest: str, *, at: datetime) -> bool:
        """Take a token back for ever. Returns False if there is no such token, or it was taken back before."""
        ...


class Facts(Protocol):
    """What the servers that share a journal have to agree on. Facts are those of the database, whatever the account."""

    async def get(self, name: str) -> str | None:
        """The fact of this name; None: nobody has stated it."""
        ...

    async def put(self, name: str, text: str) -> None:
        """State a fact, in the place of what was stated before. It is synced to disk when this returns."""
        ...

    async def settle(self, name: str, text: str) -> str:
        """State a fact, unless it was stated before. Returns what holds, which is synced to disk."""
        ...


class Audit(Protocol):
    """Who did what in a team. Entries are those of the database, whatever the account; none is changed or deleted.

    What costs is written by `Tasks` of a person's journal, what changes caps by `People.cap`; this is for what is shown.
    """

    async def note(self, entries: Sequence[AuditEntry]) -> None:
        """Write entries, all or none. Those of refusals are synced to disk when this returns; a power cut may lose the last others."""
        ...

    async def entries(self, wanted: AuditFilter, *, limit: int) -> tuple[AuditEntry, ...]:
        """The newest entries that match, newest first."""
        ...
