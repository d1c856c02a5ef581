"""How a task is told to stand: whether waiting on brings anything, and how long it may take."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.waiting import TaskReport, remaining
from flux2_mcp.errors import AuthenticationError, DeliveryError, Flux2Error, JournalError, ServiceError, TransportError
from tests.support.journals import intent, new, opened

pytestmark = pytest.mark.anyio

NO_JOURNAL = JournalError("The journal can't be used.")
WRONG_KEY = AuthenticationError("Invalid API key", status=401)
PASSING = (ServiceError("Busy", status=503), TransportError("No answer."))
BROKEN = DeliveryError("The image is broken.")


@pytest.fixture
async def open_task(tmp_path: Path) -> TaskReport:
    async with opened(tmp_path) as home:
        [entry] = await new(home.journal(), intent())
    return TaskReport(replace(entry, state=State.SUBMITTED, task_id="task"))


def state(task: TaskReport, state: State, trouble: Flux2Error | None = None) -> TaskReport:
    return replace(task, record=replace(task.record, state=state), trouble=trouble)


async def test_what_does_not_pass_by_itself_ends_the_wait_and_what_passes_does_not(open_task: TaskReport) -> None:
    for lasting in (NO_JOURNAL, WRONG_KEY):
        assert all(state(open_task, each, lasting).settled for each in (State.INTENT, State.SUBMITTED))
    for passing in (*PASSING, None):
        assert not any(state(open_task, each, passing).settled for each in (State.INTENT, State.PROCESSING))


async def test_an_image_that_was_made_is_waited_for_until_it_is_written_down_that_it_can_not_be_had(
    open_task: TaskReport,
) -> None:
    assert [state(open_task, State.COMPLETED, trouble).settled for trouble in (None, BROKEN)] == [False, False]
    spoilt = replace(open_task, record=replace(open_task.record, error="Its image can't be had."))
    assert state(spoilt, State.COMPLETED, BROKEN).settled
    assert all(state(open_task, each).settled for each in State if not each.unfinished)


async def test_several_tasks_take_as_long_as_the_slowest_and_nobody_says_so_of_one_that_may_be_stuck(
    open_task: TaskReport,
) -> None:
    short, long, stuck = (replace(open_task, remaining=seconds) for seconds in (2.0, 9.0, None))
    done = state(stuck, State.DELIVERED)
    assert remaining([short, long]) == 9.0
    assert remaining([short, done]) == 2.0
    assert remaining([short, stuck, long]) is None
    assert remaining([done]) is None
