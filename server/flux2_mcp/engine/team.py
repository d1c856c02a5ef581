"""The people of a team, for whoever runs its server: what each has spent, and the caps of each. From the journal alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

from msgspec import Struct

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.people import KnownPerson, Person
from flux2_mcp.engine.seam import Seam, opened
from flux2_mcp.errors import InvalidRequestError, JournalError, Problem
from flux2_mcp.settings import Settings

SHORTEST_KEY = 6
"""The least characters of `KnownPerson.key` that name a person."""
_BOTH = Caps(person_daily_usd=Decimal(0), person_monthly_usd=Decimal(0))
"""To have both sums read, whatever the caps."""


MEET_SECONDS = 3600.0
"""How long a process does not note again that the same person calls."""
MOST_MET = 10_000
"""The most people that a process remembers to have noted."""


class Meetings:
    """Notes in the journal who calls: for the list of people, and for caps of their own."""

    def __init__(self, seam: Seam) -> None:
        self._people = seam.journal.people
        self._now, self._monotonic = seam.now, seam.monotonic
        self._met: dict[str, tuple[Person, float]] = {}

    async def meet(self, person: Person) -> None:
        """Note a person, at most once an hour. A journal that can't be written stops no call here: it will say so itself."""
        known, now = self._met.get(person.key), self._monotonic()
        if known is not None and _same(known[0], person) and now - known[1] < MEET_SECONDS:
            return
        if len(self._met) >= MOST_MET:
            self._met.clear()
        self._met[person.key] = (person, now)
        try:
            await self._people.meet(person, at=self._now())
        except JournalError:
            self._met.pop(person.key, None)


def _same(one: Person, other: Person) -> bool:
    return (one.name, one.admin) == (other.name, other.admin)


class Member(Struct, frozen=True, kw_only=True):
    """A person, the caps that hold for them, and what of these is used, in USD. None: no such cap."""

    person: KnownPerson
    daily_usd: Decimal
    monthly_usd: Decimal
    daily_cap_usd: Decimal | None
    monthly_cap_usd: Decimal | None


class Team:
    """Reads and writes what the journal knows of people. Create it with `Team.opened`."""

    def __init__(self, seam: Seam, caps: Caps) -> None:
        self._journal = seam.journal
        self._now = seam.now
        self._caps = caps

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator[Team]:
        """Open it. Nothing is read before the first use."""
        async with opened(settings) as seam:
            yield cls(seam, settings.caps)

    async def people(self) -> list[Member]:
        """Return all who have called, the latest first.

        Raises:
            JournalError: The journal can't be read.
        """
        if not self._journal.was_made:
            return []
        return [await self._member(person) for person in await self._journal.people.known()]

    async def cap(self, who: str, *, daily_usd: Decimal | None, monthly_usd: Decimal | None) -> Member:
        """Give a person caps of their own, in USD; None: those of everybody.

        Args:
            who: Their key or its beginning, their `sub` or their name.
            daily_usd: The most that they may spend in any 24 hours.
            monthly_usd: The most that they may spend in any 30 days.

        Raises:
            InvalidRequestError: No person is meant, or several are.
            JournalError: The journal can't be read or written.
        """
        person = _named(who, await self._journal.people.known() if self._journal.was_made else ())
        await self._journal.people.cap(person.key, daily_usd=daily_usd, monthly_usd=monthly_usd)
        (now,) = [each for each in await self._journal.people.known() if each.key == person.key]
        return await self._member(now)

    async def member(self, who: str) -> Member:
        """Return one person. Raises as `cap`."""
        return await self._member(_named(who, await self._journal.people.known() if self._journal.was_made else ()))

    async def _member(self, person: KnownPerson) -> Member:
        money = self._journal.of(person.key).money
        spent = await money.spent(at=self._now(), session=None, caps=_BOTH)
        caps = await money.in_force(self._caps)
        return Member(
            person=person,
            daily_usd=spent.person_daily_usd or Decimal(0),
            monthly_usd=spent.person_monthly_usd or Decimal(0),
            daily_cap_usd=caps.person_daily_usd,
            monthly_cap_usd=caps.person_monthly_usd,
        )


def _named(who: str, known: Sequence[KnownPerson]) -> KnownPerson:
    found = [
        each
        for each in known
        if who in {each.key, each.subject, each.name} or (len(who) >= SHORTEST_KEY and each.key.startswith(who))
    ]
    if len(found) == 1:
        return found[0]
    seen = "nobody who has called has this key, subject or name." if not found else "several people have this name."
    raise InvalidRequestError(Problem("PERSON", f"{seen} flux2-mcp team people lists them; give the key."))
