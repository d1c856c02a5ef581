"""Who calls a team's server is noted in the journal, and no call waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from flux2_mcp.domain.budget import Caps, from_texts
from flux2_mcp.domain.people import Person
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.team import CAPS_FACT, MEET_SECONDS, TELL_AGAIN_SECONDS, Callers
from flux2_mcp.errors import JournalError
from tests.support.journals import Clock

pytestmark = pytest.mark.anyio

ADA = Person(issuer="https://sso.example.com", subject="ada")


class People:
    """The part of a journal that notes people. Each call ends in `trouble`, if there is one, when `go_on` is set."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.go_on = anyio.Event()
        self.trouble: Exception | None = None

    async def meet(self, person: Person, *, at: datetime) -> None:
        assert at.tzinfo is UTC
        self.noted.append(person.subject)
        await self.go_on.wait()
        if self.trouble is not None:
            raise self.trouble


def seam(people: People, clock: Callable[[], float]) -> Seam:
    journal = SimpleNamespace(people=people, tokens=None, facts=None)
    return cast("Seam", SimpleNamespace(journal=journal, now=lambda: datetime.now(UTC), monotonic=clock, sleep=None))


async def test_a_journal_that_says_nothing_holds_up_nobody_and_is_asked_once() -> None:
    people = People()
    async with anyio.create_task_group() as group:
        meetings = Callers(seam(people, Clock()), group)
        for _ in range(5):
            meetings.meet(ADA)
            await anyio.lowlevel.checkpoint()
        assert people.noted == ["ada"]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("trouble", [JournalError("away"), ValueError("of a kind that nobody expected"), None])
async def test_a_person_is_noted_again_after_an_hour_and_at_once_where_the_journal_was_away(
    trouble: Exception | None,
) -> None:
    people, clock = People(), Clock()
    people.trouble = trouble
    people.go_on.set()
    again: dict[Any, int] = {JournalError: 2, ValueError: 1, type(None): 1}
    async with anyio.create_task_group() as group:
        meetings = Callers(seam(people, clock), group)
        for _ in range(2):
            meetings.meet(ADA)
            await anyio.wait_all_tasks_blocked()
        assert len(people.noted) == again[type(trouble)]
        clock.now += MEET_SECONDS + 1
        meetings.meet(ADA)
        await anyio.wait_all_tasks_blocked()
        assert len(people.noted) == again[type(trouble)] + 1


class Facts:
    """The part of a journal that keeps facts. It is away for the first two calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.kept: dict[str, str] = {}

    async def put(self, name: str, text: str) -> None:
        self.calls += 1
        if self.calls <= 2:
            raise JournalError("away")
        self.kept[name] = text


async def test_the_caps_of_a_server_are_told_when_the_journal_is_back() -> None:
    facts, slept = Facts(), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    journal = SimpleNamespace(people=None, tokens=None, facts=facts)
    known = SimpleNamespace(
        journal=journal, now=lambda: datetime(2026, 11, 29, tzinfo=UTC), monotonic=None, sleep=sleep
    )
    async with anyio.create_task_group() as group:
        await Callers(cast("Seam", known), group).tell_caps(
            Caps(person_daily_usd=Decimal("2.50"), daily_usd=Decimal(9))
        )
    assert slept == [TELL_AGAIN_SECONDS] * 2
    told = json.loads(facts.kept[CAPS_FACT])
    assert told["at"] == "2026-11-29T00:00:00+00:00"
    assert from_texts(told["usd"]) == Caps(person_daily_usd=Decimal("2.50"), daily_usd=Decimal(9))
