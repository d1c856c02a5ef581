"""A call that is cancelled stops waiting. Its task goes on, is paid once, and is collected; the journal stays consistent."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.service import Service
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import Intent, IntentResult, TaskRecord
from tests.support.deep import deep_but
from tests.support.faults import around
from tests.support.services import (
    CREATE,
    FETCH,
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


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


async def collected(service: Service) -> tuple[TaskRecord, ...]:
    """All that was ever asked for, once it has ended."""

    async def ended() -> bool:
        entries = await journal_of(service).tasks.recent(limit=500)
        return not any(entry.state.unfinished for entry in entries)

    await until(ended)
    return await journal_of(service).tasks.recent(limit=500)


def each_paid_once(front: Front, entries: tuple[TaskRecord, ...]) -> bool:
    made_keys = Counter(task.idempotency_key for task in front.tasks())
    return made_keys == Counter(entry.key for entry in entries) and {task.id for task in front.tasks()} == {
        entry.task_id for entry in entries
    }


@pytest.mark.parametrize("kind", [CREATE, POLL, FETCH])
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
async def test_a_call_cancelled_during_each_exchange_leaves_its_task_to_go_on(
    front: Front, tmp_path: Path, kind: str, *, answered: bool
) -> None:
    reached, go_on = anyio.Event(), anyio.Event()

    async def rule(seen: Seen) -> Reply | None:
        if not seen.is_(kind):
            return await through(seen)
        answer = await through(seen) if answered else None
        reached.set()
        await go_on.wait()
        return answer if answered else await through(seen)

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        async with anyio.create_task_group() as group:
            group.start_soon(made, service)
            await reached.wait()
            group.cancel_scope.cancel()
        go_on.set()
        entries = await collected(service)
    assert [entry.state for entry in entries] == [State.DELIVERED]
    assert front.count(CREATE) == 1  # the exchange itself was not cut: it is the runner's
    assert each_paid_once(front, entries)


async def test_a_call_cancelled_while_its_intent_is_written_is_either_written_or_not(
    front: Front, tmp_path: Path
) -> None:
    before, after = anyio.CancelScope(), anyio.CancelScope()

    def cancelling(usual: Journal) -> Journal:
        async def intend(intents: Sequence[Intent], **more: Any) -> IntentResult:  # noqa: ANN401  # as the journal's
            if intents[0].request.prompt == "the second fox":
                before.cancel()
            written = await usual.tasks.intend(intents, **more)
            if intents[0].request.prompt == "the third fox":
                after.cancel()
            return written

        return around(usual, tasks=around(usual.tasks, intend=intend))

    async with opened(front.settings(tmp_path), journal=cancelling) as service:
        await made(service, "the first fox")
        with before:
            await made(service, "the second fox")
        assert before.cancelled_caught
        entries = await collected(service)
        assert [entry.request.prompt for entry in entries] == ["the first fox"]
        with after:
            await made(service, "the third fox")
        assert after.cancelled_caught
        entries = await collected(service)
    assert [entry.request.prompt for entry in entries] == ["the third fox", "the first fox"]
    assert each_paid_once(front, entries)


@pytest.mark.parametrize("seed", deep_but(range(3), 0))
async def test_calls_cancelled_at_random_moments_are_all_collected_and_each_paid_once(
    front: Front, tmp_path: Path, seed: int
) -> None:
    dice = Random(seed)  # noqa: S311  # to be repeated
    async with opened(front.settings(tmp_path)) as service:

        async def cancelled(number: int) -> None:
            with anyio.move_on_after(dice.uniform(0, 0.12)):
                await made(service, f"fox {number}", count=dice.choice([1, 2]))

        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(cancelled, number)
        entries = await collected(service)
    assert {entry.state for entry in entries} <= {State.DELIVERED}
    assert each_paid_once(front, entries)


@pytest.mark.parametrize("seed", deep_but(range(3), 0))
async def test_a_service_stopped_at_a_random_moment_leaves_nothing_behind_that_the_next_does_not_finish(
    front: Front, tmp_path: Path, seed: int
) -> None:
    dice = Random(seed)  # noqa: S311  # to be repeated
    for number in range(4):
        with anyio.move_on_after(dice.uniform(0.01, 0.12)):
            async with opened(front.settings(tmp_path)) as service, anyio.create_task_group() as group:
                for each in range(3):
                    group.start_soon(made, service, f"fox {each} of {number}")
    async with opened(front.settings(tmp_path)) as service:
        entries = await collected(service)
    assert {entry.state for entry in entries} <= {State.DELIVERED}
    assert each_paid_once(front, entries)


async def test_the_same_call_after_a_cancelled_one_joins_it(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path)) as service:
        with anyio.CancelScope() as scope:

            async def cancel(_: object) -> None:
                scope.cancel()

            await made(service, "a red fox [sandbox:slow]", on_progress=cancel)
        assert scope.cancelled_caught
        outcome = await made(service, "a red fox [sandbox:slow]")
    assert outcome.joined
    assert len(front.tasks()) == 1
