"""Two creates that RunAPI answers with one task id: the first keeps its task, the second ends and says what it may have cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from tests.engine.test_steps import INSTANT, opened
from tests.support.services import CREATE, Reply, constantly, through

pytestmark = pytest.mark.anyio


async def test_the_second_create_with_the_id_of_the_first_ends_and_is_not_sent_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        first = await shop.intent("first", INSTANT)
        await shop.worker.send(first)
        ident = first.record.task_id or ""
        shop.front.rule = constantly(CREATE, Reply(200, b'{"id": "%s", "status": "pending"}' % ident.encode()))
        second = await shop.intent("second", "another fox")
        await shop.worker.send(second)
        assert (second.record.state, second.record.task_id, second.trouble) == (State.UNKNOWN, None, None)
        words = task_words.words(task_results.generation(Outcome(tasks=(TaskReport(second.record),), sandbox=False)))
        for phrase in (
            f"the id of another task, {ident}",
            "look at that task first",
            "is not known",
            "never sent again",
        ):
            assert phrase in words
        assert "Next:" not in words
        assert await shop.journal.tasks.find([ident]) == (first.record,)
        shop.front.rule = through
        await shop.worker.fetch(first)
        assert first.record.state is State.DELIVERED
        assert [entry.key for entry in await shop.journal.leases.claim()] == []
