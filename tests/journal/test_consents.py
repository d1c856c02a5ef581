"""The contract's suite: one yes of a user's pays at most once, whoever sends it again, when, and to which server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.people import Person
from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.records import Intent, IntentResult
from tests.support.journals import AT, CAT, NO_CAPS, Home, intent, opened

pytestmark = pytest.mark.anyio

ADA, BEN = (Person(issuer="https://sso.example.com", subject=name).key for name in ("ada", "ben"))
DOG = replace(CAT, prompt="a dog")
YES = "4f" * 32


async def said_yes(
    journal: Journal, *intents: Intent, consent: str = YES, join: bool = False, caps: Caps = NO_CAPS
) -> IntentResult:
    return await journal.tasks.intend(intents, at=AT, caps=caps, join=join, in_flight=100, consent=consent)


async def keys(journal: Journal) -> list[str]:
    return sorted(record.key for record in await journal.tasks.recent(limit=99))


async def test_the_same_yes_leads_to_the_same_tasks_also_long_after_and_at_another_server(home: Home) -> None:
    first = await said_yes(home.journal("a"), intent("k"), intent("k.1", DOG, follows="k"), intent("l"))
    assert (first.joined, first.repeated) == (False, False)
    journal = home.journal("b")
    await journal.tasks.mark_reported(["k", "k.1", "l"], at=AT + timedelta(minutes=9))
    again = await said_yes(journal, intent("m"), intent("n"), join=True, caps=Caps(daily_usd=Decimal(0)))
    assert (again.repeated, again.joined, again.over) == (True, False, None)
    assert [record.key for record in again.records] == ["k", "k.1", "l"]
    assert await journal.tasks.consented(YES) == again.records
    assert await journal.tasks.consented("another") == ()
    assert await keys(journal) == ["k", "k.1", "l"]
    assert not (await said_yes(journal, intent("m"), consent="another")).repeated


async def test_a_yes_that_joined_a_call_pays_for_nothing_afterwards(home: Home) -> None:
    journal = home.journal()
    await said_yes(journal, intent("k"), consent="first")
    joined = await said_yes(journal, intent("l"), join=True)
    assert (joined.joined, joined.repeated) == (True, False)
    await journal.tasks.mark_reported(["k"], at=AT)
    again = await said_yes(journal, intent("m"), join=True)
    assert (again.repeated, [record.key for record in again.records]) == (True, ["k"])
    assert await keys(journal) == ["k"]


async def test_a_yes_that_paid_for_nothing_is_not_used_up(home: Home) -> None:
    journal = home.journal().of(ADA)
    assert (await said_yes(journal, intent("k"), caps=Caps(daily_usd=Decimal("0.01")))).over is not None
    await said_yes(journal, intent("other"), consent="first")
    with pytest.raises(InvalidRequestError):
        await said_yes(journal, intent("k"), intent("other", DOG))
    assert await journal.tasks.consented(YES) == ()
    assert [record.key for record in (await said_yes(journal, intent("k"))).records] == ["k"]


async def test_a_yes_to_a_plan_is_used_once_whatever_its_tasks_are(home: Home) -> None:
    found: list[bool] = []

    async def use(number: int) -> None:
        found.append(await home.journal(f"server {number}").tasks.use_consent(YES))

    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(use, number)
    assert sorted(found) == [False, False, False, True]
    assert not await home.journal().tasks.use_consent(YES)
    assert await home.journal().tasks.consented(YES) == ()


async def test_a_yes_leads_to_ones_own_tasks_alone(home: Home) -> None:
    journal = home.journal()
    await said_yes(journal.of(ADA), intent("k"))
    for other in (journal.of(BEN), journal.of(BEN, sees_all=True), journal):
        assert await other.tasks.consented(YES) == ()


async def test_the_same_yes_at_several_servers_at_once_pays_once(home: Home) -> None:
    found: list[IntentResult] = []

    async def send(number: int) -> None:
        journal = home.journal(f"server {number}").of(ADA)
        found.append(await said_yes(journal, intent(f"k{number}"), intent(f"l{number}", CAT)))

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(send, number)
    assert sorted(each.repeated for each in found) == [False] + [True] * 7
    assert len({tuple(record.key for record in each.records) for each in found}) == 1
    assert len(await keys(home.journal())) == 2


async def test_a_yes_is_known_in_the_file_that_replaces_a_broken_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "home") as home:
        journal = home.journal()
        await said_yes(journal, intent("k"))
        await journal.close()
        with closing(sqlite3.connect(home.file)) as database:
            ((page,),) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'task_recent'").fetchall()
        with home.file.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
        await journal.salvage()
        assert (await said_yes(journal, intent("l"))).repeated
