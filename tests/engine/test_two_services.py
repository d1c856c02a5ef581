"""Two processes' worth on one home: each service with a journal, an owner and a keeper of its own."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.runner import CLAIM_SECONDS
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import Outcome
from tests.support.services import (
    CREATE,
    FETCH,
    POLL,
    Front,
    Reply,
    Seen,
    constantly,
    fronted,
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


def held(service: Service, outcome: Outcome) -> bool:
    return all(service._runner.leased(told.record.key) is not None for told in outcome.tasks)


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

        async def call(service: Service) -> None:
            ended.extend(states(await made(service, "a fox [sandbox:slow]")))

        async with anyio.create_task_group() as group:
            group.start_soon(call, one)
            await until(lambda: front.count(POLL) > 0)
            group.start_soon(call, two)
            await until(lambda: bool(two._runner._watchers))
            go_on.set()
        assert two._runner._leased == {}
    assert ended == [State.DELIVERED] * 2
    assert len(front.tasks()) == 1


async def test_a_task_is_kept_by_one_process_only(front: Front, tmp_path: Path) -> None:
    async with opened_twice(front.settings(tmp_path)) as (one, two):
        outcome = await made(one, STUCK, wait=0)
        keys = [told.record.key for told in outcome.tasks]
        checked = await two.check([str(outcome.tasks[0].record.task_id)], wait_seconds=CLAIM_SECONDS + 0.5)
        assert held(one, outcome)
        assert not held(two, outcome)
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

            async def wait() -> None:
                outcomes.append(await heir.check([str(made_first.tasks[0].record.task_id)], wait_seconds=30))

            group.start_soon(wait)
            await until(lambda: bool(heir._runner._watchers))
        front.rule = through
    assert outcomes[0].tasks[0].record.state is State.DELIVERED
    assert front.count(CREATE) == 1


async def test_a_task_that_was_taken_over_while_its_process_stood_still_is_let_go(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux2_mcp.engine.runner.CLAIM_SECONDS", 0.05)
    async with opened_twice(front.settings(tmp_path)) as (one, two):
        outcome = await made(one, STUCK, wait=0)
        key = outcome.tasks[0].record.key

        def processing() -> bool:  # from then on its polls bring no news, and nothing that is written tells of the heir
            kept = one._runner.leased(key)
            return kept is not None and kept.record.state is State.PROCESSING

        await until(processing)
        database = one._journal._opened
        assert database is not None
        database.execute("UPDATE task SET lease_until = ?, owner = ?", (time.monotonic() + 15, two.session))
        await until(lambda: one._runner.leased(key) is None)
        await until(lambda: two._runner.leased(key) is not None)
    assert len(front.tasks()) == 1


async def test_an_image_is_fetched_by_one_process_only(front: Front, tmp_path: Path) -> None:
    async with opened_twice(front.settings(tmp_path)) as (one, two), anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(made, one, f"fox {number}")
            group.start_soon(made, two, f"fox {number}")
    assert front.count(FETCH) == 6
    assert len(front.tasks()) == 6
    assert len(list((tmp_path / "home" / "images").iterdir())) == 6
