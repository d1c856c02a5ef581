"""What polling is planned with: the part of the rate, what was learnt of durations, and how long RunAPI has had a task."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.engine import forecast, planner
from flux2_mcp.engine.backend import Backend, account_name
from flux2_mcp.engine.runner import TaskRunner
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.journals import AT, apply, intend, intent, steps
from tests.support.services import SPEED, Front, fronted, made, opened, opened_twice, until

pytestmark = pytest.mark.anyio

RATE = 1000.0
STUCK = "a red fox [sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[planner.OpenTask], Any, float]]:
    """What each plan is made from, from now on: tasks, durations, and the rate as a part of the whole."""
    seen: list[tuple[list[planner.OpenTask], Any, float]] = []
    plan = planner.plan

    def noted(
        tasks: list[planner.OpenTask],
        history: Any,  # noqa: ANN401 - as it is
        *,
        now: float,
        rate: float,
    ) -> tuple[planner.PollTime, ...]:
        seen.append((tasks, history, round(rate * SPEED / RATE, 3)))
        return plan(tasks, history, now=now, rate=rate)

    monkeypatch.setattr("flux2_mcp.engine.planner.plan", noted)
    monkeypatch.setattr("flux2_mcp.engine.runner.CLAIM_SECONDS", 0.05)
    return seen


async def test_each_process_plans_with_its_part_of_the_rate(front: Front, tmp_path: Path, plans: list[Any]) -> None:
    async with opened_twice(front.settings(tmp_path, rate=RATE)) as (one, two):
        await made(one, STUCK, count=3, wait=0)
        await made(two, f"another {STUCK}", wait=0)
        plans.clear()
        await until(lambda: {0.75, 0.25} <= {rate for _, _, rate in plans})


async def test_a_process_alone_has_all_of_the_rate(front: Front, tmp_path: Path, plans: list[Any]) -> None:
    async with opened(front.settings(tmp_path, rate=RATE)) as service:
        await made(service, STUCK, count=3, wait=0)
        plans.clear()
        await until(lambda: len(plans) > 3)
        assert {rate for _, _, rate in plans} == {1.0}


async def test_each_image_that_is_done_teaches_how_long_the_next_may_take(
    front: Front, tmp_path: Path, plans: list[Any]
) -> None:
    async with opened(front.settings(tmp_path)) as service:
        for number in (1, 2):
            kind = (await made(service, f"fox {number}")).tasks[0].record.kind
            await made(service, f"{number} {STUCK}", wait=0)
            await until(lambda kind=kind, number=number: len(plans[-1][1].get(kind, ())) == number)


async def test_a_task_is_as_old_as_runapi_has_had_it(front: Front, tmp_path: Path, plans: list[Any]) -> None:
    """One that waited an hour for a free place is not asked about as one that has run for an hour."""
    settings, now = front.settings(tmp_path), datetime.now(UTC)
    elsewhere = SqliteJournal(settings.home, account_name(settings), "another-machine/1/another")
    await intend(elsewhere, intent("k"), at=now - timedelta(hours=1))
    await apply(elsewhere, "k", Event.ACCEPTED, TaskChange(at=now, task_id="task-k"))
    await elsewhere.leases.release()
    await elsewhere.close()
    async with opened(settings):
        await until(lambda: len(plans) > 0)
        ((task,), _, _) = plans[0]
        assert time.monotonic() - task.submitted_at / SPEED < 1800


async def test_what_is_left_is_told_in_seconds_of_the_clock_and_only_while_runapi_works(
    front: Front, tmp_path: Path
) -> None:
    """In the sandbox, whose tasks run faster than life, what they still take is as much less."""
    settings, speed, age = front.settings(tmp_path), 10.0, 0.2

    async def nothing(*_: object) -> None:
        return

    gateway = Backend(settings, gate=nothing, on_limited=nothing)
    journal = SqliteJournal(settings.home, account_name(settings), "owner")
    keeper = TaskRunner(
        journal, gateway, tmp_path, rate=1, in_flight=1, speed=speed, now=lambda: AT + timedelta(seconds=age)
    )
    (entry,) = (await intend(journal, intent("k"))).records
    assert (entry.state, keeper.expected(entry)) == (State.INTENT, None)
    entry = await steps(journal, "k", Event.ACCEPTED)
    whole = forecast.forecast(entry.kind).expected(age * speed)
    assert whole is not None
    assert keeper.expected(entry) == pytest.approx(whole / speed)
    assert keeper.expected(await steps(journal, "k", Event.COMPLETED)) is None
    await journal.close()
