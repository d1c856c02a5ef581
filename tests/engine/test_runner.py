"""The keeper: one bad task harms no other, nothing ends it, nothing piles up, and clocks may jump."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine import planner
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.steps import MAX_THREADS, LeasedTask
from flux2_mcp.errors import InsufficientCreditsError
from flux2_mcp.images import decode
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.system.sqlite_file import Database
from tests.support.services import (
    BUSY,
    CORRUPT,
    CREATE,
    FETCH,
    NO_MONEY,
    POLL,
    Front,
    Reply,
    Seen,
    always,
    constantly,
    fronted,
    journal_of,
    made,
    opened,
    plans,
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
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for leases forty times as often, so that no test waits for one."""
    monkeypatch.setattr("flux2_mcp.engine.runner.CLAIM_SECONDS", 0.05)
    monkeypatch.setattr("flux2_mcp.engine.runner.RESTART_SECONDS", 0.05)


def database(service: Service) -> Database:
    found = service._journal._opened
    assert found is not None
    return found


async def recorded(service: Service, key: str) -> TaskRecord:
    (entry,) = await journal_of(service).tasks.find([key])
    return entry


# --- one for all, and none for one ---


async def test_a_task_whose_work_breaks_unforeseen_harms_no_other_and_is_tried_again(
    front: Front, tmp_path: Path
) -> None:
    async with opened(front.settings(tmp_path)) as service:
        ask, broken = service._runner._work[State.SUBMITTED], [True]

        async def breaks(kept: LeasedTask) -> None:
            if "bad" in kept.record.request.prompt and broken:
                raise KeyError(kept.record.key)
            await ask(kept)

        service._runner._work = {**service._runner._work, State.SUBMITTED: breaks, State.PROCESSING: breaks}
        bad = await made(service, "a bad fox", wait=0.3)
        good = await made(service, "a good fox")
        assert good.tasks[0].record.state is State.DELIVERED
        assert bad.tasks[0].record.state.unfinished
        assert bad.tasks[0].trouble is not None
        assert bad.tasks[0].trouble.message == "The server failed on this task."
        broken.clear()
        checked = await service.check([bad.tasks[0].record.key], wait_seconds=30)
    assert checked.tasks[0].record.state is State.DELIVERED
    assert len(front.tasks()) == 2


async def test_a_task_that_can_not_be_written_harms_no_other(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        bad = await made(service, STUCK, wait=0)
        key = bad.tasks[0].record.key
        broken = f"BEFORE UPDATE ON task WHEN old.key = '{key}' BEGIN SELECT raise(FAIL, 'broken') ; END"
        database(service).execute(f"CREATE TRIGGER broken {broken}")
        for number in range(3):
            assert (await made(service, f"fox {number}")).tasks[0].record.state is State.DELIVERED
        database(service).execute("DROP TRIGGER broken")


async def test_the_keeper_starts_again_whatever_ended_it(
    front: Front, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del often
    async with opened(front.settings(tmp_path)) as service:
        first = await made(service, STUCK, wait=0)
        claim, failures = service._journal.leases.claim, [0]

        async def broken(**_: bool) -> Any:  # noqa: ANN401  # as the journal's
            failures[0] += 1
            if failures[0] <= 3:
                raise ValueError("a row that nobody can read")
            return await claim()

        monkeypatch.setattr(service._journal, "claim", broken)
        await until(lambda: failures[0] > 3)
        assert (await made(service)).tasks[0].record.state is State.DELIVERED
        assert service._runner.leased(first.tasks[0].record.key) is not None


async def test_a_create_under_way_when_the_keeper_broke_down_is_not_given_up_by_a_later_refusal(
    front: Front, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del often

    async def hang(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if seen.is_(CREATE):
            await anyio.sleep_forever()
        return answer

    async with opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
        await made(service, STUCK, wait=0)
        front.rule = hang
        group.start_soon(made, service, "a red fox")
        await until(lambda: len(front.tasks()) == 2)
        front.rule = always(CREATE, NO_MONEY)
        claim = service._journal.leases.claim

        async def broken(**_: bool) -> Any:  # noqa: ANN401  # as the journal's
            monkeypatch.setattr(service._journal, "claim", claim)
            raise ValueError("a row that nobody can read")

        monkeypatch.setattr(service._journal, "claim", broken)
        await until(lambda: front.count(CREATE) >= 4)  # sent again, refused, and sent once more
    assert len(front.tasks()) == 2
    assert [task.creates for task in front.tasks()] == [1, 2]


async def test_without_leases_nothing_is_asked_and_with_them_all_goes_on(
    front: Front, tmp_path: Path, often: None, caplog: pytest.LogCaptureFixture
) -> None:
    del often
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service, STUCK, wait=0)
        await until(lambda: front.count(POLL) > 0)
        database(service).execute(
            "CREATE TRIGGER full BEFORE UPDATE OF lease_until ON task BEGIN SELECT raise(FAIL, 'disk is full'); END"
        )
        kept = service._runner.leased(outcome.tasks[0].record.key)
        assert kept is not None
        await until(lambda: not kept.busy)
        await until(lambda: caplog.text.count("leases not renewed") > 0)
        polls = front.count(POLL)
        await until(lambda: caplog.text.count("leases not renewed") > 8)  # time for many polls
        assert front.count(POLL) <= polls + 1
        database(service).execute("DROP TRIGGER full")
        await until(lambda: front.count(POLL) > polls + 1)


async def test_nothing_piles_up_in_memory(front: Front, tmp_path: Path, often: None) -> None:
    del often
    async with opened(front.settings(tmp_path)) as service:
        for number in range(5):
            await made(service, f"fox {number}", count=4)
        await until(lambda: not service._runner._leased)
        assert not service._runner._watchers
    assert len(front.tasks()) == 20


async def test_what_a_caller_waits_for_is_not_forgotten_before_it_was_told(
    front: Front, tmp_path: Path, often: None
) -> None:
    """An end that no journal holds, as the refusal's own error, would be gone with the task."""
    del often
    front.rule = constantly(CREATE, NO_MONEY)
    async with opened(front.settings(tmp_path)) as service:
        for number in range(6):
            with pytest.raises(InsufficientCreditsError):
                await made(service, f"fox {number}")


async def test_a_new_task_is_not_taken_for_one_that_another_process_may_have_sent(
    front: Front, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that falls between the writing of an intent and its keeping would not believe its refusal."""
    del often
    front.rule = constantly(CREATE, NO_MONEY)
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(InsufficientCreditsError):
            await made(service, "the first")
        claims = 0
        intend, claim = journal_of(service).tasks.intend, service._journal.leases.claim

        async def counted(**_: bool) -> Any:  # noqa: ANN401  # as the journal's
            nonlocal claims
            claims += 1
            return await claim()

        async def slow(*args: Any, **more: Any) -> Any:  # noqa: ANN401  # as the journal's
            written = await intend(*args, **more)
            with anyio.move_on_after(0.3):
                await until(lambda: claims > 0)
                await anyio.sleep(0.05)
            return written

        monkeypatch.setattr(service._journal, "claim", counted)
        monkeypatch.setattr(service._journal, "intend", slow)
        with pytest.raises(InsufficientCreditsError):
            await made(service, "the second", wait=5)


# --- the journal's file ---


async def test_a_file_that_breaks_while_tasks_are_open_loses_none_of_them(
    front: Front, tmp_path: Path, often: None
) -> None:
    del often
    hold = anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(POLL) or (seen.is_(CREATE) and front.count(CREATE) > 2):
            await hold.wait()
        return await through(seen)

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
        outcome = await made(service, SLOW, count=2, wait=0)
        group.start_soon(made, service, "a third fox")
        await until(lambda: front.count(CREATE) == 3)
        path = service.settings.home / "journal.sqlite3"
        for pragma in (
            "wal_checkpoint(TRUNCATE)",
            "cache_size = 0",
            "shrink_memory",
        ):  # nothing of it is left in memory
            database(service).execute(f"PRAGMA {pragma}")
        with path.open("r+b") as file:
            file.write(b"no database any more" * 2000)
        hold.set()
        await until(lambda: journal_of(service).notice is not None)

        async def all_delivered() -> bool:
            entries = await journal_of(service).tasks.recent(limit=10)
            return len(entries) == 3 and all(entry.state is State.DELIVERED for entry in entries)

        await until(all_delivered)
        checked = await service.check([told.record.key for told in outcome.tasks], wait_seconds=5)
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
    async with opened(front.settings(tmp_path)) as service:

        def now() -> datetime:
            return datetime.now(UTC) + jumped

        service._runner._now = service._runner._steps._now = now
        await made(service, SLOW, wait=0)
        await until(lambda: front.count(POLL) >= 2)
        jumped = jump
        polls = front.count(POLL)
        await until(lambda: front.count(POLL) >= polls + 5)
        front.rule = through
        outcome = await service.recent(limit=1, wait_seconds=30)
    assert outcome.tasks[0].record.state is State.DELIVERED
    assert len(front.tasks()) == 1


async def test_leases_do_not_ask_the_wall_clock(
    front: Front, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del often
    async with opened(front.settings(tmp_path)) as one, opened(front.settings(tmp_path)) as two:
        outcome = await made(one, STUCK, wait=0)
        key = outcome.tasks[0].record.key
        two._runner._now = lambda: datetime.now(UTC) + timedelta(days=2)
        claim, claims = two._journal.leases.claim, list[int]()

        async def counted(**more: Any) -> Any:  # noqa: ANN401  # as the journal's
            claimed = await claim(**more)
            claims.append(len(claimed))
            return claimed

        monkeypatch.setattr(two._journal, "claim", counted)
        await until(lambda: len(claims) > 5)
        assert two._runner.leased(key) is None
        assert one._runner.leased(key) is not None


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
    check, at_work, most = decode.check, set[Path](), 0

    def watched(path: Path) -> decode.CheckedImage:
        nonlocal most
        at_work.add(path)
        most = max(most, len(at_work))
        time.sleep(0.02)
        try:
            return check(path)
        finally:
            at_work.remove(path)

    monkeypatch.setattr("flux2_mcp.images.decode.check", watched)
    async with opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(partial(made, service, f"fox {number}", count=8))
    assert 1 < most <= MAX_THREADS


async def test_each_ask_among_many_costs_no_plan_of_them_all(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, speed, asks = 40, 4.0, 120
    async with Service.opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
        service._runner._speed = speed
        for number in range(many // 8):
            group.start_soon(partial(made, service, f"{number} {STUCK}", count=8))
        await until(lambda: front.count(POLL) > many)
        planned, before, began = plans(monkeypatch), front.count(POLL), time.monotonic()
        await until(lambda: front.count(POLL) >= before + asks)
        whole, seconds = sum(len(tasks) for tasks in planned) / many, time.monotonic() - began
        group.cancel_scope.cancel()
    assert whole <= seconds * speed / planner.MIN_GAP_SECONDS + 1


async def test_a_callers_question_hurries_an_image_that_was_put_off(front: Front, tmp_path: Path) -> None:
    front.rule = constantly(FETCH, CORRUPT)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
        kept = service._runner.leased(outcome.tasks[0].record.key)
        assert kept is not None
        await until(lambda: not kept.busy)
        kept.not_before = service._runner._monotonic() + 3600
        fetches = front.count(FETCH)
        await service.check([kept.record.key], wait_seconds=0)  # who only looks hurries nothing
        await made(service, "another fox [sandbox:moderation]")
        assert front.count(FETCH) == fetches
        again = await service.check([kept.record.key], wait_seconds=30)
        assert again.tasks[0].trouble is not None
        assert front.count(FETCH) == fetches + 2
        front.rule = through
        last = await service.check([kept.record.key], wait_seconds=30)
    assert last.tasks[0].record.state is State.DELIVERED
