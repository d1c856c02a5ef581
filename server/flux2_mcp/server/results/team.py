"""The results of `flux2-mcp team`: the people of a team, who did what, and tokens for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal

from flux2_mcp.domain.personal_tokens import LIVE, TokenRecord
from flux2_mcp.engine.team import AuditLine, Member
from flux2_mcp.server.results.tasks import Result, Words, stamp


class PersonResult(Result):
    """One person. Amounts are USD; a cap that is null is not set.

    `day_usd` and `month_usd` are what their caps count: the last 24 hours, and the last 30 days. `own_caps` says whether the
    person has a cap of their own, in the place of everybody's. Everybody's are those that a server told when it started, at
    `caps_told_at`; null: no server has told any, and they are those of the command's own environment. `seen_at` is up to an
    hour before the last call.
    """

    person: str
    name: Words | None
    issuer: Words
    subject: Words
    admin: bool
    seen_at: str
    day_usd: float
    day_cap_usd: float | None
    month_usd: float
    month_cap_usd: float | None
    own_caps: bool
    caps_told_at: str | None


class PeopleResult(Result):
    """All who have called, the latest first."""

    people: list[PersonResult]


class AuditEntryResult(Result):
    """One entry of the audit. `person` is null for what a command on the server's machine did.

    `whose` is of whom the task or the caps are, if that is another person. `usd` is what was reserved, or would have been; of `caps`
    the new cap, null for everybody's. `cap` is the variable of the cap that refused it or that was changed.
    """

    at: str
    what: str
    outcome: Literal["allowed", "refused"]
    cap: str | None
    usd: float | None
    person: str | None
    name: Words | None
    client: Words | None
    address: str | None
    task_key: str | None
    task_id: str | None
    whose: str | None
    whose_name: Words | None


class AuditResult(Result):
    """Who did what, newest first."""

    entries: list[AuditEntryResult]


def people(members: Sequence[Member]) -> PeopleResult:
    """Make the result of `flux2-mcp team people`."""
    return PeopleResult(people=[*map(person, members)])


def person(member: Member) -> PersonResult:
    """Make the result for one person."""
    known = member.person
    return PersonResult(
        person=known.key,
        name=known.name,
        issuer=known.issuer,
        subject=known.subject,
        admin=known.admin,
        seen_at=stamp(known.seen_at),
        day_usd=float(member.daily_usd),
        day_cap_usd=_usd(member.daily_cap_usd),
        month_usd=float(member.monthly_usd),
        month_cap_usd=_usd(member.monthly_cap_usd),
        own_caps=known.daily_usd is not None or known.monthly_usd is not None,
        caps_told_at=None if member.caps_told_at is None else stamp(member.caps_told_at),
    )


def audit(lines: Sequence[AuditLine]) -> AuditResult:
    """Make the result of `flux2-mcp team audit`."""
    return AuditResult(entries=[*map(_entry, lines)])


def _entry(line: AuditLine) -> AuditEntryResult:
    entry = line.entry
    return AuditEntryResult(
        at=stamp(entry.at),
        what=entry.what,
        outcome="allowed" if entry.allowed else "refused",
        cap=entry.cap,
        usd=_usd(entry.usd),
        person=entry.person,
        name=line.name,
        client=entry.client,
        address=entry.address,
        task_key=entry.task,
        task_id=line.task_id,
        whose=entry.whose,
        whose_name=line.whose_name,
    )


def _usd(cap: Decimal | None) -> float | None:
    return None if cap is None else float(cap)


class TokenResult(Result):
    """A personal token. `expires_at` null: it is in force until it is revoked. `state`: live, expired or revoked."""

    id: str
    name: Words
    state: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class NewTokenResult(TokenResult):
    """The token that was made now. `token` can't be read again."""

    token: str


class TokensResult(Result):
    """All tokens, the latest first."""

    tokens: list[TokenResult]


def token(record: TokenRecord, state: str) -> TokenResult:
    """Make the result for one token."""
    return TokenResult(**_fields(record, state))


def new_token(made: str, record: TokenRecord) -> NewTokenResult:
    """Make the result of `flux2-mcp team token create`."""
    return NewTokenResult(token=made, **_fields(record, LIVE))


def tokens(found: Iterable[tuple[TokenRecord, str]]) -> TokensResult:
    """Make the result of `flux2-mcp team token list`."""
    return TokensResult(tokens=[token(record, state) for record, state in found])


def _fields(record: TokenRecord, state: str) -> dict[str, Any]:
    return {
        "id": record.ident,
        "name": record.name,
        "state": state,
        "created_at": stamp(record.created_at),
        "expires_at": None if record.expires_at is None else stamp(record.expires_at),
        "revoked_at": None if record.revoked_at is None else stamp(record.revoked_at),
    }
