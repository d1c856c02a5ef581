"""What becomes of open tasks whose rows are gone from the journal: the process that keeps them writes them down anew."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.seam import Seam, Timing
from flux2_mcp.engine.service import Service
from tests.support.services import CREATE, GARBAGE, NO_MONEY, SPEED, Front, Reply, Seen, fronted, made, through, until

pytestmark = pytest.mark.anyio


def often_claimed(usual: Seam) -> Seam:
    return replace(usual, speed=SPEED, timing=Timing(claim_seconds=0.05))


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def test_a_create_that_may_have_been_taken_is_not_given_up_by_a_refusal_after_its_row_was_lost(
    front: Front, tmp_path: Path
) -> None:
    journal = tmp_path / "home" / "journal.sqlite3"

    def rows(sql: str) -> int:
        with closing(sqlite3.connect(journal)) as database, database:
            return database.execute(sql).rowcount

    async def rule(seen: Seen) -> Reply | None:
        if not seen.is_(CREATE):
            return await through(seen)
        number = front.count(CREATE)
        if number == 1:  # it was made, and what was answered makes no sense
            await through(seen)
            return GARBAGE
        return NO_MONEY if number == 2 else await through(seen)

    front.rule = rule
    async with Service.opened(front.settings(tmp_path), seam=often_claimed) as service:
        outcome = await made(service, wait=0)
        (told,) = outcome.tasks
        assert (told.record.state, told.record.task_id) == (State.INTENT, None)
        assert rows("DELETE FROM task") == 1
        await until(lambda: rows("UPDATE task SET nudged = nudged") == 1)
        checked = await service.check([told.record.key], wait_seconds=30)
    assert [each.record.state for each in checked.tasks] == [State.DELIVERED]
    assert [task.creates for task in front.tasks()] == [2]
