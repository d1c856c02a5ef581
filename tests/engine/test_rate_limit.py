"""One limiter for all calls: measured in front of a sandbox that itself allows any number."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from math import inf
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain.pacing import DEFAULT_WAIT_SECONDS
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.rate_limit import LATE_SECONDS, MAX_TURNS, RateLimiter
from flux2_mcp.errors import JournalError, RateLimitedError
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.contract import Pace
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.settings import Settings
from tests.support.journals import Clock
from tests.support.services import fronted, made, opened_twice, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "home", "account", "owner")
    yield journal
    await journal.close()


class CountedPace:
    """The journal's turns, counted; each is asked for `ask_seconds` later, as where another process has the file."""

    def __init__(self, pace: Pace, ask_seconds: float = 0.0) -> None:
        self._pace = pace
        self._ask_seconds = ask_seconds
        self.turns = 0

    async def turn(self, rate: float, longest: float = inf) -> float:
        self.turns += 1
        await anyio.sleep(self._ask_seconds)
        return await self._pace.turn(rate, longest)

    async def limited(self, retry_after: float | None, rate: float = inf) -> None:
        await self._pace.limited(retry_after, rate)


class FullPace(CountedPace):
    async def limited(self, *_: object, **__: object) -> None:
        raise JournalError("The journal can't be used: database or disk is full.")


NOTE_TURNS = """
CREATE TABLE noted (at REAL);
CREATE TRIGGER note AFTER INSERT ON turn BEGIN INSERT INTO noted VALUES (new.at); END
"""


async def note_turns(settings: Settings) -> Path:
    """From now on the file notes each turn, on the machine's monotonic clock: the journal sweeps away those of before."""
    journal = open_journal(settings.home, account_name(settings))
    await journal.leases.unfinished()
    await journal.close()
    path = settings.home / "journal.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(NOTE_TURNS)
    return path


def busiest(times: Sequence[float]) -> int:
    """The most calls that any second saw."""
    return max(sum(1 for at in times if start <= at < start + 1) for start in times)


async def test_a_burst_through_two_services_has_no_more_turns_than_the_rate_in_any_second(tmp_path: Path) -> None:
    """When what was sent arrives is the machine's affair; no call goes out before its turn, and none without one."""
    rate = 8
    async with fronted(tmp_path) as front:
        settings = front.settings(tmp_path, rate=float(rate))
        path = await note_turns(settings)
        async with opened_twice(settings) as services, anyio.create_task_group() as group:
            for number in range(12):
                prompt = f"fox {number} [sandbox:moderation]"
                group.start_soon(made, services[number % 2], prompt)
        assert len(front.tasks()) == 12
        arrived = sorted(seen.at for seen in front.seen)
    with closing(sqlite3.connect(path)) as connection:
        turns = [float(at) for (at,) in connection.execute("SELECT at FROM noted ORDER BY at")]
    assert len(turns) >= len(arrived) > 2 * rate
    assert all(turn <= at for turn, at in zip(turns, arrived, strict=False))
    assert busiest(turns) <= rate


async def test_turns_that_were_given_before_a_429_are_not_used_under_it(journal: SqliteJournal) -> None:
    limiter, ended = RateLimiter(journal.pace, 4.0), []

    async def call() -> None:
        await limiter.turn()
        ended.append(time.monotonic())

    async with anyio.create_task_group() as group:
        for _ in range(7):
            group.start_soon(call)
        await until(lambda: len(ended) >= 4)
        told = time.monotonic()
        await limiter.limited(1.5)
        before = len(ended)
    assert before < len(ended) == 7
    assert [at for at in ended[before:] if at < told + 1.5] == []


async def test_a_429_that_says_nothing_stops_everybody_for_a_second(journal: SqliteJournal) -> None:
    limiter = RateLimiter(journal.pace, 1000.0)
    await limiter.turn()
    told = time.monotonic()
    await limiter.limited(None)
    await limiter.turn()
    assert time.monotonic() - told >= DEFAULT_WAIT_SECONDS


async def test_a_429_that_one_process_met_stops_the_others(journal: SqliteJournal, tmp_path: Path) -> None:
    other = SqliteJournal(tmp_path / "home", "account", "another owner")
    await RateLimiter(journal.pace, 1000.0).turn()
    told = time.monotonic()
    await RateLimiter(other.pace, 1000.0).limited(0.7)
    await RateLimiter(journal.pace, 1000.0).turn()
    assert time.monotonic() - told >= 0.7
    await other.close()


async def test_a_429_that_is_met_while_it_is_learnt_whose_the_key_is_stops_everybody_and_is_waited_for_once(
    tmp_path: Path,
) -> None:
    """The turn was taken under the key's own name, and what belongs to the account stands under its first key's."""
    old, new, other = (
        SqliteJournal(tmp_path / "home", f"host:{name}", owner)
        for name, owner in (("old", "o"), ("new", "me"), ("new", "other"))
    )
    await old.accounts.belongs("account")
    pace = CountedPace(new.pace)
    met = RateLimiter(pace, 8.0)
    await met.turn()
    await new.accounts.belongs("account")
    before = pace.turns
    told = time.monotonic()
    await met.limited(1.5)
    async with anyio.create_task_group() as group:
        for limiter in (met, RateLimiter(other.pace, 8.0)):
            group.start_soon(limiter.turn)
    assert time.monotonic() - told >= 1.5
    assert pace.turns - before <= 2
    with anyio.fail_after(30):  # half the rate: one call a quarter of a second
        begun = [await other.pace.turn(8.0) + time.monotonic() for _ in range(3)]
    assert begun[2] - begun[1] > 1 / 8
    for journal in (old, new, other):
        await journal.close()


async def test_a_429_that_could_not_be_written_down_is_waited_for_without_asking_again_and_again(
    journal: SqliteJournal,
) -> None:
    pace = FullPace(journal.pace)
    limiter = RateLimiter(pace, 1000.0)
    told = time.monotonic()
    with pytest.raises(JournalError):
        await limiter.limited(0.7)
    await limiter.turn()
    assert time.monotonic() - told >= 0.7
    assert pace.turns <= MAX_TURNS


async def test_who_waited_for_the_journal_does_not_call_earlier_by_that(journal: SqliteJournal) -> None:
    await RateLimiter(journal.pace, 1000.0).turn()
    told = time.monotonic()
    await journal.pace.limited(0.3)
    await RateLimiter(CountedPace(journal.pace, ask_seconds=LATE_SECONDS / 2), 1000.0).turn()
    assert time.monotonic() - told >= 0.3


async def test_who_wakes_late_takes_another_turn_but_not_for_ever(journal: SqliteJournal) -> None:
    pace, clock = CountedPace(journal.pace), Clock()

    async def oversleep(seconds: float) -> None:
        clock.now += seconds + 2 * LATE_SECONDS

    with anyio.fail_after(30):
        await RateLimiter(pace, 1000.0, monotonic=clock, sleep=oversleep).turn()
    assert pace.turns == MAX_TURNS


async def test_who_would_have_to_wait_long_after_a_429_hears_of_it_at_once_and_takes_no_turn(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    other = SqliteJournal(tmp_path / "home", "account", "another owner")
    await RateLimiter(journal.pace, 1.0).turn()
    await RateLimiter(other.pace, 1.0).limited(1000)
    with anyio.fail_after(30):
        for asked in (RateLimiter(journal.pace, 1.0), RateLimiter(other.pace, 1.0)):
            with pytest.raises(RateLimitedError, match=r"429: Too many requests$") as raised:
                await asked.turn()
            assert raised.value.retry_after is not None
            assert 900 < raised.value.retry_after <= 1000
    assert 1000 - 60 < await journal.pace.turn(1.0) <= 1000  # the first turn is still to be had
    await other.close()
