"""Two processes' worth on one home: each service with a journal, an owner and a runner of its own."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import OnProgress, Outcome, Progress
from tests.support.faults import sql
from tests.support.services import (
    CREATE,
    FETCH,
    POLL,
    Counted,
    Front,
    Reply,
    Seen,
    constantly,
    fronted,
    journal_of,
    made,
    opened,
    opened_twice,
    states,
    through,
    until,
)

pytestmark = pytest.mark.anyio

STUCK = "a red fox [sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def held(service: Service, outcome: Outcome) -> bool:
    """Whether this process looks after all of them."""
    found = await journal_of(service).tasks.find([told.record.key for told in outcome.tasks])
    return {record.owner for record in found} == {service.session}


async def test_the_same_call_in_two_processes_is_one_task_and_both_get_it(front: Front, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []

    async def call(service: Service) -> None:
        outcomes.append(await made(service, "a red fox [sandbox:slow]"))

    async with opened_twice(front.settings(tmp_path)) as (one, two), anyio.create_task_group() as group:
        group.start_soon(call, one)
        group.start_soon(call, two)
    assert [outcome.joined for outcome in outcomes].count(True) == 1
    assert outcomes[0].tasks == outcomes[1].tasks
    assert len(front.tasks()) == 1


async def test_the_process_that_does_not_poll_has_the_answer_too(front: Front, tmp_path: Path) -> None:
    go_on, ended = anyio.Event(), list[State]()

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(POLL):
            await go_on.wait()
        return await through(seen)

    front.rule = rule
    async with opened_twice(front.settings(tmp_path)) as (one, two):
        waits = anyio.Event()

        async def call(service: Service, on_progress: OnProgress | None = None) -> None:
            outcome = await made(service, "a fox [sandbox:slow]", on_progress=on_progress)
            ended.extend(states(outcome))
            assert await held(one, outcome)

        async def second_waits(_: Progress) -> None:
            waits.set()

        async with anyio.create_task_group() as group:
            group.start_soon(call, one)
            await until(lambda: front.count(POLL) > 0)
            group.start_soon(call, two, second_waits)
            await waits.wait()
            go_on.set()
    assert ended == [State.DELIVERED] * 2
    assert len(front.tasks()) == 1


async def test_a_task_is_kept_by_one_process_only(front: Front, tmp_path: Path) -> None:
    async with opened_twice(front.settings(tmp_path)) as (one, two):
        outcome = await made(one, STUCK, wait=0)
        keys = [told.record.key for told in outcome.tasks]
        checked = await two.check([str(outcome.tasks[0].record.task_id)], wait_seconds=Timing().claim_seconds + 0.5)
        assert await held(one, outcome)
        assert not await held(two, outcome)
        assert [told.record.key for told in checked.tasks] == keys


async def test_a_process_that_ends_well_hands_its_tasks_over_at_once(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as first:
        outcome = await made(first, STUCK, wait=0, count=3)
    with closing(sqlite3.connect(tmp_path / "home" / "journal.sqlite3")) as read:
        assert read.execute("SELECT count(*), count(lease_until) FROM task").fetchall() == [(3, 0)]
    async with opened(front.settings(tmp_path)) as heir:
        await until(lambda: held(heir, outcome))


async def test_who_waits_for_a_task_of_a_process_that_ends_gets_it_all_the_same(front: Front, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    front.rule = constantly(POLL, None)
    async with opened(front.settings(tmp_path)) as heir, anyio.create_task_group() as group:
        async with opened(front.settings(tmp_path)) as first:
            made_first = await made(first, "a red fox", wait=0)

            waits = anyio.Event()

            async def note(_: Progress) -> None:
                waits.set()

            async def wait() -> None:
                ident = str(made_first.tasks[0].record.task_id)
                outcomes.append(await heir.check([ident], wait_seconds=30, on_progress=note))

            group.start_soon(wait)
            await waits.wait()
        front.rule = through
    assert outcomes[0].tasks[0].record.state is State.DELIVERED
    assert front.count(CREATE) == 1


async def test_a_task_that_was_taken_over_while_its_process_stood_still_is_let_go(front: Front, tmp_path: Path) -> None:
    settings, often, by_one, by_two = front.settings(tmp_path), Timing(claim_seconds=0.05), Counted(), Counted()
    async with (
        opened(settings, connect=by_one.connect, timing=often) as one,
        opened(settings, connect=by_two.connect, timing=often) as two,
    ):
        outcome = await made(one, STUCK, wait=0)

        async def processing() -> (
            bool
        ):  # from then on its polls bring no news, and nothing that is written tells of the heir
            (known,) = await journal_of(one).tasks.find([outcome.tasks[0].record.key])
            return known.state is State.PROCESSING

        await until(processing)
        statement = "UPDATE task SET lease_until = ?, owner = ?"
        sql(settings.home / "journal.sqlite3", statement, time.monotonic() + 15, two.session)

        async def let_go() -> bool:
            before, after = by_one.calls, by_two.calls
            await until(lambda: by_two.calls >= after + 20)
            return by_one.calls == before

        await until(let_go)
    assert len(front.tasks()) == 1


async def test_an_image_is_fetched_by_one_process_only(front: Front, tmp_path: Path) -> None:
    async with opened_twice(front.settings(tmp_path)) as (one, two), anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(made, one, f"fox {number}")
            group.start_soon(made, two, f"fox {number}")
    assert front.count(FETCH) == 6
    assert len(front.tasks()) == 6
    assert len(list((tmp_path / "home" / "images").iterdir())) == 6
