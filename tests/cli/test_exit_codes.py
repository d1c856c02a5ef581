"""The exit code of a command that waited for tasks, from how the tasks stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux2_mcp.cli.task_output import exit_code
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import DeliveryError, Flux2Error, InsufficientCreditsError, RateLimitedError, TransportError
from tests.support.journals import intent, new, opened, steps

pytestmark = pytest.mark.anyio

EMPTY = InsufficientCreditsError("The account is empty.", status=402)
BUSY = RateLimitedError("Too many requests.", status=429)
DONE = (Event.ACCEPTED, Event.COMPLETED, Event.DELIVERED)
STUCK = (Event.ACCEPTED,)
FAILED = (Event.ACCEPTED, Event.FAILED)


async def code(tmp_path: Path, *tasks: tuple[tuple[Event, ...], Flux2Error | None]) -> int:
    """Of a call whose tasks had these steps and meet this trouble."""
    async with opened(tmp_path) as home:
        journal, told = home.journal(), []
        for number, (events, trouble) in enumerate(tasks):
            [entry] = await new(journal, intent(f"k{number}"))
            told.append(TaskReport(await steps(journal, entry.key, *events) if events else entry, trouble))
    return exit_code(Outcome(tasks=tuple(told), sandbox=False))


async def test_of_several_troubles_the_first_ones_code_counts(tmp_path: Path) -> None:
    first, second = (STUCK, BUSY), (STUCK, TransportError("No answer."))
    assert await code(tmp_path, (DONE, None), first, second) == RateLimitedError.exit_code
    assert await code(tmp_path / "turned", (DONE, None), second, first) == TransportError.exit_code


async def test_trouble_that_was_got_over_does_not_count(tmp_path: Path) -> None:
    assert await code(tmp_path, (DONE, DeliveryError("Once.")), (DONE, None)) == 0


async def test_an_end_without_an_image_is_told_only_when_nothing_runs_any_more(tmp_path: Path) -> None:
    assert await code(tmp_path, (DONE, None), (FAILED, None)) == 7
    assert await code(tmp_path / "open", (FAILED, None), (STUCK, None)) == 5
    assert await code(tmp_path / "empty", ((), EMPTY)) == 3
