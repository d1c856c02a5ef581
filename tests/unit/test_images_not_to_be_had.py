"""An image that RunAPI's side does not give is told as such, with what to do, in every later session too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flux2_mcp import results
from flux2_mcp.errors import DeliveryError, StorageError
from flux2_mcp.lifecycle import State
from flux2_mcp.results import GenerationResult
from flux2_mcp.waiting import Outcome
from flux2_mcp.worker import FETCHES
from tests.unit.services import CORRUPT, FETCH, Front, Reply, constantly, fronted, made, opened, through
from tests.unit.test_worker import opened as shop_opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def told(outcome: Outcome) -> tuple[GenerationResult, str]:
    result = results.generation(outcome)
    return result, results.words(result)


def is_told(outcome: Outcome, why: str) -> None:
    result, words = told(outcome)
    (task,) = result.tasks
    assert (result.next_action, task.status, task.charged_usd) == (None, "completed", 0.05)
    for phrase in (
        f"its image can't be had: {why}",
        "What to do: open its url in a browser",
        "ask RunAPI about this task's id",
        "generate anew, which costs again",
    ):
        assert phrase in (task.error or "")
        assert phrase in words
    assert "check_task" not in words
    assert "It is tried again, ever more seldom, until 20" in words


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (CORRUPT, "The image is broken: it can't be decoded to its end."),
        (Reply(410), "The result's URL answered 410; it may have expired."),
    ],
)
async def test_it_is_told_at_once_and_in_every_later_session_until_the_image_comes_after_all(
    front: Front, tmp_path: Path, reply: Reply, why: str
) -> None:
    front.rule = constantly(FETCH, reply)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
        is_told(outcome, why)
        ident = outcome.tasks[0].entry.task_id or ""
        is_told(await service.check([ident], wait_seconds=30), why)  # hurried again and again
    async with opened(front.settings(tmp_path)) as later:
        is_told(await later.recent(limit=9), why)  # before anything was tried again
        is_told(await later.check([ident], wait_seconds=30), why)
        front.rule = through
        mended = await later.check([ident], wait_seconds=30)
    (task,) = mended.tasks
    assert (task.entry.state, task.entry.error) == (State.DELIVERED, None)
    assert told(mended)[0].tasks[0].error is None


async def test_trouble_of_this_machine_is_no_verdict_and_goes_by(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        incoming = service.settings.home / "incoming"
        incoming.parent.mkdir(exist_ok=True)
        incoming.write_bytes(b"a file in the way")
        for _ in range(4):
            outcome = await made(service, "one fox")
            result, words = told(outcome)
            assert isinstance(outcome.tasks[0].trouble, StorageError)
            assert outcome.tasks[0].entry.error is None
            assert result.next_action is not None
            assert "The image folder can't be written" in words
        incoming.unlink()
        outcome = await service.check([outcome.tasks[0].entry.task_id or ""], wait_seconds=30)
    assert outcome.tasks[0].entry.state is State.DELIVERED


async def test_one_failure_is_no_verdict(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule = constantly(FETCH, CORRUPT)
        errors = []
        for _ in range(4):
            await shop.worker.fetch(kept)
            assert isinstance(kept.trouble, DeliveryError)
            errors.append(kept.entry.error)
            kept.failures = 0  # somebody hurries it each time
        assert [error is not None for error in errors] == [False, False, True, True]


async def test_after_a_week_it_is_given_up_with_what_to_do(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule = constantly(FETCH, Reply(410))
        shop.wall = shop.wall.replace(month=12)
        for _ in range(FETCHES):
            await shop.worker.fetch(kept)
        assert kept.entry.state is State.UNDELIVERED
        for phrase in ("answered 410", "made and charged", "What to do:"):
            assert phrase in (kept.entry.error or "")
        assert kept.entry == (await shop.journal.find(["key-1"]))[0]
