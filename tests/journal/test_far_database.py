"""A database that is far away: each way there and back may take seconds, so few are needed, and what they take is told."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from flux2_mcp.domain.audit import AuditEntry, What
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.journal.postgres.migrations import MIGRATIONS
from flux2_mcp.journal.postgres.slowness import Slowness
from flux2_mcp.journal.postgres.store import PostgresJournal
from flux2_mcp.journal.postgres.wall_clock import KEPT_SECONDS, WallClock
from flux2_mcp.journal.records import IntentResult, TaskChange
from tests.support import postgres
from tests.support.journals import ACCOUNT, AT, Clock, intent, new
from tests.support.pg_proxy import PgProxy
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio

RATE = 12.0


class Far:
    """A journal, and how often its database was asked."""

    def __init__(self, journal: PostgresJournal, proxy: PgProxy) -> None:
        self.journal = journal
        self._proxy = proxy

    async def ways(self, call: Callable[[], Awaitable[object]]) -> int:
        """How many messages a call has sent, each of which waits for its answer."""
        before = self._proxy.sent
        await call()
        return self._proxy.sent - before


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    with PgProxy(postgres.shared().with_schema()) as proxy:
        journal = PostgresJournal(proxy.url, ACCOUNT, "a")
        await journal.tasks.recent(limit=1)
        yield Far(journal, proxy)
        await journal.close()


async def test_what_is_done_for_each_call_to_runapi_is_one_way_to_the_database(far: Far) -> None:
    leases, pace = far.journal.leases, far.journal.pace
    (record,) = await new(far.journal, intent("made"))
    await pace.turn(RATE)  # the first one begins the account's record
    assert await far.ways(lambda: pace.turn(RATE)) == 1
    assert await far.ways(lambda: leases.hold(record)) == 1
    assert await far.ways(leases.claim) == 1
    assert await far.ways(leases.unfinished) == 1
    assert await far.ways(lambda: far.journal.tasks.find(["made", "other", "third"])) == 1
    assert await far.ways(far.journal.history.durations) == 1
    entry = AuditEntry(at=AT, what=What.LIST, person="ada")
    assert await far.ways(lambda: far.journal.audit.note([entry])) == 1
    assert await far.ways(lambda: far.journal.money.spent(at=AT, session=None)) == 1


async def test_a_call_and_a_step_are_few_ways_to_the_database(far: Far) -> None:
    ada = far.journal.of("ada")
    caps = Caps(daily_usd=5, person_daily_usd=1)  # type: ignore[arg-type]  # numbers do

    async def intend() -> None:
        await ada.tasks.intend([intent("made")], at=AT, caps=caps, join=True, in_flight=9)

    assert await far.ways(intend) <= 6
    (record,) = await far.journal.tasks.find(["made"])
    assert record.started

    async def accept() -> None:
        await far.journal.tasks.apply(record, Event.ACCEPTED, TaskChange(at=AT, task_id="id"))

    assert await far.ways(accept) <= 4


async def test_a_call_that_was_sent_for_the_former_account_of_a_key_is_done_again_for_its_present_one() -> None:
    url = postgres.shared().with_schema()
    one, two = (PostgresJournal(url, f"runapi.ai:{name}", name) for name in ("one", "two"))
    await new(one, intent("of one"))
    assert await two.tasks.find(["of one"]) == ()
    await one.accounts.belongs("account")
    other = PostgresJournal(url, "runapi.ai:two", "other")
    await other.accounts.belongs("account")  # another process, with the second key
    (made,) = await new(two, intent("of two"))
    assert made.account == "runapi.ai:one"
    assert [record.key for record in await two.tasks.find(["of one", "of two"])] == ["of one", "of two"]
    for journal in (one, two, other):
        await journal.close()


async def test_a_yes_of_a_user_needs_no_way_of_its_own(far: Far) -> None:
    found: list[IntentResult] = []

    async def ways(key: str, *, consent: str | None, join: bool = False) -> int:
        async def intend() -> None:
            one = intent(key)
            found.append(
                await far.journal.tasks.intend([one], at=AT, caps=Caps(), join=join, in_flight=9, consent=consent)
            )

        return await far.ways(intend)

    assert await ways("made", consent=None) == await ways("other", consent="yes")
    assert await ways("third", consent="yes") == 2
    assert await ways("fourth", consent="another yes", join=True) == 2
    assert [(each.repeated, each.joined) for each in found[2:]] == [(True, False), (False, True)]
    assert await far.ways(lambda: far.journal.tasks.consented("another yes")) == 1


async def test_the_first_start_on_an_empty_database_is_few_ways_for_each_migration() -> None:
    with PgProxy(postgres.shared().with_schema()) as proxy:
        journal = PostgresJournal(proxy.url, ACCOUNT, "a")
        await journal.tasks.recent(limit=1)
        assert proxy.sent <= 4 * len(MIGRATIONS)
        await journal.close()


async def test_turns_in_one_way_are_those_of_the_long_one() -> None:
    """Two accounts, of which one takes its turns as it would after a 429."""
    url = postgres.shared().with_schema()
    one, other = (PostgresJournal(url, f"runapi.ai:{name}", "a", clock=Clock()) for name in ("one", "other"))
    quick = [await one.pace.turn(RATE) for _ in range(9)]
    slow = [await super(type(other.pace), other.pace).turn(RATE) for _ in range(9)]
    assert quick == slow
    await one.pace.limited(2.0, RATE)
    assert await one.pace.turn(RATE) >= 2.0
    for journal in (one, other):
        await journal.close()


# --- how slow it is ---------------------------------------------------------------------------------------------------


def test_a_slow_database_is_told_once_when_it_begins_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    slowness = Slowness(clock)

    def statement(seconds: float) -> None:
        with slowness.measured():
            clock.now += seconds

    with caplog.at_level(logging.WARNING):
        for seconds in (0.2, 2.0, 3.0, 0.9, 0.1):
            statement(seconds)
    assert [record.message for record in caplog.records] == [
        "the journal's database is slow", "the journal's database is no longer slow",
    ]  # fmt: skip
    assert slowness.seconds == pytest.approx(0.1)


def test_a_statement_that_is_not_answered_counts_as_soon_as_it_takes_longer_than_the_last_one() -> None:
    clock = Clock()
    slowness = Slowness(clock)
    with slowness.measured():
        clock.now += 2.0
        assert slowness.seconds == 2.0
        with slowness.measured():  # sent later, answered at once: what comes after it was sent before
            pass
    assert slowness.seconds == 0.0


async def test_a_lease_lasts_longer_where_statements_take_long_and_nothing_is_taken_from_others_where_they_take_too_long() -> (
    None
):
    clock = Clock()
    url = postgres.shared().with_schema()
    one, two = (PostgresJournal(url, ACCOUNT, name, clock=clock, is_dead=lambda _: False) for name in ("one", "two"))

    def takes(journal: PostgresJournal, seconds: float) -> None:
        with journal.server.slowness.measured():
            clock.now += seconds

    await new(one, intent("made"))
    takes(one, 2.0)
    assert [record.key for record in await one.leases.claim()] == ["made"]
    clock.now += 17.9
    assert await two.leases.claim() == ()
    clock.now += 0.2
    takes(two, 5.0)
    with two.server.slowness.measured():  # under way: the claim's own way comes and goes meanwhile
        clock.now += 5.0
        assert await two.leases.claim() == ()
    assert [record.key for record in await two.leases.claim()] == ["made"]
    for journal in (one, two):
        await journal.close()


# --- its time ---------------------------------------------------------------------------------------------------------


async def test_the_time_that_counts_is_the_databases_whatever_the_machine_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A machine that is two days ahead would find the caps of a day empty."""
    url = postgres.shared().with_schema()
    journal = PostgresJournal(url, ACCOUNT, "a", wall=lambda: time.time() + 2 * 86_400)
    assert journal.utc_now() > datetime.now(UTC) + timedelta(days=1)  # it has asked nobody yet
    with caplog.at_level(logging.WARNING):
        await journal.tasks.recent(limit=1)
        await journal.tasks.recent(limit=1)
    assert abs(journal.utc_now() - datetime.now(UTC)) < timedelta(seconds=DEADLINE)
    assert [record.message for record in caplog.records] == [
        "this machine's clock is not the database's, whose time counts"
    ]
    await journal.close()


def test_what_was_answered_soonest_tells_best_how_far_two_clocks_are_apart() -> None:
    wall, mono = Clock(1_000_000.0), Clock()
    clock = WallClock(wall, mono)

    def seconds() -> float:
        return clock.now().timestamp() - wall()

    clock.note(wall() + 3.0 - 2.0, 4.0)  # it was asked 4 s ago: the answer is some 2 s old
    assert seconds() == pytest.approx(3.0)
    clock.note(wall() + 3.1, 0.02)
    assert seconds() == pytest.approx(3.11)
    clock.note(wall() + 2.0, 3.0)  # it fits, and tells less
    assert seconds() == pytest.approx(3.11)
    clock.note(wall() + 60.0, 0.02)  # somebody has set one of the two
    assert seconds() == pytest.approx(60.01)
    mono.now += KEPT_SECONDS + 1
    clock.note(wall() + 60.0, 0.4)  # after a time each counts
    assert seconds() == pytest.approx(60.2)
