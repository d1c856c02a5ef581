"""Intents beyond the cap in flight: waiting for a place costs nothing, whatever their number, and a free one is taken."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.backend import Backend
from flux2_mcp.engine.runner import TaskRunner
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.source_images import SourceImages
from flux2_mcp.engine.steps import SLOT_SECONDS
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import Intent, TaskRecord
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.support.faults import around, broken
from tests.support.services import CREATE, SPEED, Front, Reply, Seen, fronted, nothing, through, until

pytestmark = pytest.mark.anyio

MANY = 60


class Counting:
    """Knows for whom a journal was asked for a place, and how often for leases."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.real = journal
        self.claims, self.asked = 0, list[str]()
        self.journal: Journal = around(
            journal,
            tasks=around(journal.tasks, start=self.start),
            leases=around(journal.leases, claim=self.claim),
        )

    async def start(self, record: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        self.asked.append(record.key)
        return await self.real.tasks.start(record, at=at, in_flight=in_flight)

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        self.claims += 1
        return await self.real.leases.claim(take=take)


@asynccontextmanager
async def kept(front: Front, home: Path, prompts: list[str], *, in_flight: int) -> AsyncIterator[Counting]:
    """A runner at work on so many intents."""
    settings = front.settings(home)
    counting = Counting(SqliteJournal(settings.home, "account", "owner"))
    backend = Backend(settings, gate=nothing, on_limited=nothing)
    seam = Seam(journal=counting.journal, backend=backend, speed=SPEED)
    images = ImageFolder(settings.home / "images")
    sources = SourceImages(seam, (), images)
    runner = TaskRunner(seam, images, sources, caps=Caps(), rate=1000.0, in_flight=in_flight)
    intents = [
        Intent(key=f"key-{number:04}", request=catalog.request(prompt=prompt), quoted_usd=None)
        for number, prompt in enumerate(prompts)
    ]
    try:
        async with anyio.create_task_group() as group:
            async with runner.intake:
                at = datetime.now(UTC)
                written = await counting.journal.tasks.intend(
                    intents, at=at, caps=Caps(), join=False, in_flight=in_flight
                )
                for entry in written.records:
                    runner.keep(entry)
            group.start_soon(runner.run)
            yield counting
            group.cancel_scope.cancel()
    finally:
        await backend.close()
        await counting.journal.close()


async def test_many_that_wait_ask_for_a_place_no_more_often_than_one(tmp_path: Path) -> None:
    async with fronted(tmp_path) as front:
        prompts = ["a red fox [sandbox:stuck]"] * MANY
        async with kept(front, tmp_path, prompts, in_flight=2) as counting:
            await until(lambda: front.count(CREATE) == 2 and counting.claims >= 2)
            asked, claims, began = len(counting.asked), counting.claims, time.monotonic()
            await until(lambda: counting.claims >= claims + 2)
            seconds, more = time.monotonic() - began, len(counting.asked) - asked
            assert 1 <= more <= seconds / SLOT_SECONDS + 1
        assert front.count(CREATE) == 2


async def test_a_place_that_comes_free_is_taken_at_once_and_in_order(tmp_path: Path) -> None:
    """At once: not at the next look for what other processes leave, of which there would be many."""
    async with fronted(tmp_path) as front:
        prompts = [f"fox {number} [sandbox:moderation]" for number in range(16)]
        async with kept(front, tmp_path, prompts, in_flight=2) as counting:

            async def all_ended() -> bool:
                return all(not entry.state.unfinished for entry in await counting.real.tasks.recent(limit=100))

            await until(all_ended)
            assert [entry.state for entry in await counting.real.tasks.recent(limit=100)] == [State.FAILED] * 16
            assert sorted(set(counting.asked)) == list(dict.fromkeys(counting.asked))
            assert len(counting.asked) < 2 * 16
        assert len(front.tasks()) == 16


async def test_one_whose_place_can_not_be_written_down_keeps_no_other_waiting(tmp_path: Path) -> None:
    async with fronted(tmp_path) as front:
        hold = anyio.Event()

        async def rule(seen: Seen) -> Reply | None:
            if seen.is_(CREATE):
                await hold.wait()
            return await through(seen)

        front.rule = rule
        prompts = [f"fox {number} [sandbox:moderation]" for number in range(6)]
        async with kept(front, tmp_path, prompts, in_flight=2) as counting:
            broken(counting.real.path, "UPDATE OF sent_at", when="old.key = 'key-0002'")
            hold.set()

            async def others_ended() -> bool:
                return [entry.key for entry in await counting.real.tasks.recent(limit=9) if entry.state.unfinished] == [
                    "key-0002"
                ]

            await until(others_ended)
