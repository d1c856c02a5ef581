"""doctor names the records that can't be read, and the open tasks that another key has made and nobody collects."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from flux2_mcp.commands.checks import Check, storage
from flux2_mcp.gateway import account
from flux2_mcp.lifecycle import Event
from flux2_mcp.settings import Settings
from tests.unit import journals
from tests.unit.journals import Home, intent, new, steps

pytestmark = pytest.mark.anyio


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with journals.opened(tmp_path / "home") as home:
        yield home


def settings(home: Home, key: str = "the-key") -> Settings:
    return Settings(mode="live", home=home.path, api_key=key)


def seen(home: Home, check: str) -> Check | None:
    found = {one.check: one for one in storage(settings(home))}
    assert found["journal"].status == "ok"
    return found.get(check)


async def test_a_record_that_can_not_be_read_is_named(home: Home) -> None:
    journal = home.journal(account=account(settings(home)))
    await new(journal, intent("good"), intent("bad"), intent("ended"))
    await steps(journal, "ended", Event.REFUSED)
    assert seen(home, "records") is None
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        connection.execute("UPDATE task SET state = 'paused' WHERE key = 'bad'")
    found = seen(home, "records")
    assert found is not None
    assert (found.status, found.mend) == ("note", "flux2-mcp tasks")
    assert found.detail == "this version can't read bad; left as they are, for a newer flux2-mcp"


async def test_open_tasks_of_another_key_are_named_with_what_collects_them(home: Home) -> None:
    old = home.journal("a", account=account(settings(home, "the-key-before")))
    await new(old, intent("open"), intent("ended"))
    await steps(old, "open", Event.ACCEPTED)
    await steps(old, "ended", Event.REFUSED)
    ours = home.journal("b", account=account(settings(home)))
    found = seen(home, "other keys")
    assert found is not None
    assert (found.status, found.mend) == ("note", "flux2-mcp tasks")  # which asks RunAPI whose keys they are
    assert found.detail == "under way, made with another key, and nobody collects them: task-open"
    await ours.belongs("2")
    found = seen(home, "other keys")
    assert found is not None
    assert found.mend == "RUNAPI_API_KEY=KEY_THAT_MADE_THEM flux2-mcp wait task-open"
    assert "of another RunAPI account as far as is known" in found.detail
    await old.belongs("2")
    assert seen(home, "other keys") is None  # both are one account's
    assert [entry.key for entry in await ours.claim()] == []


async def test_open_tasks_of_another_service_are_named_and_those_under_another_spelling_of_ones_own_are_not(
    home: Home,
) -> None:
    away = home.journal(account="localhost:8080:0123456789ab")
    await new(away, intent("away"), intent("own"))
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        typed = account(settings(home)).replace("runapi.ai", "RunAPI.ai:443")
        connection.execute("UPDATE task SET account = ? WHERE key = 'own'", (typed,))
    found = seen(home, "other services")
    assert found is not None
    assert (found.status, found.detail) == ("note", "under way at localhost:8080, and nobody collects them: away")
    assert found.mend == ("RUNAPI_BASE_URL=http://localhost:8080 RUNAPI_API_KEY=KEY_THAT_MADE_THEM flux2-mcp wait away")
    assert seen(home, "other keys") is None


async def test_a_journal_that_an_older_version_left_is_no_failure(home: Home) -> None:
    journal = home.journal(account=account(settings(home)))
    await new(journal, intent("k"))
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        connection.execute("DELETE FROM migration WHERE id > 2")
        connection.execute("DROP TABLE holder")
    assert (seen(home, "records"), seen(home, "other keys")) == (None, None)
