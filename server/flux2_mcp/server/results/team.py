"""The results of `flux2-mcp team`: the people of a team."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from flux2_mcp.engine.team import Member
from flux2_mcp.server.results.tasks import Result, Words, stamp


class PersonResult(Result):
    """One person. Amounts are USD; a cap that is null is not set.

    `day_usd` and `month_usd` are what their caps count: the last 24 hours, and the last 30 days. `own_caps` says whether the
    person has a cap of their own, in the place of everybody's.
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


class PeopleResult(Result):
    """All who have called, the latest first."""

    people: list[PersonResult]


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
    )


def _usd(cap: Decimal | None) -> float | None:
    return None if cap is None else float(cap)
