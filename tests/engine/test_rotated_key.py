"""After a key is replaced: the tasks of both keys are one account's, where RunAPI says so; else each is told what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.engine.backend import Backend
from flux2_mcp.engine.foreign_tasks import OTHER_KEY
from flux2_mcp.engine.key_holder import RETRY_SECONDS, KeyHolder
from flux2_mcp.engine.seam import Timing
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import NotFoundError
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.journal.sqlite.store import SqliteJournal
from tests.engine.test_steps import INSTANT
from tests.engine.test_steps import opened as shop_opened
from tests.support import journals
from tests.support.journals import AT, Clock, apply, intent, new
from tests.support.services import (
    BUSY,
    CREATE,
    FETCH,
    POLL,
    UNKNOWN_TASK,
    WRONG_KEY,
    Front,
    Reply,
    Rule,
    Seen,
    fronted,
    made,
    nothing,
    opened,
    through,
    until,
)

pytestmark = pytest.mark.anyio

ME = "GET /api/v1/me"
STUCK = "a red fox [sandbox:stuck]"
NEW = "the-key-that-came-after"
FIRST, SECOND = "runapi.ai:0123456789ab", "runapi.ai:ba9876543210"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        front.other_keys = {NEW}
        yield front


@asynccontextmanager
async def with_key(front: Front, tmp_path: Path, key: str | None = None) -> AsyncIterator[Service]:
    """A server with the first key, or another."""
    settings = front.settings(tmp_path)
    async with opened(settings if key is None else replace(settings, api_key=key)) as service:
        yield service


def another_account(front: Front) -> Rule:
    """The new key belongs to another account, which sees none of the first's tasks."""
    theirs: set[str] = set()

    async def rule(seen: Seen) -> Reply | None:
        if seen.bearer == NEW and seen.is_(ME):
            return Reply(200, b'{"id": 2, "account": {"id": 2, "name": "Other"}}')
        if seen.bearer == NEW and seen.is_(POLL) and seen.what.rpartition("/")[2] in theirs:
            return UNKNOWN_TASK
        reply = await through(seen)
        if seen.bearer != NEW:
            theirs.update(task.id for task in front.tasks())
        return reply

    return rule


async def still_running(seen: Seen) -> Reply | None:
    return BUSY if seen.is_(POLL) else await through(seen)


async def test_the_tasks_of_both_keys_of_one_account_are_listed_joined_and_collected(
    front: Front, tmp_path: Path
) -> None:
    front.rule = still_running
    async with with_key(front, tmp_path) as service:
        first = (await made(service, "a red fox", wait=0)).tasks[0].record
    async with with_key(front, tmp_path, NEW) as service:
        listed = await service.recent(limit=9)
        assert [(told.record.key, told.record.state.unfinished) for told in listed.tasks] == [(first.key, True)]
        assert listed.notice is None
        again = await made(service, "a red fox", wait=0)
        assert (again.joined, again.tasks[0].record.key) == (True, first.key)
        front.rule = through
        checked = await service.check([first.task_id or ""], wait_seconds=30)
        assert checked.tasks[0].record.state is State.DELIVERED
    assert front.count(CREATE) == len(front.tasks()) == 1
    assert front.count(ME) == 2  # once for each key, ever
    async with with_key(front, tmp_path) as service:
        assert [told.record.key for told in (await service.recent(limit=9)).tasks] == [first.key]
        await made(service, "a blue fox")
    assert front.count(ME) == 2


async def test_a_server_that_is_asked_nothing_collects_what_the_key_before_has_made(
    front: Front, tmp_path: Path
) -> None:
    front.rule = still_running
    async with with_key(front, tmp_path) as service:
        await made(service, "a red fox", wait=0)
    front.rule = through
    async with with_key(front, tmp_path, NEW) as service:
        await until(lambda: any((service.settings.home / "images").glob("*.png")))


async def test_the_tasks_of_another_account_are_told_with_what_to_do_and_are_not_listed(
    front: Front, tmp_path: Path
) -> None:
    front.rule = another_account(front)
    async with with_key(front, tmp_path) as service:
        ident = (await made(service, STUCK, wait=0)).tasks[0].record.task_id or ""
    async with with_key(front, tmp_path, NEW) as service:
        for listed in (await service.recent(limit=9), await service.recent(limit=9)):
            assert listed.tasks == ()
            assert "1 were made with another key" in (listed.notice or "")
            assert ident in (listed.notice or "")
            assert OTHER_KEY in (listed.notice or "")
        with pytest.raises(NotFoundError) as caught:
            await service.check([ident], wait_seconds=0)
        assert "was made with another key" in caught.value.message
        assert caught.value.next_step == OTHER_KEY
        mine = await made(service, "a blue fox")
        assert [told.record.state for told in mine.tasks] == [State.DELIVERED]
    async with with_key(front, tmp_path) as service:
        assert [told.record.task_id for told in (await service.recent(limit=9)).tasks] == [ident]


async def test_a_call_that_meets_them_is_told_once(front: Front, tmp_path: Path) -> None:
    front.rule = another_account(front)
    async with with_key(front, tmp_path) as service:
        await made(service, STUCK, wait=0)
    async with with_key(front, tmp_path, NEW) as service:
        notices = [(await made(service, f"fox {number}")).notice for number in range(2)]
    assert [OTHER_KEY in (notice or "") for notice in notices] == [True, False]


async def test_what_another_server_looks_after_is_nobodys_worry(front: Front, tmp_path: Path) -> None:
    front.rule = another_account(front)
    async with with_key(front, tmp_path) as one, with_key(front, tmp_path, NEW) as two:
        await made(one, STUCK, wait=0)
        assert (await two.recent(limit=9)).notice is None


async def test_where_runapi_does_not_say_nothing_waits_for_it_and_it_is_asked_again(
    front: Front, tmp_path: Path
) -> None:
    async def rule(seen: Seen) -> Reply | None:
        return BUSY if seen.is_(ME) else await through(seen)

    front.rule = rule
    settings, clock = front.settings(tmp_path), Clock()
    async with with_key(front, tmp_path) as service, journals.opened(settings.home) as home:
        assert (await made(service)).tasks[0].record.state is State.DELIVERED
        backend = Backend(settings, gate=nothing, on_limited=nothing)
        journal = home.journal(account=f"127.0.0.1:{front.port}:000000000000")
        holder = KeyHolder(journal.accounts, journal.leases, backend, monotonic=clock)
        before = front.count(ME)
        await holder.learn()
        await holder.learn()
        assert (holder.known, front.count(ME) - before) == (False, 1)
        front.rule = through
        clock.now += RETRY_SECONDS
        await holder.learn()
        assert holder.known
        assert await journal.accounts.known()
        await backend.close()


# --- in the journal ---


async def test_what_a_key_made_before_it_was_known_joins_the_others_also_for_who_works_on_it(tmp_path: Path) -> None:
    async with journals.opened(tmp_path) as home:
        old, new_key = home.journal("a", account=FIRST), home.journal("b", account=SECOND)
        await new(old, intent("first"), intent("both"))
        await old.accounts.belongs("7")
        (second, _) = await new(new_key, intent("second"), intent("both"))
        worker = home.journal("b", account=SECOND)  # another connection of the same process
        assert [entry.key for entry in await worker.tasks.recent(limit=9)] == ["both", "second"]
        assert await new_key.accounts.has_others()
        assert [entry.key for entry in await new_key.accounts.foreign_tasks()] == []  # whose process lives
        await old.leases.release()
        assert [entry.key for entry in await new_key.accounts.foreign_tasks()] == ["first", "both"]
        await new_key.accounts.belongs("7")
        assert [entry.key for entry in await worker.tasks.recent(limit=9)] == ["second", "both", "first"]
        assert (await worker.tasks.apply(second, Event.ACCEPTED, TaskChange(at=AT, task_id="t"))).task_id == "t"
        assert [entry.key for entry in await old.tasks.recent(limit=9)] == ["second", "both", "first"]
        assert await new_key.accounts.foreign_tasks() == ()
        assert [entry.key for entry in await worker.leases.claim()] == ["first", "both", "second"]


async def test_other_accounts_other_services_and_the_sandbox_stay_apart(tmp_path: Path) -> None:
    async with journals.opened(tmp_path) as home:
        names = [FIRST, SECOND, "runapi.ai:8443:0123456789ab", "localhost:8080:0123456789ab", "sandbox"]
        opened_all = [home.journal(f"p{number}", account=name) for number, name in enumerate(names)]
        for number, journal in enumerate(opened_all):
            await new(journal, intent(f"k{number}"))
            await journal.leases.release()
            await journal.accounts.belongs("8" if journal is opened_all[1] else "7")
        for number, journal in enumerate(opened_all):
            assert [entry.key for entry in await journal.tasks.recent(limit=9)] == [f"k{number}"]
        assert [[entry.key for entry in await journal.accounts.foreign_tasks()] for journal in opened_all] == [
            ["k1", "k2", "k3"],
            ["k0", "k2", "k3"],
            ["k0", "k1", "k3"],
            ["k0", "k1", "k2"],
            [],
        ]
        assert [await journal.accounts.has_others() for journal in opened_all] == [True, True, False, False, False]
        assert [await opened_all[0].accounts.service_of_task(key) for key in ("k1", "k2", "k4")] == [
            "runapi.ai",
            "runapi.ai:8443",
            None,
        ]
        (entry,) = await opened_all[0].tasks.find(["k0"])
        assert (await apply(opened_all[0], entry.key, Event.REFUSED, TaskChange(at=AT))).state is State.REJECTED


async def test_a_lost_journal_forgets_no_keys(tmp_path: Path) -> None:
    async with journals.opened(tmp_path) as home:
        old, new_key = home.journal("a", account=FIRST), home.journal("b", account=SECOND)
        await new(old, intent("first"))
        for journal in (old, new_key):
            await journal.accounts.belongs("7")
        for part in tmp_path.glob("journal.sqlite3*"):
            part.unlink()
        await new(new_key, intent("second"))
        assert [entry.key for entry in await new_key.tasks.recent(limit=9)] == ["second", "first"]


async def test_a_server_whose_key_was_revoked_lets_another_have_its_tasks_and_takes_none(tmp_path: Path) -> None:
    async with shop_opened(tmp_path) as shop:
        asked, fetched = await shop.submitted(), await shop.intent("key-2", INSTANT)
        await shop.worker.send(fetched)

        async def refused(seen: Seen) -> Reply | None:
            return Reply(410) if seen.is_(FETCH) else WRONG_KEY

        shop.front.rule = refused
        await shop.worker.ask(asked)
        await shop.worker.fetch(fetched)
        refusals = [shop.worker.key_refused]
        other = SqliteJournal(shop.home, "account", "other")
        taken = await other.leases.claim()
        assert [entry.key for entry in taken] == ["key-1", "key-2"]
        await other.leases.offer(taken[0])
        assert await shop.journal.leases.claim(take=False) == ()
        assert [entry.key for entry in await shop.journal.leases.claim()] == ["key-1"]
        shop.mono += Timing().key_trouble_seconds
        refusals.append(shop.worker.key_refused)
        assert refusals == [True, False]
        await other.close()
