"""The runner: one bad task harms no other, nothing ends it, nothing piles up, and clocks may jump."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.models import Action, RemoteTask
from flux2_mcp.engine import planner
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.steps import MAX_THREADS, LeasedTask
from flux2_mcp.engine.waiting import Progress, TaskReport
from flux2_mcp.engine.watchers import Watcher
from flux2_mcp.errors import NOTHING_SENT, InsufficientCreditsError, JournalError
from flux2_mcp.journal.contract import Journal, Leases
from flux2_mcp.journal.records import IntentResult, TaskRecord
from flux2_mcp.runapi.client import RunApi
from tests.support.faults import around, broken, garble
from tests.support.services import (
    BUSY,
    CORRUPT,
    CREATE,
    FETCH,
    NO_MONEY,
    PATIENCE,
    POLL,
    Front,
    Plans,
    Reply,
    Seen,
    always,
    constantly,
    fronted,
    journal_of,
    made,
    opened,
    through,
    until,
)

pytestmark = pytest.mark.anyio

STUCK, SLOW = "a red fox [sandbox:stuck]", "a red fox [sandbox:slow]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


OFTEN = Timing(claim_seconds=0.05, restart_seconds=0.05)
"""Looks for leases forty times as often, so that no test waits for one."""


def claiming(claim: Callable[[Leases, bool], Awaitable[tuple[TaskRecord, ...]]]) -> Callable[[Journal], Journal]:
    """A journal whose leases are claimed so."""

    def made_from(usual: Journal) -> Journal:
        leases = usual.leases
        return around(usual, leases=around(leases, claim=lambda *, take=True: claim(leases, take)))

    return made_from


def polls_of(front: Front, task_id: str | None) -> int:
    return sum(1 for seen in front.seen if seen.is_(POLL) and seen.what.endswith(f"/{task_id}"))


# --- one for all, and none for one ---


async def test_a_task_whose_work_breaks_unforeseen_harms_no_other_and_is_tried_again(
    front: Front, tmp_path: Path
) -> None:
    broken = [True]

    def connect(base_url: str, key: str | None) -> RunApi:
        api = RunApi(base_url, key, version="0")

        async def get(action: Action, task_id: str, **more: Any) -> RemoteTask:  # noqa: ANN401  # as RunApi.get
            if broken and any(task.id == task_id and "bad" in task.body["prompt"] for task in front.tasks()):
                raise KeyError(task_id)
            return await api.get(action, task_id, **more)

        return around(api, get=get)

    async with opened(front.settings(tmp_path), connect=connect) as service:
        key = (await made(service, "a bad fox", wait=0)).tasks[0].record.key
        good = await made(service, "a good fox")
        assert good.tasks[0].record.state is State.DELIVERED
        told: list[TaskReport] = []

        async def troubled() -> bool:
            told[:] = (await service.check([key], wait_seconds=0)).tasks
            return told[0].trouble is not None

        await until(troubled)
        assert told[0].record.state.unfinished
        assert str(told[0].trouble).startswith("The server failed on this task.")
        broken.clear()
        checked = await service.check([key], wait_seconds=PATIENCE)
    assert checked.tasks[0].record.state is State.DELIVERED
    assert len(front.tasks()) == 2


async def test_a_task_whose_step_can_not_be_written_harms_no_other(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        bad = await made(service, STUCK, wait=0)
        key = bad.tasks[0].record.key
        mend = broken(
            service.settings.home / "journal.sqlite3", "UPDATE", when=f"old.key = '{key}' AND new.state <> old.state"
        )
        for number in range(3):
            assert (await made(service, f"fox {number}")).tasks[0].record.state is State.DELIVERED
        mend()


async def test_the_runner_starts_again_whatever_ended_it(front: Front, tmp_path: Path) -> None:
    fails, failures = False, 0

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        nonlocal failures
        if fails and failures < 3:
            failures += 1
            raise ValueError("a row that nobody can read")
        return await leases.claim(take=take)

    async with opened(front.settings(tmp_path), timing=OFTEN, journal=claiming(claim)) as service:
        first = await made(service, STUCK, wait=0)
        fails = True
        await until(lambda: failures == 3)
        assert (await made(service)).tasks[0].record.state is State.DELIVERED
        polls = polls_of(front, first.tasks[0].record.task_id)
        await until(lambda: polls_of(front, first.tasks[0].record.task_id) > polls)


async def test_a_create_under_way_when_the_runner_broke_down_is_not_given_up_by_a_later_refusal(
    front: Front, tmp_path: Path
) -> None:
    fails = False

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        nonlocal fails
        if fails:
            fails = False
            raise ValueError("a row that nobody can read")
        return await leases.claim(take=take)

    async def hang(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if seen.is_(CREATE):
            await anyio.sleep_forever()
        return answer

    settings = front.settings(tmp_path)
    async with (
        opened(settings, timing=OFTEN, journal=claiming(claim)) as service,
        anyio.create_task_group() as group,
    ):
        await made(service, STUCK, wait=0)
        front.rule = hang
        group.start_soon(made, service, "a red fox")
        await until(lambda: len(front.tasks()) == 2)
        front.rule = always(CREATE, NO_MONEY)
        fails = True
        await until(lambda: front.count(CREATE) >= 4)  # sent again, refused, and sent once more
    assert len(front.tasks()) == 2
    assert [task.creates for task in front.tasks()] == [1, 2]


async def test_without_leases_nothing_is_asked_and_with_them_all_goes_on(
    front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    claims = 0

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        nonlocal claims
        claims += 1
        return await leases.claim(take=take)

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "flux2_mcp.tasks"]

    async with opened(front.settings(tmp_path), timing=OFTEN, journal=claiming(claim)) as service:
        await made(service, STUCK, wait=0)
        await until(lambda: front.count(POLL) > 0)
        for _ in range(2):
            caplog.clear()
            mend = broken(service.settings.home / "journal.sqlite3", "UPDATE OF lease_until")
            await until(lambda: "leases not renewed" in said())
            polls, before = front.count(POLL), claims
            await until(lambda before=before: claims > before + 8)  # time for many polls
            assert front.count(POLL) <= polls + 1
            mend()
            await until(lambda polls=polls: front.count(POLL) > polls + 1)
            assert said() == ["leases not renewed", "leases renewed again"]


async def test_a_call_whose_turn_at_the_journal_does_not_come_ends_with_nothing_sent_and_the_next_one_goes_on(
    front: Front, tmp_path: Path
) -> None:
    away, waits, back = False, anyio.Event(), anyio.Event()

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        if away:  # as with a database that says nothing: it is waited for, with the right to write new tasks
            waits.set()
            await back.wait()
        return await leases.claim(take=take)

    timing = Timing(claim_seconds=0.05, intake_seconds=0.1)
    async with opened(front.settings(tmp_path), timing=timing, journal=claiming(claim)) as service:
        await made(service)
        creates, away = front.count(CREATE), True
        await waits.wait()
        for _ in range(2):
            with pytest.raises(JournalError, match=r"could not take the task within 0\.1 s") as caught:
                await made(service, "a grey owl", wait=0)
            assert caught.value.cost == NOTHING_SENT
        away = False
        back.set()
        assert (await made(service, "a grey owl")).tasks[0].record.state is State.DELIVERED
        assert front.count(CREATE) == creates + 1


async def test_nothing_piles_up_in_memory(front: Front, tmp_path: Path) -> None:
    def there() -> int:
        gc.collect()
        return sum(isinstance(each, LeasedTask | Watcher) for each in gc.get_objects())

    async with opened(front.settings(tmp_path), timing=OFTEN) as service:
        before = there()
        for number in range(3):
            await made(service, f"fox {number}", count=4)
        await until(lambda: there() <= before)
    assert len(front.tasks()) == 12


async def test_what_a_caller_waits_for_is_not_forgotten_before_it_was_told(front: Front, tmp_path: Path) -> None:
    """An end that no journal holds, as the refusal's own error, would be gone with the task."""
    claims, waits = 0, anyio.Event()

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        nonlocal claims
        claims += 1
        return await leases.claim(take=take)

    async def rule(seen: Seen) -> Reply | None:
        if not seen.is_(CREATE):
            return await through(seen)
        await waits.wait()
        return NO_MONEY

    front.rule = rule
    async with opened(front.settings(tmp_path), timing=OFTEN, journal=claiming(claim)) as service:

        async def slow(_: Progress) -> None:
            """Looks again after the task has ended, and after what has ended was let go."""
            waits.set()

            async def refused() -> bool:
                return all(entry.state is State.REJECTED for entry in await journal_of(service).tasks.recent(limit=5))

            await until(refused)
            before = claims
            await until(lambda: claims > before + 2)

        with pytest.raises(InsufficientCreditsError):
            await made(service, on_progress=slow)


async def test_a_new_task_is_not_taken_for_one_that_another_process_may_have_sent(front: Front, tmp_path: Path) -> None:
    """A claim that falls between the writing of an intent and its keeping would not believe its refusal."""
    front.rule = constantly(CREATE, NO_MONEY)
    claims, slow = 0, False

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        nonlocal claims
        claims += 1
        return await leases.claim(take=take)

    def slowly(usual: Journal) -> Journal:
        async def intend(*given: Any, **more: Any) -> IntentResult:  # noqa: ANN401  # as the journal's
            written, before = await usual.tasks.intend(*given, **more), claims
            if slow:
                with anyio.move_on_after(0.3):
                    await until(lambda: claims > before)
                    await anyio.sleep(0.05)
            return written

        return around(claiming(claim)(usual), tasks=around(usual.tasks, intend=intend))

    async with opened(front.settings(tmp_path), timing=OFTEN, journal=slowly) as service:
        with pytest.raises(InsufficientCreditsError):
            await made(service, "the first")
        slow = True
        with pytest.raises(InsufficientCreditsError):
            await made(service, "the second")


# --- the journal's file ---


async def test_a_file_that_breaks_while_tasks_are_open_loses_none_of_them(front: Front, tmp_path: Path) -> None:
    hold = anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(POLL) or (seen.is_(CREATE) and front.count(CREATE) > 2):
            await hold.wait()
        return await through(seen)

    front.rule = rule
    async with opened(front.settings(tmp_path), timing=OFTEN) as service, anyio.create_task_group() as group:
        outcome = await made(service, SLOW, count=2, wait=0)
        group.start_soon(made, service, "a third fox")
        await until(lambda: front.count(CREATE) >= 3)
        path = service.settings.home / "journal.sqlite3"
        garble(path)
        hold.set()
        await until(lambda: journal_of(service).notice is not None)

        async def all_delivered() -> bool:
            entries = await journal_of(service).tasks.recent(limit=10)
            return len(entries) == 3 and all(entry.state is State.DELIVERED for entry in entries)

        await until(all_delivered)
        checked = await service.check([told.record.key for told in outcome.tasks], wait_seconds=PATIENCE)
    assert "moved aside" in str(checked.notice)
    assert sorted(str(told.record.task_id) for told in checked.tasks) == sorted(
        task.id for task in front.tasks() if "slow" in task.body["prompt"]
    )
    assert len(front.tasks()) == 3
    assert len(list(path.parent.glob("journal-broken-*.sqlite3"))) == 1


# --- clocks ---


@pytest.mark.parametrize("jump", [timedelta(days=2), timedelta(days=-2)], ids=["forward", "backward"])
async def test_a_clock_that_jumps_while_a_task_runs_neither_loses_nor_delays_it(
    front: Front, tmp_path: Path, jump: timedelta
) -> None:
    front.rule = constantly(POLL, BUSY)
    jumped = timedelta()
    async with opened(front.settings(tmp_path), now=lambda: datetime.now(UTC) + jumped) as service:
        await made(service, SLOW, wait=0)
        await until(lambda: front.count(POLL) >= 2)
        jumped = jump
        polls = front.count(POLL)
        await until(lambda: front.count(POLL) >= polls + 5)
        front.rule = through
        outcome = await service.recent(limit=1, wait_seconds=30)
    assert outcome.tasks[0].record.state is State.DELIVERED
    assert len(front.tasks()) == 1


async def test_leases_do_not_ask_the_wall_clock(front: Front, tmp_path: Path) -> None:
    settings, claims = front.settings(tmp_path), list[int]()

    async def claim(leases: Leases, take: bool) -> tuple[TaskRecord, ...]:
        claimed = await leases.claim(take=take)
        claims.append(len(claimed))
        return claimed

    def ahead() -> datetime:
        return datetime.now(UTC) + timedelta(days=2)

    async with opened(settings) as one:
        key = (await made(one, STUCK, wait=0)).tasks[0].record.key
        async with opened(settings, timing=OFTEN, now=ahead, journal=claiming(claim)):
            await until(lambda: len(claims) > 5)
        assert set(claims) == {0}
        (entry,) = await journal_of(one).tasks.find([key])
        assert entry.owner == one.session


# --- order and haste ---


async def test_a_task_beyond_the_cap_in_flight_waits_for_a_free_place(front: Front, tmp_path: Path) -> None:
    most = 0

    async def rule(seen: Seen) -> Reply | None:
        nonlocal most
        database = sqlite3.connect(tmp_path / "home" / "journal.sqlite3")
        sql = "SELECT count(*) FROM task WHERE state IN ('submitted', 'processing') OR state = 'intent' AND sent_at > 0"
        most = max(most, database.execute(sql).fetchone()[0])
        database.close()
        return await through(seen)

    async with opened(front.settings(tmp_path, in_flight=2)) as service:
        front.rule = through
        await made(service, "the first")
        front.rule = rule
        outcome = await made(service, count=6)
    assert {told.record.state for told in outcome.tasks} == {State.DELIVERED}
    assert most == 2


async def test_many_images_that_come_together_are_decoded_a_few_at_a_time(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, at_work, most = Image.open, set[int](), 0

    def watched(*given: Any, **options: Any) -> Image.Image:  # noqa: ANN401  # Pillow's own arguments
        nonlocal most
        at_work.add(threading.get_ident())
        most = max(most, len(at_work))
        time.sleep(0.02)
        try:
            return decoder(*given, **options)
        finally:
            at_work.remove(threading.get_ident())

    monkeypatch.setattr(Image, "open", watched)
    async with opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(partial(made, service, f"fox {number}", count=8))
    assert 1 < most <= MAX_THREADS


async def test_each_ask_among_many_costs_no_plan_of_them_all(front: Front, tmp_path: Path) -> None:
    many, speed, asks, plans = 24, 4.0, 60, Plans()
    settings = front.settings(tmp_path)
    async with opened(settings, speed=speed, plan=plans) as service, anyio.create_task_group() as group:
        for number in range(many // 8):
            group.start_soon(partial(made, service, f"{number} {STUCK}", count=8))
        await until(lambda: front.count(POLL) > many)
        plans.clear()
        before, began = front.count(POLL), time.monotonic()
        await until(lambda: front.count(POLL) >= before + asks)
        whole, seconds = sum(len(tasks) for tasks in plans.tasks) / many, time.monotonic() - began
        group.cancel_scope.cancel()
    assert whole <= seconds * speed / planner.MIN_GAP_SECONDS + 1


async def test_a_callers_question_hurries_an_image_that_was_put_off(front: Front, tmp_path: Path) -> None:
    async def rule(seen: Seen) -> Reply | None:
        """After the third try, each of which fetches twice, RunAPI wants no question for an hour."""
        reply = CORRUPT if seen.is_(FETCH) else await through(seen)
        if reply is not None and seen.is_(POLL) and front.count(FETCH) == 5:
            return replace(reply, headers={**reply.headers, "Retry-After": "3600"})
        return reply

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        key = (await made(service)).tasks[0].record.key
        fetches = front.count(FETCH)
        await service.check([key], wait_seconds=0)  # who only looks hurries nothing
        await made(service, "another fox [sandbox:moderation]")
        assert front.count(FETCH) == fetches
        again = await service.check([key], wait_seconds=30)
        assert again.tasks[0].trouble is not None
        assert front.count(FETCH) == fetches + 2
        front.rule = through
        last = await service.check([key], wait_seconds=30)
    assert last.tasks[0].record.state is State.DELIVERED
