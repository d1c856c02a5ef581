"""The journal from outside, as the server that sleeps watches it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flux2_mcp.domain import lifecycle
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import SANDBOX
from flux2_mcp.journal import owners
from flux2_mcp.journal.contract import Journal
from flux2_mcp.journal.sql.fragments import among
from flux2_mcp.journal.sqlite import glance
from flux2_mcp.journal.watch import Watch
from tests.support.journals import ACCOUNT, SqliteHome, intent, new, opened, steps

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name != "posix", reason="no server sleeps there")]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[SqliteHome]:
    async with opened(tmp_path / "a home #1? 100%") as home:
        yield home


def live(home: SqliteHome) -> Watch:
    return Watch(str(home.path), sandbox=False)


def journal_of(home: SqliteHome, owner: str = "a") -> Journal:
    return home.journal(owner, clock=time.monotonic)


def lease(home: SqliteHome, until: float | None, owner: str | None = None) -> None:
    with home.connected() as connection:
        connection.execute("UPDATE task SET lease_until = ?, owner = coalesce(?, owner)", (until, owner))


def test_what_is_open_is_what_the_lifecycle_says() -> None:
    assert among(lifecycle.UNFINISHED) == glance.IS_OPEN


async def test_without_a_journal_there_is_no_work_and_none_is_made(home: SqliteHome) -> None:
    assert not live(home).finds_work()
    assert live(home).newest(ACCOUNT, 50) == ()
    assert not home.path.exists()


async def test_a_task_is_work_once_nobody_holds_it(home: SqliteHome) -> None:
    await new(journal_of(home, owners.name()), intent())
    watch = live(home)
    assert not watch.finds_work()
    assert 0 < watch.pause(60) <= owners.LEASE_SECONDS
    assert watch.pause(0.1) == 0.1
    lease(home, None)
    assert watch.finds_work()
    lease(home, time.monotonic() + 10)
    assert not watch.finds_work()
    lease(home, time.monotonic() - 1)
    assert watch.finds_work()
    lease(home, time.monotonic() + 10**6)  # from before the machine started anew
    assert watch.finds_work()


async def test_a_task_is_work_as_soon_as_its_process_is_dead_or_its_lease_has_lapsed(home: SqliteHome) -> None:
    await new(journal_of(home, owners.name()), intent())
    watch = live(home)
    lease(home, time.monotonic() + 10, owners.name().replace(f"/{os.getpid()}/", f"/{2**22 + 1}/"))
    assert watch.finds_work()
    lease(home, time.monotonic() + 0.2, "another machine/1/x")
    deadline = time.monotonic() + 60
    while not watch.finds_work():  # nothing is written meanwhile
        assert time.monotonic() < deadline


async def test_an_ended_task_is_no_work_and_neither_is_one_of_the_other_mode(home: SqliteHome) -> None:
    journal = journal_of(home)
    await new(journal, intent())
    await steps(journal, "k", Event.ACCEPTED, Event.FAILED)
    lease(home, None)
    assert not live(home).finds_work()
    await new(home.journal(account=SANDBOX, clock=time.monotonic), intent("drawn"))
    lease(home, None)
    assert not live(home).finds_work()
    assert Watch(str(home.path), sandbox=True).finds_work()


async def test_another_keys_task_is_work_since_it_may_be_of_the_same_account(home: SqliteHome) -> None:
    await new(home.journal(account="runapi.ai:another", clock=time.monotonic), intent())
    lease(home, None)
    assert live(home).finds_work()
    assert live(home).newest(ACCOUNT, 50) is None


async def test_a_file_that_did_not_change_is_not_asked_again(home: SqliteHome) -> None:
    journal = journal_of(home)
    await new(journal, intent())
    await steps(journal, "k", Event.ACCEPTED, Event.FAILED)
    await journal.close()
    watch, seen = live(home), home.file.stat()
    os.utime(home.file, ns=(seen.st_atime_ns, seen.st_mtime_ns - 10**10))
    seen = home.file.stat()
    assert not watch.finds_work()
    with home.file.open("r+b") as file:
        file.write(b"junk" * 10)
    os.utime(home.file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert not watch.finds_work()
    os.utime(home.file)
    assert watch.finds_work()  # who opens it replaces it


async def test_the_newest_are_those_that_the_journal_lists_also_where_a_record_is_broken(home: SqliteHome) -> None:
    journal = journal_of(home)
    await new(journal, *(intent(f"k{number}") for number in range(6)))
    broken = ("request = 'x'", "images = '[7]'", "completed_at = 'x', created_at = 'y'", "images = '[{\"path\": 1}]'")
    with home.connected() as connection:
        for number, change in enumerate(broken):
            connection.execute(f"UPDATE task SET {change} WHERE key = 'k{number}'")  # noqa: S608  # the table above
    seen = live(home).newest(ACCOUNT, 5)
    listed = await journal.tasks.newest(limit=5)
    assert seen is not None
    assert [[getattr(one, name) for name in one.__slots__] for one in seen] == [
        [getattr(one, name) for name in one.__slots__] for one in listed
    ]
    assert [one.key for one in seen] == ["k5", "k4", "k3", "k2", "k1"]
    assert [one.image for one in seen] == [None] * 5
    assert (seen[2].at, seen[3].at) == (listed[0].at, 0.0)
    (rest,) = await journal.tasks.newest(limit=5, before="k1")
    assert (rest.key, rest.prompt) == ("k0", "")
