"""The journal's file: made, migrated, shared, full, read-only, broken."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.errors import NOTHING_SENT, JournalError
from flux2_mcp.journal.records import TaskChange
from flux2_mcp.journal.sqlite.store import SqliteJournal
from flux2_mcp.system.sqlite_file import Row
from tests.support.journals import ACCOUNT, AT, SqliteHome, apply, intent, new, opened, steps
from tests.support.together import at_once

pytestmark = pytest.mark.anyio

PAGE = 4096
LONG = catalog.request(prompt="x" * 5000)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[SqliteHome]:
    async with opened(tmp_path / "home") as home:
        yield home


async def keys(journal: SqliteJournal) -> list[str]:
    return sorted(record.key for record in await journal.tasks.recent(limit=1000))


async def pragma(journal: SqliteJournal, words: str) -> list[Row]:
    """Of the journal's own connection."""
    return await journal.file.run(lambda database: database.read(f"PRAGMA {words}"))


# --- a plain file ---


async def test_nothing_is_written_before_there_is_something_to_write(home: SqliteHome) -> None:
    journal = home.journal()
    assert not home.path.exists()
    await journal.close()
    assert not home.path.exists()
    await new(journal, intent())
    assert journal.path == home.path / "journal.sqlite3"
    assert journal.path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps user folders private in another way")
async def test_the_file_and_its_folder_are_the_users_alone(home: SqliteHome) -> None:
    before = os.umask(0)
    try:
        await new(home.journal(), intent())
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()} == {0o600}


async def test_a_closed_journal_opens_again_with_all_it_held(home: SqliteHome) -> None:
    journal = home.journal()
    (record,) = await new(journal, intent())
    await journal.close()
    await journal.close()
    assert await journal.tasks.find(["k"]) == (record,)
    assert journal.notice is None


# --- a full disk, a home that can't be written ---


async def test_a_full_disk_is_said_before_anything_is_sent_and_passes_when_there_is_room_again(
    home: SqliteHome,
) -> None:
    journal = home.journal()
    await new(journal, intent("k0"))
    ((pages,),) = await pragma(journal, "page_count")
    await pragma(journal, f"max_page_count = {pages}")
    with pytest.raises(JournalError) as caught:
        await new(journal, *(intent(f"long{number}", LONG) for number in range(20)))
    assert caught.value.message == "The journal can't be used: database or disk is full."
    assert caught.value.cost == NOTHING_SENT
    assert "free space" in caught.value.next_step
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    other = home.journal("b")
    assert await keys(other) == ["k0"]
    await new(other, intent("k1"))
    await pragma(journal, "max_page_count = 1000000")
    await new(journal, intent("k2", LONG))
    assert await keys(other) == ["k0", "k1", "k2"]
    assert journal.notice is None


async def test_a_home_below_a_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        async with opened(path) as home:
            with pytest.raises(JournalError) as caught:
                await new(home.journal(), intent())
            assert caught.value.message in {
                "The journal can't be used: Not a directory.",
                "The journal can't be used: File exists.",
            }
            assert caught.value.cost == NOTHING_SENT
    assert (tmp_path / "file").read_text() == "not a folder"


async def test_a_file_that_may_not_be_written_is_refused_in_words_and_can_still_be_read(home: SqliteHome) -> None:
    journal = home.journal()
    (record,) = await new(journal, intent("k0"))
    await pragma(journal, "query_only = ON")
    with pytest.raises(JournalError, match="attempt to write a readonly database"):
        await new(journal, intent("k1"))
    assert await journal.tasks.find(["k0", "k1"]) == (record,)


async def test_a_folder_in_the_files_place_is_refused_in_words(home: SqliteHome) -> None:
    (home.path / "journal.sqlite3").mkdir(parents=True)
    with pytest.raises(JournalError, match=r"The journal can't be used: .* is a folder"):
        await new(home.journal(), intent())
    assert (home.path / "journal.sqlite3").is_dir()


# --- a broken file ---


async def filled(home: SqliteHome, count: int = 60) -> bytes:
    """A journal with tasks in it, closed; gives the file's bytes."""
    journal = home.journal()
    await new(journal, *(intent(f"k{number}", LONG) for number in range(count)), in_flight=1000)
    await journal.close()
    return journal.path.read_bytes()


def aside(home: SqliteHome) -> list[Path]:
    return sorted(home.path.glob("journal-broken-*.sqlite3"))


@pytest.mark.parametrize(
    "broken",
    [
        lambda _: b"this is not a database" * 100,
        pytest.param(lambda data: data[:100], marks=pytest.mark.deep),
        lambda data: data[: PAGE * 3],
        pytest.param(lambda data: bytes(PAGE) + data[PAGE:], marks=pytest.mark.deep),
        lambda data: data[:16] + b"\xff" * 84 + data[100:],
    ],
)
async def test_a_broken_file_is_moved_aside_whole_said_and_a_new_one_begun(
    home: SqliteHome, broken: Callable[[bytes], bytes]
) -> None:
    journal = home.journal()
    data = broken(await filled(home))
    journal.path.write_bytes(data)
    await new(journal, intent("new"))
    (kept,) = aside(home)
    assert kept.read_bytes() == data
    assert journal.notice == f"The journal was broken. It was moved aside as {kept.name} and a new one begun."
    assert await keys(journal) == ["new"]
    other = home.journal("b")
    assert await keys(other) == ["new"]
    assert other.notice is None


async def test_a_file_broken_in_its_middle_is_moved_aside_when_the_damage_is_met(home: SqliteHome) -> None:
    data = await filled(home)
    journal = home.journal()
    broken = data[: 2 * PAGE] + os.urandom(len(data) - 2 * PAGE)
    journal.path.write_bytes(broken)
    await new(journal, intent("new"))
    (kept,) = aside(home)
    assert kept.read_bytes()[PAGE * 2 :] == broken[PAGE * 2 :]
    assert journal.notice is not None
    assert kept.name in journal.notice
    assert await keys(journal) == ["new"]
    await new(home.journal("b"), intent("b"))
    assert await keys(journal) == ["b", "new"]


async def test_a_first_page_that_a_killed_process_left_in_the_log_mends_the_file(
    home: SqliteHome, tmp_path: Path
) -> None:
    await filled(home)
    journal = home.journal()
    await steps(journal, "k1", Event.ACCEPTED)
    await apply(journal, "k1", Event.FAILED, TaskChange(at=AT, error="only the log knows"))
    parts = {
        path.name: path.read_bytes() for path in home.path.glob("journal.sqlite3*") if path.suffix != ".sqlite3-shm"
    }
    assert b"only the log knows" not in parts["journal.sqlite3"]
    assert b"only the log knows" in parts["journal.sqlite3-wal"]
    async with opened(tmp_path / "left") as left:
        left.path.mkdir()
        for name, data in parts.items():
            (left.path / name).write_bytes(data if name.endswith("-wal") else b"\xff" * PAGE + data[PAGE:])
        mended = left.journal()
        (record,) = await mended.tasks.find(["k1"])
        assert record.error == "only the log knows"
        assert len(await keys(mended)) == 60
        assert (mended.notice, aside(left)) == (None, [])


async def test_an_empty_file_is_no_broken_file(home: SqliteHome) -> None:
    home.path.mkdir(parents=True)
    (home.path / "journal.sqlite3").touch()
    journal = home.journal()
    await new(journal, intent())
    assert (journal.notice, aside(home)) == (None, [])


async def begin(path: Path, number: int) -> str | None:
    """What a process does that comes to a home: one task, and what it has to say of the file."""
    async with opened(path) as home:
        journal = home.journal(f"p{number}")
        await new(journal, intent(f"k{number}"))
        return journal.notice


async def look(path: Path) -> tuple[list[str], int]:
    async with opened(path) as home:
        return await keys(home.journal()), len(aside(home))


def begins(path: Path, notices: list[str | None], number: int) -> None:
    notices.append(anyio.run(begin, path, number))


def test_of_many_who_find_the_file_broken_at_once_one_moves_it_and_no_task_is_lost(tmp_path: Path) -> None:
    """Else the second would move the first's new file aside, with paid tasks in it."""
    for round_ in range(3):
        path = tmp_path / str(round_)
        path.mkdir()
        (path / "journal.sqlite3").write_bytes(b"junk" * 1000)
        notices: list[str | None] = []
        at_once(6, partial(begins, path, notices))
        assert anyio.run(look, path) == ([f"k{number}" for number in range(6)], 1)
        assert sum(notice is not None for notice in notices) == 1


async def test_who_has_the_file_open_while_another_moves_it_writes_into_the_new_one(home: SqliteHome) -> None:
    """Else its tasks would stand in a file that nobody looks into, and its spending count for nobody."""
    other = home.journal("b")
    await new(other, intent("before"))
    for part in home.path.glob("journal.sqlite3*"):
        part.rename(part.with_name(part.name.replace("journal", "journal-broken-1")))
    journal = home.journal("a")
    await new(journal, intent("first"))
    await new(other, intent("second"))
    assert await keys(journal) == await keys(other) == ["before", "first", "second"]
    assert len(aside(home)) == 1


async def test_where_the_file_was_deleted_a_new_one_is_begun_with_all_that_the_deleted_one_held(
    home: SqliteHome,
) -> None:
    journal = home.journal()
    await new(journal, intent("old"))
    shutil.rmtree(home.path)
    await new(journal, intent("new"))
    assert await keys(home.journal("b")) == ["new", "old"]
    assert (journal.notice, aside(home)) == (None, [])


async def test_another_accounts_journal_shares_the_file(home: SqliteHome) -> None:
    await new(home.journal("a", account=ACCOUNT), intent("k"))
    await new(home.journal("b", account="sandbox"), intent("k"))
    assert [path.name for path in home.path.glob("*.sqlite3")] == ["journal.sqlite3"]
