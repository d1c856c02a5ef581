"""Intents beyond the cap in flight: waiting for a place costs nothing, whatever their number, and a free one is taken."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.backend import Backend
from flux2_mcp.engine.runner import CLAIM_SECONDS, TaskRunner
from flux2_mcp.engine.steps import SLOT_SECONDS
from flux2_mcp.journal.records import Intent, TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.services import CREATE, SPEED, Front, Reply, Seen, fronted, through, until

pytestmark = pytest.mark.anyio

MANY = 150


class Counting(SqliteJournal):
    """A journal that knows for whom a place was asked for, and how often leases were."""

    def __init__(self, *given: Any, **more: Any) -> None:  # noqa: ANN401  # as the journal's
        super().__init__(*given, **more)
        self.claims, self.asked = 0, list[str]()

    async def start(self, entry: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        self.asked.append(entry.key)
        return await super().start(entry, at=at, in_flight=in_flight)

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        self.claims += 1
        return await super().claim(take=take)


@asynccontextmanager
async def kept(front: Front, home: Path, prompts: list[str], *, in_flight: int) -> AsyncIterator[Counting]:
    """A keeper at work on so many intents."""
    settings = front.settings(home)
    journal = Counting(settings.home, "account", "owner")

    async def nothing(*_: object) -> None:
        return

    gateway = Backend(settings, gate=nothing, on_limited=nothing)
    keeper = TaskRunner(journal, gateway, settings.home / "images", rate=1000.0, in_flight=in_flight, speed=SPEED)
    intents = [
        Intent(key=f"key-{number:04}", request=catalog.request(prompt=prompt), quoted_usd=None)
        for number, prompt in enumerate(prompts)
    ]
    try:
        async with anyio.create_task_group() as group:
            async with keeper.intake:
                at = datetime.now(UTC)
                written = await journal.intend(intents, at=at, caps=Caps(), join=False, in_flight=in_flight)
                for entry in written.records:
                    keeper.keep(entry)
            group.start_soon(keeper.run)
            yield journal
            group.cancel_scope.cancel()
    finally:
        await gateway.close()
        await journal.close()


async def test_many_that_wait_ask_for_a_place_no_more_often_than_one(tmp_path: Path) -> None:
    async with fronted(tmp_path) as front:
        prompts = ["a red fox [sandbox:stuck]"] * MANY
        async with kept(front, tmp_path, prompts, in_flight=2) as journal:
            await until(lambda: front.count(CREATE) == 2 and journal.claims >= 2)
            asked, claims = len(journal.asked), journal.claims
            await until(lambda: journal.claims >= claims + 2)
            seconds = 2 * CLAIM_SECONDS
            assert 1 <= len(journal.asked) - asked <= seconds / SLOT_SECONDS + 1
        assert front.count(CREATE) == 2


async def test_a_place_that_comes_free_is_taken_at_once_and_in_order(tmp_path: Path) -> None:
    """At once: not at the next look for what other processes leave, of which there would be many."""
    async with fronted(tmp_path) as front:
        prompts = [f"fox {number} [sandbox:moderation]" for number in range(40)]
        async with kept(front, tmp_path, prompts, in_flight=2) as journal:

            async def all_ended() -> bool:
                return all(not entry.state.unfinished for entry in await journal.recent(limit=100))

            await until(all_ended)
            assert [entry.state for entry in await journal.recent(limit=100)] == [State.FAILED] * 40
            assert sorted(set(journal.asked)) == list(dict.fromkeys(journal.asked))
            assert len(journal.asked) < 2 * 40
        assert len(front.tasks()) == 40


async def test_one_whose_place_can_not_be_written_down_keeps_no_other_waiting(tmp_path: Path) -> None:
    async with fronted(tmp_path) as front:
        hold = anyio.Event()

        async def rule(seen: Seen) -> Reply | None:
            if seen.is_(CREATE):
                await hold.wait()
            return await through(seen)

        front.rule = rule
        prompts = [f"fox {number} [sandbox:moderation]" for number in range(6)]
        async with kept(front, tmp_path, prompts, in_flight=2) as journal:
            with closing(sqlite3.connect(journal.path)) as other, other:
                broken = "BEFORE UPDATE OF sent_at ON task WHEN old.key = 'key-0002' BEGIN SELECT raise(FAIL, 'broken') ; END"
                other.execute(f"CREATE TRIGGER broken {broken}")
            hold.set()

            async def others_ended() -> bool:
                return [entry.key for entry in await journal.recent(limit=9) if entry.state.unfinished] == ["key-0002"]

            await until(others_ended)
