"""Waiting: what a caller is told and when, whoever keeps the task and whatever becomes of the journal."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import structs

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine import planner
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.engine.waiting import Progress
from flux2_mcp.errors import DeliveryError, JournalError
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.server.results import tasks as task_results
from tests.support.faults import around, sql
from tests.support.journals import intend, intent
from tests.support.services import (
    CORRUPT,
    FETCH,
    PATIENCE,
    POLL,
    Front,
    Plans,
    Reply,
    Seen,
    constantly,
    fronted,
    made,
    opened,
    opened_twice,
    through,
    until,
)

pytestmark = pytest.mark.anyio

STUCK, SLOW = "a red fox [sandbox:stuck]", "a red fox [sandbox:slow]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
async def service(front: Front, tmp_path: Path) -> AsyncIterator[Service]:
    async with opened(front.settings(tmp_path)) as service:
        yield service


def failing(*_: object, **__: object) -> Any:  # noqa: ANN401  # stands for any method of the journal
    raise JournalError("The journal can't be used: database or disk is full.")


async def test_what_a_call_has_waited_before_its_task_was_written_counts_as_its_wait(service: Service) -> None:
    offer = await service.offer(CheckedRequest(catalog.request(prompt=STUCK)))
    long_ago = structs.replace(offer, took_seconds=600.0)  # as with a database that takes minutes
    with anyio.fail_after(PATIENCE):
        outcome = await service.generate(long_ago, approved=True, wait_seconds=600.0)
    assert [report.record.state.unfinished for report in outcome.tasks] == [True]


async def test_who_waits_is_woken_by_news_of_their_own_tasks_alone(front: Front, service: Service) -> None:
    looks = 0

    async def counted(_: Progress) -> None:  # progress is told after each look
        nonlocal looks
        looks += 1

    async with anyio.create_task_group() as group:
        group.start_soon(partial(made, service, STUCK, 30.0, on_progress=counted))
        await until(lambda: looks > 0 and front.count(POLL) > 1)  # it was sent, and runs
        before, began = looks, time.monotonic()
        for number in range(8):
            assert (await made(service, f"a fox {number}")).tasks[0].record.state is State.DELIVERED
        passed = time.monotonic() - began
        group.cancel_scope.cancel()
    assert looks - before <= passed + 1  # what progress is told by, once a second


async def test_a_wait_ends_when_its_time_is_over_and_the_task_goes_on(front: Front, service: Service) -> None:
    began = time.monotonic()
    outcome = await made(service, STUCK, wait=0.4)
    assert time.monotonic() - began >= 0.4
    assert outcome.tasks[0].record.state.unfinished
    polls = front.count(POLL)
    await until(lambda: front.count(POLL) > polls)


async def test_progress_tells_elapsed_time_and_states_and_then_what_may_be_left(front: Front, tmp_path: Path) -> None:
    seen: list[Progress] = []

    async def note(progress: Progress) -> None:
        seen.append(progress)

    # As fast as life: a task that is long overdue after the first second has no time left that could be told.
    async with opened(front.settings(tmp_path), speed=1.0) as service, anyio.create_task_group() as group:
        group.start_soon(partial(made, service, STUCK, 60.0, on_progress=note))
        await until(lambda: any(progress.remaining is not None and progress.remaining >= 0 for progress in seen))
        group.cancel_scope.cancel()
    assert [progress.elapsed for progress in seen] == sorted(progress.elapsed for progress in seen)
    assert seen[0].states == (State.INTENT,)
    assert seen[0].remaining is None


async def test_progress_comes_about_once_a_second_even_without_news(service: Service) -> None:
    seen: list[Progress] = []
    with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:

        async def note(progress: Progress) -> None:
            seen.append(progress)
            if len(seen) == 5:
                scope.cancel()

        await made(service, STUCK, wait=600, on_progress=note)
    # There may be news while it is sent and taken; then there is none.
    assert [after.elapsed - before.elapsed > 0.9 for before, after in pairwise(seen[3:])] == [True]


async def test_that_a_task_was_told_matters_less_than_telling_it(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An image that is made and paid for must not come back as an error that says that nothing was."""

    def forgetful(usual: Journal) -> Journal:
        return around(usual, tasks=around(usual.tasks, mark_reported=failing))

    async with opened(front.settings(tmp_path), journal=forgetful) as service:
        outcome = await made(service)
    assert outcome.tasks[0].record.state is State.DELIVERED
    assert "it could not be noted that tasks were reported" in caplog.text


@pytest.mark.parametrize("method", ["version", "find"])
async def test_a_journal_that_fails_in_the_middle_of_a_wait_still_gives_the_id(
    front: Front, tmp_path: Path, method: str
) -> None:
    settings, fails = front.settings(tmp_path), False

    def failing_later(usual: Journal) -> Journal:
        part = usual.tasks if method == "find" else usual.leases

        async def call(*given: object) -> Any:  # noqa: ANN401  # as the journal's
            return failing() if fails else await getattr(part, method)(*given)

        return around(usual, **{"tasks" if method == "find" else "leases": around(part, **{method: call})})

    async with opened(settings) as one, opened(settings, journal=failing_later) as two:
        first = await made(one, STUCK, wait=0)

        async def fail(_: object) -> None:
            nonlocal fails
            fails = True

        with anyio.fail_after(PATIENCE):
            joined = await made(two, STUCK, wait=600, on_progress=fail)
        result = task_results.generation(joined)
    assert result.tasks[0].task_id == first.tasks[0].record.task_id
    assert "disk is full" in str(result.tasks[0].error)
    assert result.next_action is not None


async def test_a_task_that_the_journal_has_lost_is_told_with_its_id(front: Front, tmp_path: Path) -> None:
    async with opened_twice(front.settings(tmp_path)) as (one, two):
        first = await made(one, STUCK, wait=0)
        ident = str(first.tasks[0].record.task_id)

        async def lose(_: object) -> None:
            sql(one.settings.home / "journal.sqlite3", "DELETE FROM task")

        checked = await two.check([ident], wait_seconds=20, on_progress=lose)
    assert isinstance(checked.tasks[0].trouble, JournalError)
    assert task_results.generation(checked).tasks[0].task_id == ident


async def test_an_image_that_can_not_be_fetched_ends_the_wait_and_is_told(front: Front, service: Service) -> None:
    front.rule = constantly(FETCH, CORRUPT)
    with anyio.fail_after(PATIENCE):
        outcome = await made(service, wait=600)
    assert isinstance(outcome.tasks[0].trouble, DeliveryError)
    assert outcome.tasks[0].record.state is State.COMPLETED


async def test_of_several_tasks_the_wait_lasts_for_the_slowest(front: Front, service: Service) -> None:
    stuck, released = anyio.Event(), list[Seen]()

    async def rule(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if seen.is_(FETCH) and not released:
            released.append(seen)
            await stuck.wait()
        return answer

    front.rule = rule
    async with anyio.create_task_group() as group:
        ended: list[State] = []

        async def call() -> None:
            outcome = await made(service, count=3)
            ended.extend(told.record.state for told in outcome.tasks)

        group.start_soon(call)
        await until(lambda: front.count(FETCH) >= 3)
        assert ended == []
        stuck.set()
    assert ended == [State.DELIVERED] * 3


async def test_what_somebody_waits_for_is_asked_about_more_often(front: Front, tmp_path: Path) -> None:
    """Also where the task came into this process's care after the wait had begun."""
    plans, waits = Plans(), anyio.Event()

    async def note(_: Progress) -> None:
        waits.set()

    async with opened(front.settings(tmp_path), plan=plans) as heir:
        async with anyio.create_task_group() as group:
            async with opened(front.settings(tmp_path)) as first:
                key = (await made(first, STUCK, wait=0)).tasks[0].record.key
                group.start_soon(partial(heir.check, [key], wait_seconds=30.0, on_progress=note))
                await waits.wait()
            await until(lambda: len(plans.tasks) > 0)
            assert all(task.watched for tasks in plans.tasks for task in tasks)
            group.cancel_scope.cancel()
        await until(lambda: not plans.tasks[-1][0].watched)  # who waits no more is forgotten


async def test_who_begins_to_wait_just_after_a_plan_was_made_is_in_the_next(front: Front, tmp_path: Path) -> None:
    plans = Plans()
    async with opened(front.settings(tmp_path), speed=1.0, plan=plans) as service, anyio.create_task_group() as group:
        key = (await made(service, STUCK, wait=0)).tasks[0].record.key
        await anyio.sleep(2 * planner.MIN_GAP_SECONDS)
        plans.clear()
        await service.check([key], wait_seconds=0)  # wakes the runner, and has gone when that plans
        await until(lambda: len(plans.tasks) > 0)
        assert not plans.tasks[-1][0].watched
        group.start_soon(partial(service.check, [key], wait_seconds=30.0))
        await until(lambda: plans.tasks[-1][0].watched)
        group.cancel_scope.cancel()


async def test_who_waits_for_nothing_is_not_kept_waiting_for_an_answer_that_is_long_due(
    front: Front, tmp_path: Path
) -> None:
    """Another process has it, and RunAPI never answered: whoever asks again is told at once, each time."""
    settings = front.settings(tmp_path)
    journal = SqliteJournal(settings.home, account_name(settings), "another-machine/1/another")
    try:
        for key, seconds in (("old", 2 * Timing().answer_seconds), ("new", 0)):
            await intend(journal, intent(key), at=datetime.now(UTC) - timedelta(seconds=seconds))
        async with opened(settings) as service:

            async def waits(key: str) -> bool:
                with anyio.CancelScope() as scope:

                    async def waiting(_: Progress) -> None:
                        scope.cancel()

                    await service.check([key], wait_seconds=0, on_progress=waiting)
                return scope.cancelled_caught

            assert [await waits("old"), await waits("new")] == [False, True]
    finally:
        await journal.close()
