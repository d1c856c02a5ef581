"""Hybrid tasks from the create to the file, and what tells that a task is paid once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.errors import RejectedError
from flux2_mcp.sandbox.scenarios import MODERATED
from tests.support.faults import broken
from tests.support.services import (
    CREATE,
    POLL,
    Front,
    Reply,
    Seen,
    fronted,
    journal_of,
    made,
    opened,
    through,
    until,
)

pytestmark = pytest.mark.anyio

RESULT = "GET /api/v1/tasks/"
FOX, STUCK = "a red fox [sandbox:hybrid]", "a red fox [sandbox:hybrid][sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def test_a_hybrid_task_is_delivered_and_charged_like_any_other(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        (told,) = (await made(service, FOX)).tasks
    assert (told.record.state, told.record.charged_usd) == (State.DELIVERED, Decimal("0.05"))
    assert (front.count(CREATE), front.count(POLL)) == (1, 0)
    assert front.count(RESULT) >= 1


async def test_retry_after_of_a_202_is_kept_to(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        await made(service, FOX)
    (created,) = (seen.at for seen in front.seen if seen.is_(CREATE))
    asked = [seen.at for seen in front.seen if seen.is_(RESULT)]
    assert asked
    assert min(asked) >= created + 1


async def test_a_process_that_comes_later_asks_at_the_same_place(front: Front, tmp_path: Path) -> None:
    settings = front.settings(tmp_path)
    async with opened(settings) as service:
        (told,) = (await made(service, STUCK, wait=0)).tasks
        location = f"/api/v1/tasks/{told.record.task_id}"
        assert told.record.location == location
    before = front.count(RESULT)
    async with opened(settings) as service:
        await until(lambda: front.count(RESULT) > before)
        (record,) = await journal_of(service).tasks.find([told.record.key])
    assert (record.location, front.count(POLL), front.count(CREATE)) == (location, 0, 1)


async def test_a_process_that_died_before_it_wrote_the_id_down_is_followed_by_one_that_finds_it(
    front: Front, tmp_path: Path
) -> None:
    settings = front.settings(tmp_path)
    async with opened(settings) as service:
        (told,) = (await made(service, "another [sandbox:stuck]", wait=0)).tasks  # makes the journal
        mend = broken(settings.home / "journal.sqlite3", "UPDATE OF task_id")
        (told,) = (await made(service, FOX, wait=0)).tasks
        await until(lambda: front.count(CREATE) >= 2)
        assert told.record.state is State.INTENT
    mend()
    async with opened(settings) as service:

        async def delivered() -> bool:
            (record,) = await journal_of(service).tasks.find([told.record.key])
            return record.state is State.DELIVERED

        await until(delivered)
    assert len(front.tasks()) == 2
    assert len({seen.key for seen in front.seen if seen.is_(CREATE)}) == 2


async def test_a_location_elsewhere_ends_nothing_and_the_same_key_finds_the_task(front: Front, tmp_path: Path) -> None:
    left = 1

    async def rule(seen: Seen) -> Reply | None:
        nonlocal left
        reply = await through(seen)
        if reply is not None and seen.is_(CREATE) and left:
            left -= 1
            return replace(reply, headers={**reply.headers, "location": "https://evil.example/api/v1/tasks/t"})
        return reply

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        (told,) = (await made(service, FOX)).tasks
    assert told.record.state is State.DELIVERED
    assert [task.creates for task in front.tasks()] == [2]


async def test_a_stored_error_is_a_failed_task_that_costs_nothing(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        (told,) = (await made(service, f"{FOX}[sandbox:moderation]")).tasks
    assert (told.record.state, told.record.error) == (State.FAILED, MODERATED)
    assert told.record.counted_usd == 0


async def test_a_hybrid_task_of_another_program_is_found_by_its_id(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path / "one")) as service:
        (told,) = (await made(service, FOX, wait=0)).tasks
    async with opened(front.settings(tmp_path / "two")) as service:
        (found,) = (await service.check([str(told.record.task_id)], wait_seconds=60)).tasks
    assert (found.record.state, found.record.location) == (State.DELIVERED, told.record.location)


async def test_a_journal_that_was_lost_keeps_where_the_task_is(front: Front, tmp_path: Path) -> None:
    settings = front.settings(tmp_path)
    async with opened(settings) as service:
        (told,) = (await made(service, STUCK, wait=0)).tasks
        (settings.home / "journal.sqlite3").write_bytes(b"no journal at all" * 1000)

        async def again() -> bool:
            found = await journal_of(service).tasks.find([str(told.record.task_id)])
            return [record.location for record in found] == [told.record.location]

        await until(again)


async def test_a_replay_is_told_as_the_proof_that_it_is_paid_once(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service, "a red fox [sandbox:replayed]")
        again = await service.check([str(outcome.tasks[0].record.task_id)], wait_seconds=0)
    (record,) = (told.record for told in outcome.tasks)
    words = f"RunAPI knew the idempotency key of {record.task_id} already: nothing new was made, and it is paid once."
    assert (outcome.notice, again.notice) == (words, words)
    assert [task.creates for task in front.tasks()] == [2]


async def test_a_create_that_was_heard_at_once_tells_no_replay(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        assert (await made(service, FOX)).notice is None


async def test_a_refund_and_a_settlement_are_what_was_charged(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        kept = await made(service, "a red fox [sandbox:billing][sandbox:other_words]")
        back = await made(service, "a red fox [sandbox:refunded][sandbox:hybrid]")
    assert [told.record.charged_usd for told in (*kept.tasks, *back.tasks)] == [Decimal("0.05"), Decimal(0)]


async def test_a_refused_callback_is_told_with_runapis_words(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        with pytest.raises(RejectedError, match="The callback can't be signed with this key"):
            await made(service, "a red fox [sandbox:callback_refused]")
