"""A service is the same however its host is spelled; what stands at another service is told, and what RunAPI tells of is taken."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import Action, ImageRequest
from flux2_mcp.domain.urls import one_spelling
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.foreign_tasks import OTHER_SERVICE
from flux2_mcp.errors import NotFoundError
from flux2_mcp.journal.records import Intent, LeaseLostError, TaskChange, adopted
from flux2_mcp.settings import Settings
from tests.support import journals
from tests.support.journals import AT, Home, apply, intent, new, steps
from tests.support.rows import rows
from tests.support.services import BUSY, CREATE, POLL, UNKNOWN_TASK, Front, Reply, Seen, fronted, made, opened, through

pytestmark = pytest.mark.anyio

KEY, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with journals.opened(tmp_path / "journal") as home:
        yield home


async def still_running(seen: Seen) -> Reply | None:
    return BUSY if seen.is_(POLL) else await through(seen)


def rename(home: Home, before: str, after: str) -> None:
    """As an earlier version wrote it."""
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        for columns in ("task SET account", "holder SET account", "holder SET tasks"):
            connection.execute(f"UPDATE {columns} = replace({columns.rpartition(' ')[2]}, ?, ?)", (before, after))


@rows(
    ("netloc", "one"),
    [
        ("runapi.ai", "runapi.ai"),
        ("RunAPI.ai:443", "runapi.ai"),
        ("runapi.ai.", "runapi.ai"),
        ("runapi.ai:8443", "runapi.ai:8443"),
        ("runapi.ai:80", "runapi.ai:80"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("10.1:8080", "10.0.0.1:8080"),
        ("[2001:DB8:0::1]:8443", "[2001:db8::1]:8443"),
        ("1and1.example", "1and1.example"),
        ("localhost:80", "localhost"),
        *(
            (f"{host}:8080", "localhost:8080")
            for host in ("LOCALHOST", "localhost.", "127.0.0.1", "127.1", "127.0.0.2")
        ),
        *((f"{host}:8080", "localhost:8080") for host in ("[::1]", "[0:0::1]", "[::ffff:127.0.0.1]", "2130706433")),
        ("host:port", "host:port"),
    ],
)
def test_a_service_has_one_name_however_it_is_spelled(netloc: str, one: str) -> None:
    assert one_spelling(netloc) == one
    assert one_spelling(one) == one


async def test_open_tasks_are_joined_and_collected_under_another_spelling_of_the_host(
    front: Front, tmp_path: Path
) -> None:
    front.rule = still_running
    settings = front.settings(tmp_path)
    async with opened(settings) as service:
        first = (await made(service, wait=0)).tasks[0].record
    async with opened(replace(settings, base_url=f"http://LocalHost:{front.port}")) as service:
        listed = await service.recent(limit=9)
        assert ([told.record.key for told in listed.tasks], listed.notice) == ([first.key], None)
        again = await made(service, wait=0)
        assert (again.joined, again.tasks[0].record.key) == (True, first.key)
    assert front.count(CREATE) == len(front.tasks()) == 1


async def test_what_an_earlier_version_wrote_under_other_spellings_is_ones_own_after_the_update(home: Home) -> None:
    old = home.journal("a", account=f"localhost:8080:{KEY}")
    await new(old, intent("open"), intent("done"))
    await steps(old, "open", Event.ACCEPTED)
    await old.accounts.belongs("7")
    newer = home.journal("b", account=f"localhost:8080:{OTHER}")
    await new(newer, intent("newer"))
    await newer.accounts.belongs("7")
    for journal in (old, newer):
        await journal.close()
    rename(home, f"localhost:8080:{KEY}", f"127.0.0.1:8080:{KEY}")
    found = home.journal("c", account=f"localhost:8080:{OTHER}")
    assert {entry.key for entry in await found.tasks.recent(limit=9)} == {"open", "done", "newer"}
    assert await found.accounts.known()
    assert await found.accounts.foreign_tasks() == ()
    assert {entry.key for entry in await home.journal("d", account=f"localhost:8080:{KEY}").tasks.recent(limit=9)} == {
        "open",
        "done",
        "newer",
    }


async def test_a_task_that_was_asked_for_by_its_id_under_another_spelling_is_one_task_after_the_update(
    home: Home,
) -> None:
    old = home.journal("a", account=f"other.example:{KEY}")
    await new(old, intent("open"))
    await steps(old, "open", Event.ACCEPTED)
    ours = home.journal("b", account=f"localhost:8080:{KEY}")
    unknown = ImageRequest(action=Action.TEXT_TO_IMAGE, variant="unknown", model="unknown", prompt="")
    await new(ours, Intent(key=adopted("task-open"), request=unknown, quoted_usd=None), in_flight=0)
    await apply(ours, adopted("task-open"), Event.ACCEPTED, TaskChange(at=AT, task_id="task-open"))
    for journal in (old, ours):
        await journal.close()
    rename(home, f"other.example:{KEY}", f"[::1]:8080:{KEY}")
    found = home.journal("c", account=f"localhost:8080:{KEY}")
    assert [(entry.key, entry.task_id) for entry in await found.tasks.recent(limit=9)] == [("open", "task-open")]
    assert await found.accounts.foreign_tasks() == ()


async def test_open_tasks_of_another_service_are_told_with_what_to_do(front: Front, tmp_path: Path) -> None:
    async def rule(seen: Seen) -> Reply | None:
        return UNKNOWN_TASK if seen.is_(POLL) else await through(seen)

    front.rule = rule
    settings = front.settings(tmp_path)
    async with journals.opened(settings.home) as home:
        away = home.journal(account=account_name(replace(settings, base_url="https://Other.example:443")))
        await new(away, intent("k"))
        await steps(away, "k", Event.ACCEPTED)
        async with opened(settings) as service:
            notice = (await service.recent(limit=9)).notice or ""
            assert "1 were made at other.example" in notice
            assert "task-k" in notice
            assert OTHER_SERVICE in notice
            with pytest.raises(NotFoundError) as caught:
                await service.check(["task-k"], wait_seconds=0)
            assert "was made at other.example" in caught.value.message
            assert caught.value.next_step == OTHER_SERVICE


async def test_a_task_that_runapi_tells_this_key_of_is_taken_over_and_not_written_down_again(home: Home) -> None:
    settings = Settings(mode="live", home=home.path, api_key="k")
    away = home.journal("a", account="proxy.example:0123456789ab")
    await new(away, intent("k"))
    there = await steps(away, "k", Event.ACCEPTED)
    ours = home.journal("b", account=account_name(settings))
    unknown = ImageRequest(action=Action.TEXT_TO_IMAGE, variant="unknown", model="unknown", prompt="")
    taken = await ours.tasks.adopt(Intent(key=adopted("task-k"), request=unknown, quoted_usd=None), "task-k", at=AT)
    assert (taken.key, taken.owner, taken.state, taken.request.prompt) == ("k", "b", State.SUBMITTED, "a cat")
    assert [entry.key for entry in await ours.leases.claim()] == ["k"]
    assert await away.tasks.recent(limit=9) == ()
    with pytest.raises(LeaseLostError):
        await away.leases.hold(there)
