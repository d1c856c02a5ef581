"""A list that shows only the newest tasks: its status and its amounts are those of all that were asked about."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.waiting import MAX_IDS, Outcome
from flux2_mcp.journal.records import TaskFilter, TaskMatches
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from tests.support import journals
from tests.support.journals import AT, intent, new, steps
from tests.support.services import fronted

pytestmark = pytest.mark.anyio

ALL, LISTED = 23, 10


async def listed(tmp_path: Path, limit: int, states: tuple[State, ...] | None = None) -> Outcome:
    """Of 23 tasks at five cents the two oldest failed and were not charged, and the third runs still."""
    async with fronted(tmp_path) as front:
        settings = front.settings(tmp_path)
        async with journals.opened(settings.home) as home:
            journal = home.journal("elsewhere", account=account_name(settings))
            for number in range(ALL):
                key = f"k{number}"
                await new(journal, intent(key, usd="0.05"), at=AT + timedelta(minutes=number))
                if number == 2:
                    await steps(journal, key, Event.ACCEPTED)
                else:
                    failed = number < 2
                    await steps(journal, key, Event.ACCEPTED, Event.FAILED if failed else Event.COMPLETED, usd="0.05")
        # Only now: its runner takes over what no process looks after.
        async with Service.opened(settings) as service:
            return await service.recent(limit=limit, states=states)


async def test_what_is_listed_in_part_is_summed_up_whole(tmp_path: Path) -> None:
    outcome = await listed(tmp_path, LISTED)
    result = task_results.generation(outcome)
    words = task_words.words(result)
    assert len(result.tasks) == LISTED
    assert (result.quoted_usd, result.charged_usd, result.status) == (1.15, 1.0, "processing")
    assert result.matched is not None
    assert (result.matched.count, result.matched.shown, result.matched.before) == (23, 10, "task-k13")
    assert result.matched.by_status == {"completed": 20, "failed": 2, "pending": 1}
    assert "23 tasks match: 20 completed, 2 failed, 1 pending; 10 are shown. For older ones, call check_task" in words
    assert "status: processing; quoted $1.15, charged at least $1.00; of 1 the charge is not known yet" in words


async def test_what_has_not_ended_and_is_not_listed_is_reached_by_the_next_action(tmp_path: Path) -> None:
    outcome = await listed(tmp_path, 2, (State.FAILED, State.SUBMITTED))
    everything = task_results.generation(outcome)
    assert [task.task_id for task in everything.tasks] == ["task-k2", "task-k1"]
    (tmp_path / "more").mkdir()
    outcome = await listed(tmp_path / "more", LISTED)
    result = task_results.generation(outcome)
    assert "task-k2" not in [task.task_id for task in result.tasks]
    assert result.next_action is not None
    assert "task-k2" in result.next_action.arguments["task_ids"]
    assert "'task-k2'" in task_words.words(result)
    (tmp_path / "failed").mkdir()
    failed = task_results.generation(await listed(tmp_path / "failed", 1, (State.FAILED,)))
    assert (len(failed.tasks), failed.status, failed.next_action) == (1, "failed", None)
    assert "2 tasks match: 2 failed; 1 of them is shown." in task_words.words(failed)


async def test_no_next_action_names_more_tasks_than_a_call_takes(tmp_path: Path) -> None:
    (one,) = (await listed(tmp_path, 1, (State.SUBMITTED,))).tasks
    many = tuple(replace(one, record=replace(one.record, task_id=f"task-{number}")) for number in range(100))
    result = task_results.generation(Outcome(tasks=many, sandbox=False))
    assert result.next_action is not None
    assert len(result.next_action.arguments["task_ids"]) == MAX_IDS


@pytest.mark.parametrize("limit", [ALL, ALL + 1])
async def test_what_is_listed_whole_says_nothing_of_a_part(tmp_path: Path, limit: int) -> None:
    outcome = await listed(tmp_path, limit)
    result = task_results.generation(outcome)
    assert (result.quoted_usd, result.charged_usd, result.status) == (1.15, 1.0, "processing")
    assert result.matched is not None
    assert (result.matched.count, result.matched.shown, result.matched.before) == (ALL, ALL, None)
    assert "shown" not in task_words.words(result)


async def test_the_sums_are_of_what_matched(tmp_path: Path) -> None:
    outcome = await listed(tmp_path, 1, (State.FAILED, State.SUBMITTED))
    assert outcome.matched == TaskMatches(
        states={State.FAILED: 2, State.SUBMITTED: 1},
        quoted_usd=Decimal("0.15"),
        charged_usd=Decimal(0),
        uncharged=1,
        models=frozenset({"flux-2-pro-text-to-image"}),
    )
    async with journals.opened(tmp_path / "home") as home:
        journal = home.journal(account=outcome.tasks[0].record.account)
        late = await journal.history.matched(TaskFilter(since=AT + timedelta(minutes=20), workspace="/work"))
        assert (late.tasks, late.charged_usd, late.uncharged) == (3, Decimal("0.15"), 0)
        assert (await journal.history.matched(TaskFilter(workspace="/elsewhere"))) == TaskMatches(
            states={}, quoted_usd=None, charged_usd=None, uncharged=0, models=frozenset()
        )
        running = await journal.history.matched(TaskFilter(states=[State.SUBMITTED]))
        assert (running.quoted_usd, running.charged_usd) == (Decimal("0.05"), None)
