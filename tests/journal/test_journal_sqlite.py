"""What is SQLite's own in the journal beside its file: commits, the machine's clock, threads, the schema."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.journal.contract import LEASE_SECONDS, MAX_DURATIONS
from flux2_mcp.journal.records import TaskChange, TaskRecord
from flux2_mcp.journal.sqlite.migrations import MIGRATIONS
from flux2_mcp.system.sqlite_file import Database
from tests.support.journals import AT, Clock, SqliteHome, intent, new, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[SqliteHome]:
    async with opened(tmp_path / "home") as home:
        yield home


async def test_intents_wait_until_the_disk_has_them_and_turns_do_not(home: SqliteHome) -> None:
    journal = home.journal()
    said: list[str] = []
    await journal.file.run(lambda database: database.connection.set_trace_callback(said.append))
    said.clear()
    (record,) = await new(journal, intent())
    assert said[0] == "PRAGMA synchronous=FULL"
    assert said[1] == "BEGIN IMMEDIATE"
    assert "COMMIT" in said
    said.clear()
    await journal.pace.turn(10)
    assert said[0] == "PRAGMA synchronous=NORMAL"
    said.clear()
    await journal.tasks.apply(record, Event.ACCEPTED, TaskChange(at=AT, task_id="t"))
    assert said[0] == "PRAGMA synchronous=FULL"


async def test_a_claim_that_waits_long_for_the_file_sees_what_was_renewed_meanwhile(home: SqliteHome) -> None:
    """The clock is read when the file is ours to write, not before."""
    asked = threading.Event()

    class Watched(Clock):
        def __call__(self) -> float:
            asked.set()
            return self.now

    clock = Watched()
    one, two = home.journal("one", clock=clock), home.journal("two", clock=clock)
    await new(one, intent())
    clock.now += LEASE_SECONDS + 1
    asked.clear()
    claimed: list[TaskRecord] = []

    async def claim() -> None:
        claimed.extend(await two.leases.claim())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            with home.connected() as connection:
                group.start_soon(claim)
                await anyio.to_thread.run_sync(asked.wait)
                clock.now += 2 * LEASE_SECONDS
                connection.execute("UPDATE task SET lease_until = ?", (clock.now + LEASE_SECONDS,))
    assert claimed == []


@pytest.mark.parametrize("uptime", [0.0, 3.0, 500.0, 986.0])
async def test_after_a_restart_of_the_machine_with_its_clock_at_nothing_leases_are_free(
    home: SqliteHome, uptime: float
) -> None:
    await new(home.journal("one"), intent())
    home.clock.now = uptime
    assert [record.key for record in await home.journal("two").leases.claim()] == ["k"]


@pytest.mark.parametrize("uptime", [0.0, 5.0, 900.0])
async def test_after_a_restart_of_the_machine_turns_and_blocks_of_before_mean_nothing(
    home: SqliteHome, uptime: float
) -> None:
    journal = home.journal()
    for _ in range(30):
        await journal.pace.turn(10)
    await journal.pace.limited(600.0)
    home.clock.now = uptime
    assert await home.journal("two").pace.turn(10) == 0
    await journal.pace.limited(60.0)
    assert await home.journal("two").pace.turn(10) == pytest.approx(60.0)


async def test_a_turn_that_passed_while_its_answer_was_under_way_is_told_as_past(home: SqliteHome) -> None:
    """Else its caller would not know that it is late, and would call at another's turn."""

    class Ticking(Clock):
        def __call__(self) -> float:
            self.now += 0.2
            return self.now

    assert await home.journal(clock=Ticking()).pace.turn(10) == pytest.approx(-0.2)


async def test_old_turns_are_swept_away(home: SqliteHome) -> None:
    journal = home.journal()
    for _ in range(200):
        await journal.pace.turn(10)
        home.clock.now += 1
    with home.connected() as connection:
        assert connection.execute("SELECT count(*) FROM turn").fetchone()[0] < 60


async def test_only_the_latest_durations_are_kept_in_mind(home: SqliteHome) -> None:
    journal = home.journal()
    await new(journal, *(intent(f"k{number}") for number in range(MAX_DURATIONS + 5)), in_flight=1000)
    with home.connected() as connection:  # the lives of 205 tasks at once
        connection.execute(
            "UPDATE task SET state = 'delivered', submitted_at = created_at, completed_at = created_at + n"
        )
    (found,) = (await journal.history.durations()).values()
    assert found == tuple(float(number) for number in range(6, MAX_DURATIONS + 6))


async def test_a_hundred_callers_wait_in_no_thread_each(home: SqliteHome) -> None:
    """A thread takes memory for as long as the process lives, and the file takes one call at a time anyway."""
    journal, before = home.journal(), threading.active_count()
    await new(journal, intent("k"))
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(journal.leases.version)
            group.start_soon(journal.pace.turn, 1000.0)
    assert threading.active_count() - before <= 2


def test_migrations_that_were_released_keep_their_names_and_the_first_five_their_places() -> None:
    """A file of a version before there were names has numbers."""
    assert [name for name, _ in MIGRATIONS] == [
        "tasks_and_pace",
        "save_to_and_uploads",
        "newest_and_session_indices",
        "fences_placed_files_and_holders",
        "money_of_all_accounts",
        "hybrid_tasks_and_replays",
        "steps_that_follow_others",
        "totals",
        "people",
        "caps_of_people",
        "tokens",
        "audit",
        "spent",
        "token_owner",
        "consents",
        "facts",
    ]


def test_the_files_schema_holds_every_shared_thing(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite3", MIGRATIONS, durable=True)
    tables = {row[0] for row in database.read("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert tables == {
        "migration",
        "task",
        "pace",
        "turn",
        "upload",
        "placed",
        "holder",
        "lost",
        "total",
        "person",
        "token",
        "audit",
        "spent",
        "consent",
        "fact",
    }
