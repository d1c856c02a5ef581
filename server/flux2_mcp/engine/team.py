"""The people of a team, for whoever runs its server: what each has spent, the caps of each, and who did what.

All of it comes from the journal alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal

from anyio.abc import TaskGroup
from msgspec import Struct

from flux2_mcp.domain import budget, personal_tokens
from flux2_mcp.domain.audit import AuditEntry, AuditFilter
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.people import Caller, KnownPerson, Person
from flux2_mcp.domain.personal_tokens import LIVE, TokenRecord
from flux2_mcp.engine.seam import Seam, opened
from flux2_mcp.errors import InvalidRequestError, JournalError, Problem
from flux2_mcp.settings import Settings

log = logging.getLogger("flux2_mcp.engine.team")

SHORTEST_KEY = 6
"""The least characters of `KnownPerson.key` that name a person."""
_NOTHING = Decimal(0), Decimal(0)
_BOTH = Caps(person_daily_usd=Decimal(0), person_monthly_usd=Decimal(0))
"""To have both sums read, whatever the caps."""


MEET_SECONDS = 3600.0
"""How long a process does not note again that the same person calls."""
MOST_MET = 10_000
"""The most people that a process remembers to have noted."""
MAX_TOKEN_DAYS = 3650
MOST_TOKENS_OF_ONE = 20
"""The most tokens in force that one person gets by signing in, one for each of their machines; also the most in an hour."""
AN_HOUR = timedelta(hours=1)
CAPS_FACT = "caps"
"""The journal's name for the caps that servers have in force."""
TELL_AGAIN_SECONDS = 5.0
"""The delay before the caps are told again, if the journal could not be written."""


class Callers:
    """Notes in the journal who calls: for the list of people, and for caps of their own. It knows the personal tokens, too.

    Args:
        seam: Has the journal.
        background: In which it is noted: a journal that says nothing holds up no call that does not need it.
    """

    def __init__(self, seam: Seam, background: TaskGroup) -> None:
        self._journal = seam.journal
        self._people, self._tokens = seam.journal.people, seam.journal.tokens
        self._facts = seam.journal.facts
        self._now, self._monotonic, self._sleep = seam.now, seam.monotonic, seam.sleep
        self._background = background
        self._met: dict[str, tuple[Person, float]] = {}

    def meet(self, person: Person) -> None:
        """Note a person, at most once an hour."""
        known, now = self._met.get(person.key), self._monotonic()
        if known is not None and _same(known[0], person) and now - known[1] < MEET_SECONDS:
            return
        if len(self._met) >= MOST_MET:
            self._met.clear()
        self._met[person.key] = (person, now)
        self._background.start_soon(self._note, person)

    async def _note(self, person: Person) -> None:
        try:
            await self._people.meet(person, at=self._now())
        except JournalError:  # the calls that need the journal say so themselves
            self._met.pop(person.key, None)
        except Exception as exc:  # it would end the service
            log.exception("unexpected %s", type(exc).__name__)

    async def tell_caps(self, caps: Caps) -> None:
        """Tell in the journal which caps this server has in force: a command beside it has another environment."""
        told = json.dumps({"at": self._now().isoformat(), "usd": budget.as_texts(caps)})
        while True:
            try:
                return await self._facts.put(CAPS_FACT, told)
            except JournalError:  # it may be away when a server starts
                await self._sleep(TELL_AGAIN_SECONDS)
            except Exception as exc:  # it would end the service
                log.exception("unexpected %s", type(exc).__name__)
                return None

    async def tokens(self) -> dict[str, TokenRecord]:
        """Return the personal tokens that are in force, by their digests.

        Raises:
            JournalError: The journal can't be read.
        """
        if not self._journal.was_made:  # to look for what is made up makes none
            return {}
        return {token.digest: token for token in await self._tokens.live(at=self._now())}

    async def make_token(self, caller: Caller, *, days: int) -> tuple[str, TokenRecord] | None:
        """Make a token for a person who has signed in, and return it; None if they made too many in the last hour.

        Of too many that they have, the oldest is revoked.

        Raises:
            JournalError: The journal can't be read or written.
        """
        person, now, token = caller.person, self._now(), personal_tokens.new()
        theirs = [each for each in await self._tokens.live(at=now) if each.issuer and each.person.key == person.key]
        theirs.sort(key=lambda each: each.created_at)
        if sum(now - each.created_at < AN_HOUR for each in theirs) >= MOST_TOKENS_OF_ONE:
            return None
        record = TokenRecord(
            digest=personal_tokens.digest(token),
            name=(person.name or person.subject)[: personal_tokens.MAX_NAME_CHARS],
            created_at=now,
            expires_at=now + timedelta(days=days),
            issuer=person.issuer,
            subject=person.subject,
        )
        await self._people.meet(person, at=now)
        await self._tokens.add(record, caller=caller)
        for each in theirs[: len(theirs) + 1 - MOST_TOKENS_OF_ONE] if len(theirs) >= MOST_TOKENS_OF_ONE else ():
            await self._tokens.revoke(each.digest, at=now)
        return token, record

    def in_force(self, token: TokenRecord) -> bool:
        """Whether a token that was in force has not expired since."""
        return token.state(self._now()) == LIVE


def _same(one: Person, other: Person) -> bool:
    return (one.name, one.admin) == (other.name, other.admin)


class CapsInForce(Struct, frozen=True):
    """Everybody's caps, and when a server told them as its own; None: no server did, and they are this environment's."""

    caps: Caps
    told_at: datetime | None = None


class Member(Struct, frozen=True, kw_only=True):
    """A person, the caps that hold for them, and what of these is used, in USD. None: no such cap.

    `caps_told_at` as in `CapsInForce`.
    """

    person: KnownPerson
    daily_usd: Decimal
    monthly_usd: Decimal
    daily_cap_usd: Decimal | None
    monthly_cap_usd: Decimal | None
    caps_told_at: datetime | None


class AuditLine(Struct, frozen=True, kw_only=True):
    """An entry of the audit, with what its keys stand for: names of people, RunAPI's id of the task; None: not known."""

    entry: AuditEntry
    name: str | None
    whose_name: str | None
    task_id: str | None


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
        spent, caps = await self._journal.money.of_people(at=self._now()), await self._caps_in_force()
        return [_member(person, spent, caps) for person in await self._journal.people.known()]

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
        await self._journal.people.cap(person.key, daily_usd=daily_usd, monthly_usd=monthly_usd, at=self._now())
        return await self.member(person.key)

    async def make_token(
        self, name: str, *, days: int | None, daily_usd: Decimal | None, monthly_usd: Decimal | None
    ) -> tuple[str, TokenRecord]:
        """Make a token for a program, and return it. It can't be read again.

        Args:
            name: Whose it is. Tokens with the same name are one person's: they share tasks, and caps.
            days: How long it is in force; None: until it is revoked.
            daily_usd: A cap of its own, in the place of everybody's; None leaves it as it is.
            monthly_usd: As above.

        Raises:
            InvalidRequestError: The name is empty, too long or not printable, or the days are out of range.
            JournalError: The journal can't be written.
        """
        _check_token(name, days)
        person, now = personal_tokens.person(name), self._now()
        token = personal_tokens.new()
        ends = None if days is None else now + timedelta(days=days)
        record = TokenRecord(digest=personal_tokens.digest(token), name=name, created_at=now, expires_at=ends)
        known = await self._known(person.key)
        if known is None or (daily_usd, monthly_usd) != (None, None):
            if known is None:
                await self._journal.people.meet(person, at=now)
            await self._journal.people.cap(
                person.key,
                daily_usd=daily_usd if daily_usd is not None or known is None else known.daily_usd,
                monthly_usd=monthly_usd if monthly_usd is not None or known is None else known.monthly_usd,
                at=now,
            )
        await self._journal.tokens.add(record)  # last: no token without its caps
        return token, record

    async def tokens(self) -> tuple[tuple[TokenRecord, str], ...]:
        """Return all tokens, the latest first, each with its state.

        Raises:
            JournalError: The journal can't be read.
        """
        if not self._journal.was_made:
            return ()
        return tuple((token, token.state(self._now())) for token in await self._journal.tokens.all())

    async def revoke(self, ident: str) -> TokenRecord:
        """Take a token back. Servers refuse it within seconds.

        Args:
            ident: The token's id.

        Raises:
            InvalidRequestError: No token has this id.
            JournalError: The journal can't be read or written.
        """
        found = [token for token, _ in await self.tokens() if token.ident == ident]
        if not found:
            raise InvalidRequestError(Problem("ID", "no token has this id. flux2-mcp team token list shows them all."))
        for token in found:
            await self._journal.tokens.revoke(token.digest, at=self._now())
        return next(token for token, _ in await self.tokens() if token.digest == found[0].digest)

    async def _known(self, key: str) -> KnownPerson | None:
        people = await self._journal.people.known() if self._journal.was_made else ()
        return next((each for each in people if each.key == key), None)

    async def member(self, who: str) -> Member:
        """Return one person. Raises as `cap`."""
        person = _named(who, await self._journal.people.known() if self._journal.was_made else ())
        found = await self._journal.of(person.key).money.spent(at=self._now(), session=None, caps=_BOTH)
        sums = found.person_daily_usd or Decimal(0), found.person_monthly_usd or Decimal(0)
        return _member(person, {person.key: sums}, await self._caps_in_force())

    async def audit(
        self,
        *,
        limit: int,
        since: datetime | None = None,
        who: str | None = None,
        task: str | None = None,
        refused: bool = False,
    ) -> list[AuditLine]:
        """Return the newest entries of the audit, newest first.

        Args:
            limit: The maximum number of entries.
            since: Only those since then.
            who: Only what this person did, or others with their tasks and caps; a person as in `cap`.
            task: Only those of a task, by RunAPI's id or our key.
            refused: Only what was refused.

        Raises:
            InvalidRequestError: No person is meant, or several are.
            JournalError: The journal can't be read.
        """
        known = await self._journal.people.known() if self._journal.was_made else ()
        person = None if who is None else _named(who, known).key
        if not self._journal.was_made:
            return []
        meant = () if task is None else await self._journal.tasks.find([task])
        key = meant[0].key if meant else task
        wanted = AuditFilter(since=since, person=person, task=key, refused=refused)
        entries = await self._journal.audit.entries(wanted, limit=limit)
        names = {each.key: each.name or each.subject for each in known}
        tasks = await self._journal.tasks.find([*dict.fromkeys(entry.task for entry in entries if entry.task)])
        ids = {record.key: record.task_id for record in tasks}
        return [
            AuditLine(
                entry=entry,
                name=names.get(entry.person or ""),
                whose_name=names.get(entry.whose or ""),
                task_id=ids.get(entry.task or ""),
            )
            for entry in entries
        ]

    async def _caps_in_force(self) -> CapsInForce:
        """Everybody's caps: those of the server that started last, or else those of this environment."""
        told = await self._journal.facts.get(CAPS_FACT)
        try:
            found = {} if told is None else json.loads(told)
            return CapsInForce(budget.from_texts(found["usd"]), datetime.fromisoformat(found["at"]))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):  # nobody did, or a later version
            return CapsInForce(self._caps)


def _member(person: KnownPerson, spent: Mapping[str, tuple[Decimal, Decimal]], found: CapsInForce) -> Member:
    daily, monthly = spent.get(person.key, _NOTHING)
    caps = found.caps.with_own(person.daily_usd, person.monthly_usd)
    return Member(
        person=person,
        daily_usd=daily,
        monthly_usd=monthly,
        daily_cap_usd=caps.person_daily_usd,
        monthly_cap_usd=caps.person_monthly_usd,
        caps_told_at=found.told_at,
    )


def _check_token(name: str, days: int | None) -> None:
    if not name.strip() or len(name) > personal_tokens.MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
        most = personal_tokens.MAX_NAME_CHARS
        raise InvalidRequestError(
            Problem("NAME", f"must have 1 to {most} printable characters, none of them a blank at an end.")
        )
    if days is not None and not 1 <= days <= MAX_TOKEN_DAYS:
        raise InvalidRequestError(Problem("--days", f"must be between 1 and {MAX_TOKEN_DAYS}."))


def _named(who: str, known: Sequence[KnownPerson]) -> KnownPerson:
    # A whole key goes before all else: people choose their names, and one may be another's key.
    found = [each for each in known if who == each.key] or [
        each
        for each in known
        if who in {each.subject, each.name} or (len(who) >= SHORTEST_KEY and each.key.startswith(who))
    ]
    if len(found) == 1:
        return found[0]
    seen = "nobody who has called has this key, subject or name." if not found else "several people have this name."
    raise InvalidRequestError(Problem("PERSON", f"{seen} flux2-mcp team people lists them; give the key."))
