"""The contract's suite: what processes share beside the tasks, leases on them and the pace of calls to RunAPI."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import anyio
import anyio.to_thread
import pytest

from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.pacing import MIN_CALLS_PER_SECOND
from flux2_mcp.journal import owners
from flux2_mcp.journal.contract import LEASE_SECONDS, Journal
from flux2_mcp.journal.records import TaskRecord
from tests.support.journals import Clock, Home, intend, intent, new, steps

pytestmark = pytest.mark.anyio


def keys(records: tuple[TaskRecord, ...]) -> list[str]:
    return [record.key for record in records]


# --- leases ---


async def test_who_intends_a_task_holds_it(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("k1"), intent("k2"))
    assert await two.leases.claim() == ()
    claimed = await one.leases.claim()
    assert keys(claimed) == ["k1", "k2"]
    assert {record.owner for record in claimed} == {"one"}


async def test_a_lease_lapses_when_its_owner_is_not_heard_of_and_not_before(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent())
    home.clock.now += LEASE_SECONDS
    assert await two.leases.claim() == ()
    home.clock.now += 0.001
    assert keys(await two.leases.claim()) == ["k"]
    assert await one.leases.claim() == ()


async def test_claiming_again_renews_the_lease(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent())
    for _ in range(5):
        home.clock.now += LEASE_SECONDS - 0.5
        assert keys(await one.leases.claim()) == ["k"]
        assert await two.leases.claim() == ()


async def test_an_owner_that_slept_through_its_lease_takes_it_up_again_if_nobody_else_did(home: Home) -> None:
    one = home.journal("one")
    await new(one, intent())
    home.clock.now += 1000 * LEASE_SECONDS
    assert keys(await one.leases.claim()) == ["k"]
    assert await home.journal("two").leases.claim() == ()


async def test_what_is_released_is_free_at_once(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("k1"))
    await new(two, intent("k2"))
    await new(home.journal("three"), intent("k3"))
    await one.leases.release()
    assert keys(await two.leases.claim()) == ["k1", "k2"]
    assert await one.leases.claim() == ()


async def test_only_unfinished_tasks_are_claimed(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    lives: dict[str, list[Event]] = {
        "intent": [],
        "submitted": [Event.ACCEPTED],
        "processing": [Event.ACCEPTED, Event.PROCESSING],
        "completed": [Event.ACCEPTED, Event.COMPLETED],
        "delivered": [Event.ACCEPTED, Event.COMPLETED, Event.DELIVERED],
        "undelivered": [Event.ACCEPTED, Event.COMPLETED, Event.EXPIRED],
        "failed": [Event.ACCEPTED, Event.FAILED],
        "rejected": [Event.REFUSED],
        "unknown": [Event.EXPIRED],
    }
    await new(one, *map(intent, lives))
    for key, life in lives.items():
        if life:
            await steps(one, key, *life)
    open_ones = ["intent", "submitted", "processing", "completed"]
    assert keys(await one.leases.claim()) == open_ones
    await one.leases.release()
    assert keys(await two.leases.claim()) == open_ones


async def test_an_adopted_task_is_its_adopters(home: Home) -> None:
    one = home.journal("one")
    await one.tasks.adopt(intent("adopted"), "t", at=(await new(one, intent("k")))[0].created_at)
    assert await home.journal("two").leases.claim() == ()
    assert keys(await one.leases.claim()) == ["k", "adopted"]


async def test_of_many_who_claim_at_once_one_gets_each_task(home: Home) -> None:
    await new(home.journal("dead"), *(intent(f"k{number}") for number in range(8)))
    home.clock.now += LEASE_SECONDS + 1
    claimed: dict[str, list[str]] = {}

    async def claim(owner: str) -> None:
        claimed[owner] = keys(await home.journal(owner).leases.claim())

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(claim, f"p{number}")
    assert sorted(key for taken in claimed.values() for key in taken) == [f"k{number}" for number in range(8)]


async def test_a_claim_with_nothing_to_take_waits_for_no_writer(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent())
    with anyio.fail_after(30), home.busy():
        assert await two.leases.claim() == ()


@pytest.mark.skipif(sys.platform == "win32", reason="there, nobody can be asked without being ended")
async def test_what_a_dead_process_held_is_free_before_its_lease_lapses(home: Home) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:  # noqa: ASYNC220  # it ends at once
        its = owners.name().replace(f"/{os.getpid()}/", f"/{child.pid}/")
    await new(home.journal(its), intent("dead"))
    await new(home.journal(owners.name()), intent("alive"))
    heir = home.journal(owners.name())
    assert keys(await heir.leases.claim()) == ["dead"]


# --- the pace of calls ---


def never_faster(times: list[float], rate: float) -> None:
    """In no second more than `rate` calls; below one a second, never two within 1/rate seconds."""
    times = sorted(times)
    together, span = max(1, int(rate)), max(1.0, 1 / rate)
    gaps = [later - sooner for sooner, later in zip(times, times[together:], strict=False)]
    assert min(gaps) > span, (rate, min(gaps))


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 1.7, 2.0, 2.5, 7.3, 10.0])
async def test_several_processes_together_never_make_more_calls_in_a_second_than_the_rate(
    home: Home, rate: float
) -> None:
    dice = random.Random(7)  # noqa: S311  # a seeded load
    journals = [home.journal("one"), home.journal("two")]
    times = []
    for _ in range(60):
        times.append(home.clock.now + await dice.choice(journals).pace.turn(rate))
        home.clock.now += dice.choice([0, 0, 0.01, dice.random() / rate])
    never_faster(times, rate)


async def test_a_quarter_of_a_second_goes_at_once_and_the_rate_is_nearly_reached(home: Home) -> None:
    journal = home.journal()
    times = [await journal.pace.turn(10) for _ in range(100)]
    assert times[:3] == [0.0, 0.0, pytest.approx(0.25)]
    assert times[-1] < 12.5


async def test_turns_that_were_not_used_up_do_not_pile_up(home: Home) -> None:
    journal = home.journal()
    await journal.pace.turn(5)
    home.clock.now += 3600
    times = [await journal.pace.turn(5) for _ in range(30)]
    never_faster(times, 5)


async def test_after_a_429_nobody_calls_before_the_time_it_names(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await one.pace.turn(10)
    await one.pace.limited(30.0)
    assert await two.pace.turn(10) == pytest.approx(30.0)
    home.clock.now += 29.0
    assert 1.0 <= await one.pace.turn(10) + 1e-6 < 1.3
    home.clock.now += 2.0
    assert await one.pace.turn(10) == 0


@pytest.mark.parametrize("seconds", [3_601.0, 86_400.0])
async def test_a_429_that_names_hours_is_law_too(home: Home, seconds: float) -> None:
    journal = home.journal()
    await journal.pace.turn(10)
    await journal.pace.limited(seconds)
    assert await journal.pace.turn(10) == pytest.approx(seconds)


async def test_a_429_without_a_time_holds_everybody_for_a_second(home: Home) -> None:
    journal = home.journal()
    await journal.pace.turn(10)
    await journal.pace.limited(None)
    assert await journal.pace.turn(10) == pytest.approx(1.0)


async def test_the_longest_of_several_429s_counts(home: Home) -> None:
    journal = home.journal()
    await journal.pace.turn(10)
    await journal.pace.limited(20.0)
    await journal.pace.limited(5.0)
    assert await journal.pace.turn(10) == pytest.approx(20.0)


async def rate_now(journal: Journal, clock: Clock, rate: float) -> int:
    """How many calls go out in the next second, on a clock that stands still."""
    clock.now += 10
    times = [await journal.pace.turn(rate) for _ in range(3 * int(rate))]
    return sum(1 for time in times if time < 1)


async def test_a_429_halves_the_rate_and_calls_that_are_not_refused_bring_it_back(home: Home) -> None:
    journal = home.journal()
    assert await rate_now(journal, home.clock, 20) == 20
    await journal.pace.limited(0.0)
    assert 8 <= await rate_now(journal, home.clock, 20) < 15
    for _ in range(40):
        home.clock.now += 1
        await journal.pace.turn(20)
    assert await rate_now(journal, home.clock, 20) == 20


async def test_a_burst_of_429s_is_one_refusal_and_not_ten(home: Home) -> None:
    """Ten calls were out when the first was refused: that the others are refused too says nothing new."""
    journal = home.journal()
    for _ in range(10):
        await journal.pace.turn(16)
    for _ in range(10):
        await journal.pace.limited(2.0)
    assert await rate_now(journal, home.clock, 16) >= 8


async def test_the_rate_never_falls_so_low_that_nothing_moves(home: Home) -> None:
    journal = home.journal()
    await journal.pace.turn(10)
    for _ in range(50):
        await journal.pace.limited(0.0)
    times = [await journal.pace.turn(10) for _ in range(4)]
    never_faster(times, 2 * MIN_CALLS_PER_SECOND)
    assert times[-1] - times[0] < 3 * 1.3 / MIN_CALLS_PER_SECOND


async def test_each_account_has_a_pace_of_its_own(home: Home) -> None:
    ours, theirs = home.journal(), home.journal(account="other")
    await ours.pace.turn(1)
    await ours.pace.limited(60.0)
    await ours.pace.turn(1)
    assert await theirs.pace.turn(1) == 0


async def test_turns_asked_for_at_the_same_time_are_never_given_twice(home: Home) -> None:
    times: list[float] = []

    async def ask(owner: str) -> None:
        journal = home.journal(owner)
        for _ in range(25):
            times.append(await journal.pace.turn(10))  # noqa: PERF401  # each waits for its answer, as a call does

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(ask, f"p{number}")
    assert len(times) == 100
    never_faster(times, 10)


# --- two versions of the schema's user ---


async def test_leases_survive_what_happens_to_tasks(home: Home) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent())
    await steps(one, "k", Event.ACCEPTED)
    (record,) = await one.leases.claim()
    assert (record.owner, record.task_id) == ("one", "task-k")
    joined = await intend(two, intent("other"), join=True)
    assert joined.records[0].owner == "one"
    assert await two.leases.claim() == ()
