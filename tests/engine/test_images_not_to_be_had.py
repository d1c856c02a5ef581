"""An image that RunAPI's side does not give is told as such, with what to do, in every later session too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.steps import MAX_BROKEN_FETCHES, MAX_FETCHES
from flux2_mcp.engine.waiting import Outcome
from flux2_mcp.errors import AuthenticationError, DeliveryError, StorageError
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import GenerationResult
from tests.engine.test_steps import opened as shop_opened
from tests.journal.test_unreadable_records import spoil
from tests.support.rows import each_row
from tests.support.services import (
    BUSY,
    CORRUPT,
    FETCH,
    GARBAGE,
    POLL,
    UNKNOWN_TASK,
    WRONG_KEY,
    Front,
    Reply,
    Rule,
    Seen,
    constantly,
    fronted,
    made,
    opened,
    through,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def told(outcome: Outcome) -> tuple[GenerationResult, str]:
    result = task_results.generation(outcome)
    return result, task_words.words(result)


def is_told(outcome: Outcome, why: str) -> None:
    result, words = told(outcome)
    (task,) = result.tasks
    assert (result.next_action, task.status, task.charged_usd) == (None, "completed", 0.05)
    for phrase in (
        f"its image can't be had: {why}",
        "What to do: open its url in a browser",
        "ask RunAPI about this task's id",
        "generate anew, which has its price again",
    ):
        assert phrase in (task.error or "")
        assert phrase in words
    assert "check_task" not in words
    assert "It is tried again, ever more seldom, until 20" in words


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (CORRUPT, "The image is broken: it can't be decoded to its end."),
        pytest.param(Reply(410), "The result's URL answered 410; it may have expired.", marks=pytest.mark.deep),
    ],
)
async def test_it_is_told_at_once_and_in_every_later_session_until_the_image_comes_after_all(
    front: Front, tmp_path: Path, reply: Reply, why: str
) -> None:
    front.rule = constantly(FETCH, reply)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
        is_told(outcome, why)
        ident = outcome.tasks[0].record.task_id or ""
        is_told(await service.check([ident], wait_seconds=30), why)  # hurried again and again
    async with opened(front.settings(tmp_path)) as later:
        is_told(await later.recent(limit=9), why)  # before anything was tried again
        is_told(await later.check([ident], wait_seconds=30), why)
        front.rule = through
        mended = await later.check([ident], wait_seconds=30)
    (task,) = mended.tasks
    assert (task.record.state, task.record.error) == (State.DELIVERED, None)
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
            assert outcome.tasks[0].record.error is None
            assert result.next_action is not None
            assert "The image folder can't be written" in words
        incoming.unlink()
        outcome = await service.check([outcome.tasks[0].record.task_id or ""], wait_seconds=30)
    assert outcome.tasks[0].record.state is State.DELIVERED


async def test_one_failure_is_no_verdict(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule = constantly(FETCH, CORRUPT)
        errors = []
        for _ in range(4):
            await shop.worker.fetch(kept)
            assert isinstance(kept.trouble, DeliveryError)
            errors.append(kept.record.error)
            kept.failures = 0  # somebody hurries it each time
        assert [error is not None for error in errors] == [False, False, True, True]


async def test_after_a_week_it_is_given_up_with_what_to_do(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule = constantly(FETCH, Reply(410))
        shop.wall = shop.wall.replace(month=12)
        for _ in range(MAX_FETCHES):
            await shop.worker.fetch(kept)
        assert kept.record.state is State.UNDELIVERED
        for phrase in ("answered 410", "RunAPI made this", "What to do:"):
            assert phrase in (kept.record.error or "")
        assert kept.record == (await shop.journal.tasks.find(["key-1"]))[0]


DEAD = Reply(410)
NO_NEWS = {
    "an id that is not known": UNKNOWN_TASK,
    "an id that is gone": Reply(410, b'{"error": "gone"}'),
    "a failure": Reply(200, b'{"status": "failed", "error": "refunded"}'),
    "a word that nobody knows": Reply(200, b'{"status": "archived"}'),
    "a word that was true before": Reply(200, b'{"status": "processing"}'),
    "what is no JSON": GARBAGE,
    "an error of the service": BUSY,
}


def both(fetch: Reply | None, poll: Reply) -> Rule:
    """Every fetch and every question about a task meets its answer."""
    return constantly(FETCH, fetch, then=constantly(POLL, poll))


async def test_whatever_runapi_says_of_a_task_whose_image_is_dead_each_try_counts_and_the_image_is_what_failed(
    tmp_path: Path,
) -> None:
    async with shop_opened(tmp_path) as shop:
        with each_row() as case:
            for name, poll in NO_NEWS.items():
                shop.front.rule, shop.wall = through, shop.wall.replace(month=11)
                kept = await shop.completed(name)
                shop.front.rule = both(DEAD, poll)
                with case(name):
                    for _ in range(MAX_BROKEN_FETCHES):
                        await shop.worker.fetch(kept)
                    assert "its image can't be had: The result's URL answered 410" in (kept.record.error or "")
                    shop.wall = shop.wall.replace(month=12)
                    for _ in range(2 * MAX_FETCHES):
                        await shop.worker.fetch(kept)
                    assert kept.record.state is State.UNDELIVERED
                    for phrase in ("answered 410", "RunAPI made this", "What to do:"):
                        assert phrase in (kept.record.error or "")


async def test_an_image_whose_host_is_not_reached_while_runapi_answers_is_told_and_given_up_after_a_week(
    tmp_path: Path,
) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule = constantly(FETCH, None)
        for _ in range(MAX_BROKEN_FETCHES):
            await shop.worker.fetch(kept)
        assert "its image can't be had: The image's host gave no answer" in (kept.record.error or "")
        shop.wall = shop.wall.replace(month=12)
        for _ in range(MAX_FETCHES):
            await shop.worker.fetch(kept)
        assert kept.record.state is State.UNDELIVERED
        assert "What to do:" in (kept.record.error or "")


async def test_a_refused_key_is_no_verdict(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule, shop.wall = both(DEAD, WRONG_KEY), shop.wall.replace(month=12)
        for _ in range(2 * MAX_FETCHES):
            await shop.worker.fetch(kept)
        assert (kept.record.state, kept.record.error) == (State.COMPLETED, None)
        assert isinstance(kept.trouble, AuthenticationError)


async def test_runapi_is_asked_for_an_address_no_sooner_than_it_wants(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        kept = await shop.completed()
        shop.front.rule = both(DEAD, Reply(503, b"{}", {"Retry-After": "600"}))
        await shop.worker.fetch(kept)
        assert kept.not_before == shop.mono + 600
        assert isinstance(kept.trouble, DeliveryError)


async def test_a_later_session_is_told_of_an_image_that_runapi_has_forgotten(front: Front, tmp_path: Path) -> None:
    async def rule(seen: Seen) -> Reply | None:
        forgotten = front.count(FETCH) > 0 and seen.is_(POLL)
        return DEAD if seen.is_(FETCH) else UNKNOWN_TASK if forgotten else await through(seen)

    why = "The result's URL answered 410; it may have expired."
    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
        is_told(outcome, why)
    async with opened(front.settings(tmp_path)) as later:
        is_told(await later.recent(limit=9), why)
        is_told(await later.check([outcome.tasks[0].record.task_id or ""], wait_seconds=30), why)


async def test_a_task_that_stands_elsewhere_in_its_life_than_was_thought_is_let_go_of(
    front: Front, tmp_path: Path
) -> None:
    front.rule = constantly(FETCH, None)
    async with opened(front.settings(tmp_path)) as service:
        key = (await made(service)).tasks[0].record.key
        spoil(service.settings.home, key, "state = 'undelivered', error = 'by hand'")
        front.rule = through
        (one,) = (await service.check([key], wait_seconds=30)).tasks
        assert (one.record.state, one.record.error, one.trouble) == (State.UNDELIVERED, "by hand", None)
