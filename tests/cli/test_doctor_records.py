"""doctor names the records that can't be read, and the open tasks that another key has made and nobody collects."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from flux2_mcp.cli.doctor_checks import Check, storage
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.engine.backend import account_name
from flux2_mcp.errors import JournalError
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.settings import Settings
from tests.support import journals
from tests.support.journals import SqliteHome, intent, new, steps

pytestmark = pytest.mark.anyio


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[SqliteHome]:
    async with journals.opened(tmp_path / "home") as home:
        yield home


def settings(home: SqliteHome, key: str = "the-key") -> Settings:
    return Settings(mode="live", home=home.path, api_key=key)


def seen(home: SqliteHome, check: str) -> Check | None:
    found = {one.check: one for one in storage(settings(home))}
    assert found["journal"].status == "ok"
    return found.get(check)


async def test_a_record_that_can_not_be_read_is_named(home: SqliteHome) -> None:
    journal = home.journal(account=account_name(settings(home)))
    await new(journal, intent("good"), intent("bad"), intent("ended"))
    await steps(journal, "ended", Event.REFUSED)
    assert seen(home, "records") is None
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        connection.execute("UPDATE task SET state = 'paused' WHERE key = 'bad'")
    found = seen(home, "records")
    assert found is not None
    assert (found.status, found.mend) == ("note", "flux2-mcp tasks")
    assert found.detail == "this version can't read bad; left as they are, for a newer flux2-mcp"


async def test_open_tasks_of_another_key_are_named_with_what_collects_them(home: SqliteHome) -> None:
    old = home.journal("a", account=account_name(settings(home, "the-key-before")))
    await new(old, intent("open"), intent("ended"))
    await steps(old, "open", Event.ACCEPTED)
    await steps(old, "ended", Event.REFUSED)
    ours = home.journal("b", account=account_name(settings(home)))
    found = seen(home, "other keys")
    assert found is not None
    assert (found.status, found.mend) == ("note", "flux2-mcp tasks")  # which asks RunAPI whose keys they are
    assert found.detail == "under way, made with another key, and no process looks after them: task-open"
    await ours.accounts.belongs("2")
    found = seen(home, "other keys")
    assert found is not None
    assert found.mend == "RUNAPI_API_KEY=KEY_THAT_MADE_THEM flux2-mcp wait task-open"
    assert "of another RunAPI account as far as is known" in found.detail
    await old.accounts.belongs("2")
    assert seen(home, "other keys") is None  # both are one account's
    assert [entry.key for entry in await ours.leases.claim()] == []


async def test_open_tasks_of_another_service_are_named_and_those_under_another_spelling_of_ones_own_are_not(
    home: SqliteHome,
) -> None:
    away = home.journal(account="localhost:8080:0123456789ab")
    await new(away, intent("away"), intent("own"))
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        typed = account_name(settings(home)).replace("runapi.ai", "RunAPI.ai:443")
        connection.execute("UPDATE task SET account = ? WHERE key = 'own'", (typed,))
    found = seen(home, "other services")
    assert found is not None
    assert (found.status, found.detail) == (
        "note",
        "under way at localhost:8080, and no process looks after them: away",
    )
    assert found.mend == ("RUNAPI_BASE_URL=http://localhost:8080 RUNAPI_API_KEY=KEY_THAT_MADE_THEM flux2-mcp wait away")
    assert seen(home, "other keys") is None


async def test_a_journal_that_an_older_version_left_is_no_failure(home: SqliteHome) -> None:
    journal = home.journal(account=account_name(settings(home)))
    await new(journal, intent("k"))
    with closing(sqlite3.connect(home.path / "journal.sqlite3")) as connection, connection:
        connection.execute("DELETE FROM migration WHERE id > 2")
        connection.execute("DROP TABLE holder")
    assert (seen(home, "records"), seen(home, "other keys")) == (None, None)


def journal_check(home: SqliteHome) -> Check:
    return {one.check: one for one in storage(settings(home))}["journal"]


async def left(home: SqliteHome) -> SqliteJournal:
    journal = home.journal(account=account_name(settings(home)))
    await new(journal, intent("k0"), intent("k1"))
    await journal.close()
    return journal


@pytest.mark.parametrize("damage", ["DROP TABLE task", "DROP TABLE migration", "DELETE FROM task WHERE key = 'k1'"])
async def test_a_journal_without_a_table_or_without_what_was_written_is_not_called_sound_and_can_be_salvaged(
    home: SqliteHome, damage: str
) -> None:
    journal = await left(home)
    with closing(sqlite3.connect(journal.path)) as connection, connection:
        connection.execute(damage)
    found = journal_check(home)
    assert (found.status, found.mend) == ("fail", "flux2-mcp doctor --salvage")
    assert found.detail == f"{journal.path} is broken, or lacks what was written into it"
    await journal.salvage()
    assert journal_check(home).status == "ok"


async def test_a_journal_that_has_vanished_is_told_until_the_user_has_told_what_it_held(home: SqliteHome) -> None:
    journal = await left(home)
    assert seen(home, "lost") is None
    journal.path.unlink()
    found = journal_check(home)
    assert (found.status, found.mend) == ("fail", "flux2-mcp doctor --salvage")
    assert "has vanished" in found.detail
    mark = journal.path.with_suffix(".made")
    mark.rename(home.path / "elsewhere")
    assert journal_check(home).status == "ok"  # nothing tells of it any more
    (home.path / "images").mkdir()
    (home.path / "images" / "fox.png").write_bytes(b"an image")
    assert journal_check(home) == found
    (home.path / "elsewhere").rename(mark)
    await journal.salvage()
    told = seen(home, "lost")
    assert told is not None
    assert (told.status, told.mend) == ("note", "flux2-mcp spend --lost USD")
    assert told.detail.startswith("journal.sqlite3 (begun ")
    await journal.money.settle(Decimal("0.10"))
    assert seen(home, "lost") is None


async def test_a_sound_journal_is_salvaged_without_a_trace(home: SqliteHome) -> None:
    journal = await left(home)
    await journal.salvage()
    assert [entry.key for entry in await journal.tasks.recent(limit=9)] == ["k1", "k0"]
    assert (journal.notice, list(home.path.glob("*broken*"))) == (None, [])


async def test_a_folder_in_the_place_of_the_journal_is_told_with_what_to_do(home: SqliteHome) -> None:
    journal = await left(home)
    journal.path.unlink()
    journal.path.mkdir()
    found = journal_check(home)
    assert (found.status, found.detail) == ("fail", f"{journal.path} is no file")
    assert found.mend == f"mv {journal.path} {journal.path}.moved"
    with pytest.raises(JournalError) as caught:
        await new(journal, intent("k2"))
    assert caught.value.message == f"The journal can't be used: {journal.path} is a folder."
    assert caught.value.next_step == "Move that folder away, then call again."
