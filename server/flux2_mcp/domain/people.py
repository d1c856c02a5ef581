"""Who calls a team's server. A server for one person knows no people."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from msgspec import Struct


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person, as the team's OpenID provider names them.

    Attributes:
        issuer: The provider. Together with `subject` it identifies the person for ever.
        subject: The provider's own name of the person, which no other person gets.
        name: What people read. It may change, and others may have the same.
        groups: The groups that the token lists.
        admin: Whether one of them is the admins' group.
    """

    issuer: str
    subject: str
    name: str | None = None
    groups: frozenset[str] = frozenset()
    admin: bool = False

    @property
    def key(self) -> str:
        """The person in the journal: a digest of issuer and subject, 32 hex digits."""
        return hashlib.sha256(json.dumps([self.issuer, self.subject]).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call, and from where.

    Attributes:
        person: Proven by their token.
        client: The name and version of the client, as it says itself; None: it says nothing.
        address: From where the call came; None: not known.
    """

    person: Person
    client: str | None = None
    address: str | None = None


class KnownPerson(Struct, frozen=True, kw_only=True):
    """A person who has called, as the journal knows them.

    `key` is `Person.key`. The caps are their own, in USD; None: they have the one that everybody has.
    """

    key: str
    issuer: str
    subject: str
    name: str | None
    admin: bool
    seen_at: datetime
    daily_usd: Decimal | None = None
    monthly_usd: Decimal | None = None
