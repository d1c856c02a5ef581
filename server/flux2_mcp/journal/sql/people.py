"""Whose tasks a journal writes and shows: the condition of every query that a caller's answer comes from.

It is built here alone, and in Python: with "or nobody in particular" in SQL, no database would use the index of a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Value

ACCOUNT = "account = :account"


class Whose(Struct, frozen=True):
    """A person, and what they see; see `contract.Journal.of`. Without a person, all is seen, and what is written is nobody's.

    `client` and `address` are for the audit.
    """

    person: str | None = None
    sees_all: bool = True
    client: str | None = None
    address: str | None = None

    def at(self, account: str) -> Rows:
        """Their rows among those of an account, whose name may change from call to call."""
        return Rows(account, self.person, self.person is None or self.sees_all)


class Rows(Struct, frozen=True):
    """The rows of an account that a caller sees."""

    account: str
    person: str | None = None
    sees_all: bool = True

    @property
    def seen(self) -> str:
        """SQL for the tasks that are seen. Its values are `values`."""
        return ACCOUNT if self.sees_all else f"{ACCOUNT} AND person = :person"

    @property
    def own(self) -> str:
        """SQL for the tasks that a call may join or go on from: never another person's, whoever sees them."""
        return f"{ACCOUNT} AND {'person IS NULL' if self.person is None else 'person = :person'}"

    @property
    def values(self) -> dict[str, Value]:
        """The values of `seen` and `own`."""
        return {"account": self.account, "person": self.person}


EVERYBODY = Whose()
"""A machine of one's own; and in a team, the work on tasks, which is done for all."""
