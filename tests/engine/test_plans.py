"""What polling is planned with: the part of the rate, what was learnt of durations, and how long RunAPI has had a task."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.engine import forecast
from flux2_mcp.engine.backend import Backend, account_name
from flux2_mcp.engine.runner import TaskRunner
from flux2_mcp.engine.seam import Seam, Timing
from flux2_mcp.engine.source_images import SourceImages
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.journals import AT, apply, intend, intent, steps
from tests.support.services import SPEED, Front, Plans, fronted, made, nothing, opened, opened_twice, until

pytestmark = pytest.mark.anyio

RATE = 1000.0
STUCK = "a red fox [sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


OFTEN = Timing(claim_seconds=0.05)


def parts(plans: Plans) -> set[float]:
    """The rates of the plans so far, as parts of the whole."""
    return {round(rate * SPEED / RATE, 3) for rate in plans.rates}


async def test_each_process_plans_with_its_part_of_the_rate(front: Front, tmp_path: Path) -> None:
    plans = Plans()
    async with opened_twice(front.settings(tmp_path, rate=RATE), plan=plans, timing=OFTEN) as (one, two):
        await made(one, STUCK, count=3, wait=0)
        await made(two, f"another {STUCK}", wait=0)
        plans.clear()
        await until(lambda: {0.75, 0.25} <= parts(plans))


async def test_a_process_alone_has_all_of_the_rate(front: Front, tmp_path: Path) -> None:
    plans = Plans()
    async with opened(front.settings(tmp_path, rate=RATE), plan=plans, timing=OFTEN) as service:
        await made(service, STUCK, count=3, wait=0)
        plans.clear()
        await until(lambda: len(plans.rates) > 3)
        assert parts(plans) == {1.0}


async def test_each_image_that_is_done_teaches_how_long_the_next_may_take(front: Front, tmp_path: Path) -> None:
    plans = Plans()
    async with opened(front.settings(tmp_path), plan=plans, timing=OFTEN) as service:
        for number in (1, 2):
            kind = (await made(service, f"fox {number}")).tasks[0].record.kind
            await made(service, f"{number} {STUCK}", wait=0)
            await until(lambda kind=kind, number=number: len(plans.histories[-1].get(kind, ())) == number)


async def test_a_task_is_as_old_as_runapi_has_had_it(front: Front, tmp_path: Path) -> None:
    """One that waited an hour for a free place is not asked about as one that has run for an hour."""
    settings, now = front.settings(tmp_path), datetime.now(UTC)
    elsewhere = SqliteJournal(settings.home, account_name(settings), "another-machine/1/another")
    await intend(elsewhere, intent("k"), at=now - timedelta(hours=1))
    await apply(elsewhere, "k", Event.ACCEPTED, TaskChange(at=now, task_id="task-k"))
    await elsewhere.leases.release()
    await elsewhere.close()
    plans = Plans()
    async with opened(settings, plan=plans, timing=OFTEN):
        await until(lambda: len(plans.tasks) > 0)
        (task,) = plans.tasks[0]
        assert time.monotonic() - task.submitted_at / SPEED < 1800


async def test_what_is_left_is_told_in_seconds_of_the_clock_and_only_while_runapi_works(
    front: Front, tmp_path: Path
) -> None:
    """In the sandbox, whose tasks run faster than life, what they still take is as much less."""
    settings, speed, age = front.settings(tmp_path), 10.0, 0.2
    journal = SqliteJournal(settings.home, account_name(settings), "owner")
    backend = Backend(settings, gate=nothing, on_limited=nothing)
    seam = Seam(journal=journal, backend=backend, speed=speed, now=lambda: AT + timedelta(seconds=age))
    images = ImageFolder(tmp_path)
    sources = SourceImages(seam, (), images)
    runner = TaskRunner(seam, images, sources, caps=Caps(), rate=1, in_flight=1)
    (entry,) = (await intend(journal, intent("k"))).records
    assert (entry.state, runner.expected(entry)) == (State.INTENT, None)
    entry = await steps(journal, "k", Event.ACCEPTED)
    whole = forecast.forecast(entry.kind).expected(age * speed)
    assert whole is not None
    assert runner.expected(entry) == pytest.approx(whole / speed)
    assert runner.expected(await steps(journal, "k", Event.COMPLETED)) is None
    await journal.close()
