"""A process that stood still (SIGSTOP, a sleeping laptop) wakes after another has taken its task over, or after a day."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import NameOwner, Save
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.steps import UNANSWERED, LeasedTask, TaskSteps
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.records import LeaseLostError, TaskChange, TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.runapi import retry
from tests.engine.test_steps import DAY, INSTANT, Shop, opened
from tests.support import journals
from tests.support.faults import around
from tests.support.journals import AT, intent, new
from tests.support.services import (
    BUSY,
    CREATE,
    FETCH,
    NO_MONEY,
    PICTURE,
    Reply,
    Rule,
    Seen,
    always,
    fronted,
    made,
    through,
    until,
)
from tests.support.services import opened as service_opened

pytestmark = pytest.mark.anyio

TWICE = retry.Policy(attempts=2, base=0.5, cap=5.0, total=20.0)


@asynccontextmanager
async def heir(shop: Shop) -> AsyncIterator[tuple[TaskSteps, LeasedTask]]:
    """Another process on the same home, for which the lease of the one task has lapsed; it has taken that over."""
    journal = SqliteJournal(shop.home, "account", "heir", monotonic=lambda: time.monotonic() + LEASE_SECONDS + 1)
    (entry,) = await journal.leases.claim()
    try:
        yield shop.steps(journal=journal), LeasedTask(entry, lost=entry.started)
    finally:
        await journal.close()


async def recorded(shop: Shop) -> TaskRecord:
    (entry,) = await shop.journal.tasks.find(["key-1"])
    return entry


class Held:
    """The first call of one kind waits until it is let go; then it is answered."""

    def __init__(self, kind: str, reply: Reply, then: Rule = through) -> None:
        self.arrived, self.go_on = anyio.Event(), anyio.Event()
        self.then = then
        self._kind, self._reply = kind, reply

    async def __call__(self, seen: Seen) -> Reply | None:
        if not seen.is_(self._kind) or self.arrived.is_set():
            return await self.then(seen)
        self.arrived.set()
        await self.go_on.wait()
        return self._reply


async def wakes_late(shop: Shop, work: str, kept: LeasedTask) -> None:
    """The step of a process that is overtaken in the middle of it."""
    with pytest.raises(LeaseLostError):
        await getattr(shop.worker, work)(kept)


# --- every write of a step, and every sending ---


async def test_a_late_402_does_not_reject_what_the_heirs_create_has_made(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, anyio.create_task_group() as group:
        late, answer = Held(CREATE, NO_MONEY), anyio.Event()

        async def answered_later(seen: Seen) -> Reply | None:
            reply = await through(seen)  # made, and not yet answered
            await answer.wait()
            return reply

        late.then = answered_later
        kept, shop.front.rule = await shop.intent(), late
        group.start_soon(wakes_late, shop, "send", kept)
        await late.arrived.wait()
        async with heir(shop) as (worker, theirs), anyio.create_task_group() as sending:
            sending.start_soon(worker.send, theirs)
            await until(lambda: len(shop.front.tasks()) == 1)
            late.go_on.set()
            await until(lambda: shop.front.count(CREATE) >= 2)
            await anyio.wait_all_tasks_blocked()
            assert (await recorded(shop)).state is State.INTENT
            answer.set()
        entry = await recorded(shop)
        assert (entry.state, entry.task_id) == (State.SUBMITTED, shop.front.tasks()[0].id)


async def test_a_retry_of_a_process_that_was_overtaken_is_never_sent(tmp_path: Path) -> None:
    slept = anyio.Event()

    async def sleep(_: float) -> None:
        async with heir(shop):
            slept.set()

    async with opened(tmp_path, policy=TWICE, sleep=sleep) as shop:
        kept, shop.front.rule = await shop.intent(), always(CREATE, BUSY)
        await wakes_late(shop, "send", kept)
        assert slept.is_set()
        assert shop.front.count(CREATE) == 1
        assert shop.front.tasks() == []


@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_late_image_is_placed_nowhere_and_what_the_user_edited_since_stays(
    tmp_path: Path, overwrite: bool
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "hero.png").write_bytes(b"old")
    target = Save("hero.png" if overwrite else "new.png", overwrite)
    async with opened(tmp_path) as shop, anyio.create_task_group() as group:
        kept = await shop.intent(prompt=INSTANT, workspace=str(project), save=target)
        await shop.worker.send(kept)
        late = shop.front.rule = Held(FETCH, PICTURE)
        group.start_soon(wakes_late, shop, "fetch", kept)
        await late.arrived.wait()
        async with heir(shop) as (worker, theirs):
            await worker.fetch(theirs)
        (image,) = theirs.record.images
        assert image.saved == str(project / target.target)
        Path(image.saved).write_bytes(b"edited by the user")
        Path(image.path).unlink()  # and pruned from the home
        late.go_on.set()
    assert (project / target.target).read_bytes() == b"edited by the user"
    assert {path.name for path in project.iterdir()} == {"hero.png", target.target}
    assert list((shop.home / "images").iterdir()) == list((shop.home / "incoming").iterdir()) == []


async def test_a_task_that_is_overtaken_before_its_image_gets_its_name_leaves_nothing_in_the_workspace(
    tmp_path: Path,
) -> None:
    async def overtaken(record: TaskRecord, path: str) -> NameOwner:
        async with heir(shop):
            return await shop.journal.tasks.claim_name(record, path)

    async with opened(tmp_path) as shop:
        kept = await shop.intent(prompt=INSTANT, workspace=str(tmp_path), save=Save("project/hero.png"))
        await shop.worker.send(kept)
        late = around(shop.journal, tasks=around(shop.journal.tasks, claim_name=overtaken))
        with pytest.raises(LeaseLostError):
            await shop.steps(journal=late).fetch(kept)
        assert list((tmp_path / "project").iterdir()) == []
        assert (await recorded(shop)).state is State.COMPLETED


async def test_a_lease_that_came_back_is_another_one(tmp_path: Path) -> None:
    """Whoever gave a task away and has it again knows nothing of what was done meanwhile."""
    async with journals.opened(tmp_path) as home:
        one, two = home.journal("one"), home.journal("two")
        (before,) = await new(one, intent())
        await one.leases.release()
        (theirs,) = await two.leases.claim()
        await two.leases.release()
        (after,) = await one.leases.claim()
        assert (before.fence, theirs.fence, after.fence) == (0, 1, 2)
        assert await one.leases.claim() == (after,)  # what is only renewed keeps its number
        for stale, journal in ((before, one), (theirs, two), (after, two)):
            for write in (
                journal.tasks.apply(stale, Event.REFUSED, TaskChange(at=AT)),
                journal.tasks.start(stale, at=AT, in_flight=9),
                journal.leases.hold(stale),
                journal.tasks.claim_name(stale, "/project/hero.png"),
            ):
                with pytest.raises(LeaseLostError):
                    await write
        assert await one.tasks.find(["k"]) == (after,)
        assert await one.tasks.claim_name(after, "/project/hero.png") is NameOwner.FREE
        assert (await one.tasks.apply(after, Event.REFUSED, TaskChange(at=AT))).state is State.REJECTED


async def test_who_waits_in_the_process_that_was_overtaken_is_told_what_the_heir_did(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flux2_mcp.tasks")
    async with fronted(tmp_path) as front, service_opened(front.settings(tmp_path)) as service:
        late = front.rule = Held(CREATE, NO_MONEY)
        async with anyio.create_task_group() as group:

            async def call() -> None:
                (told,) = (await made(service, wait=30)).tasks
                assert (told.record.state, told.record.error) == (State.FAILED, "by the heir")

            group.start_soon(call)
            await late.arrived.wait()
            other = SqliteJournal(
                service.settings.home,
                account_name(service.settings),
                "heir",
                monotonic=lambda: time.monotonic() + LEASE_SECONDS + 1,
            )
            (entry,) = await other.leases.claim()
            entry = await other.tasks.apply(entry, Event.ACCEPTED, TaskChange(at=AT, task_id="made"))
            late.go_on.set()
            await until(lambda: "let go" in caplog.text)
            await other.tasks.apply(entry, Event.FAILED, TaskChange(at=AT, error="by the heir"))
            await other.close()


# --- a day over, on a clock that counts sleep ---


async def test_a_retry_after_a_day_of_sleep_is_never_sent(tmp_path: Path) -> None:
    async def sleep(_: float) -> None:
        shop.wall += DAY + timedelta(hours=1)  # no monotonic clock has moved: the machine slept

    async with opened(tmp_path, policy=TWICE, sleep=sleep) as shop:
        kept, shop.front.rule = await shop.intent(), always(CREATE, BUSY)
        await shop.worker.send(kept)
        assert (kept.record.state, kept.record.error) == (State.UNKNOWN, UNANSWERED)
        assert shop.front.count(CREATE) == 1
        assert shop.front.tasks() == []


async def test_a_create_that_waited_a_day_for_its_turn_is_never_sent(tmp_path: Path) -> None:
    async def gate() -> None:
        shop.wall += DAY + timedelta(hours=1)

    async with opened(tmp_path, gate=gate) as shop:
        kept = await shop.intent()
        await shop.worker.send(kept)
        assert (kept.record.state, kept.record.error) == (State.UNKNOWN, UNANSWERED)
        assert shop.front.count(CREATE) == 0
