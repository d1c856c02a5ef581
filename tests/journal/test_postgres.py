"""What only a database server can do: be away, say nothing, be upgraded under those that use it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest

from flux2_mcp.cli.doctor_checks import Check, storage
from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import SpendingBy
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.errors import JournalError
from flux2_mcp.journal.contract import LEASE_SECONDS
from flux2_mcp.journal.postgres.migrations import MIGRATIONS
from flux2_mcp.journal.postgres.store import PostgresJournal
from flux2_mcp.journal.records import LeaseLostError, TaskChange, TaskFilter
from flux2_mcp.settings import Settings
from tests.support import journals, postgres, trio_folder
from tests.support.journals import ACCOUNT, AT, PostgresHome, intent, new, steps
from tests.support.postgres import FAST, Cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[PostgresHome]:
    async with journals.in_postgres(tmp_path / "home") as home:
        yield home


@pytest.fixture
async def new_home(tmp_path: Path) -> AsyncIterator[PostgresHome]:
    async with journals.in_new_schema(tmp_path / "home") as home:
        yield home


@pytest.fixture(scope="module")
def alone() -> Iterator[Cluster]:
    """A server that nobody else uses, to stop. Each test leaves it as it was."""
    if postgres.binaries() is None:
        pytest.skip("there is no PostgreSQL: its package has no place on the PATH or in /usr/lib/postgresql")
    with postgres.cluster(FAST) as cluster:
        yield cluster


# --- a server that is away ---


async def test_a_server_that_was_stopped_is_told_with_what_to_do_and_the_journal_goes_on_when_it_is_back(
    alone: Cluster,
) -> None:
    journal = PostgresJournal(alone.with_schema(), ACCOUNT, "a")
    await new(journal, intent("before"))
    alone.stop()
    for _ in range(3):
        with pytest.raises(JournalError) as caught:
            await journal.tasks.recent(limit=9)
        assert "database postgres) can't be used" in caught.value.message
        assert caught.value.message.endswith("No such file or directory.")
        assert "FLUX2_JOURNAL_URL" in str(caught.value.next_step)
    alone.start()
    await new(journal, intent("after"))
    assert [record.key for record in await journal.tasks.recent(limit=9)] == ["after", "before"]
    await journal.close()


async def test_a_restart_between_two_calls_is_not_noticed(alone: Cluster) -> None:
    journal = PostgresJournal(alone.with_schema(), ACCOUNT, "a")
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(new, journal, intent(f"k{number}"))
    alone.stop()
    alone.start()
    await new(journal, intent("after"))
    assert len(await journal.tasks.recent(limit=9)) == 6
    await journal.close()


async def test_a_server_that_says_nothing_is_waited_for_no_longer_than_said_and_the_loop_stays_free(
    alone: Cluster,
) -> None:
    first = PostgresJournal(url := alone.with_schema(), ACCOUNT, "a")  # to make the tables may take longer
    await new(first, intent("before"))
    await first.close()
    journal = PostgresJournal(url, ACCOUNT, "a", call_seconds=1)
    assert len(await journal.tasks.recent(limit=9)) == 1
    alone.signal(signal.SIGSTOP)
    try:
        with anyio.fail_after(30), pytest.raises(JournalError, match=r"no answer came within 1 s"):
            await journal.tasks.recent(limit=9)
    finally:
        alone.signal(signal.SIGCONT)
    assert [record.key for record in await journal.tasks.recent(limit=9)] == ["before"]
    await journal.close()


async def test_who_listens_counts_the_loss_of_the_connection_as_a_change_and_listens_again(alone: Cluster) -> None:
    url = alone.with_schema()
    one, two = PostgresJournal(url, ACCOUNT, "one"), PostgresJournal(url, ACCOUNT, "two")
    before = await one.leases.version()

    def listening() -> set[int]:
        """The connection that listens has asked for its schema last."""
        sql = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT current_schema()' AND state = 'idle'"
        with psycopg.connect(url) as connection:
            return {pid for (pid,) in connection.execute(sql).fetchall()}

    (lost,) = listening()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", (lost,))
    with anyio.fail_after(30):
        while not (listening() - {lost} and one.listener.listens):
            await anyio.lowlevel.checkpoint()
    settled = await one.leases.version()
    assert settled != before
    assert await one.leases.version() == settled
    await new(two, intent("k"))
    with anyio.fail_after(30):
        while await one.leases.version() == settled:
            await anyio.lowlevel.checkpoint()
    await one.close()
    await two.close()


# --- what others do at the same time ---


async def waits_or_ended(connection: psycopg.Connection[Any], ended: anyio.Event) -> None:
    """Until another connection waits for what this one has locked; or what was to wait has not done so."""
    sql = "SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    with anyio.fail_after(30):
        while not ended.is_set() and not connection.execute(sql).fetchall():
            await anyio.lowlevel.checkpoint()


async def test_a_process_that_stands_still_in_a_transaction_does_not_hold_up_the_others(home: PostgresHome) -> None:
    """The server ends it (IDLE_SECONDS); here, for a shorter time."""
    one = home.journal("one")
    await new(one, intent("k0"))
    with closing(psycopg.connect(home.url, autocommit=True)) as still:
        still.execute("SET idle_in_transaction_session_timeout = '300ms'")
        still.execute("BEGIN")
        still.execute("SELECT pg_advisory_xact_lock(hashtextextended('flux2 home ' || current_schema(), 0))")
        with anyio.fail_after(30):
            await new(one, intent("k1"))
    timeouts = await one.server.run(lambda database: database.read("SHOW idle_in_transaction_session_timeout"))
    assert timeouts[0][0] == "15s"


async def test_a_task_that_another_process_is_about_to_step_is_left_to_it_and_waited_for_by_its_owner(
    home: PostgresHome,
) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("busy"), intent("free"))
    home.clock.now += LEASE_SECONDS + 1
    ours: list[str] = []
    ended = anyio.Event()

    async def claim() -> None:
        ours.extend(record.key for record in await one.leases.claim())
        ended.set()

    async with anyio.create_task_group() as group:
        with home.connected() as connection:
            connection.execute("SELECT 1 FROM task WHERE key = 'busy' FOR UPDATE")
            assert [record.key for record in await two.leases.claim()] == ["free"]
            group.start_soon(claim)
            await waits_or_ended(connection, ended)
            assert not ended.is_set()
    assert ours == ["busy"]


async def test_a_step_that_waited_for_a_claim_finds_that_its_task_is_lost(home: PostgresHome) -> None:
    one = home.journal("one")
    (record,) = await new(one, intent("k"))
    errors: list[Exception] = []
    ended = anyio.Event()

    async def step() -> None:
        try:
            await one.tasks.apply(record, Event.REFUSED, TaskChange(at=AT))
        except LeaseLostError as exc:
            errors.append(exc)
        ended.set()

    async with anyio.create_task_group() as group:
        with home.connected() as connection:
            connection.execute("UPDATE task SET owner = 'two', fence = fence + 1 WHERE key = 'k'")
            group.start_soon(step)
            await waits_or_ended(connection, ended)
            assert not ended.is_set()
    assert len(errors) == 1


async def test_a_turn_that_waited_for_a_429_of_another_process_knows_it(home: PostgresHome) -> None:
    one = home.journal("one")
    await one.pace.turn(10)
    waits: list[float] = []
    ended = anyio.Event()

    async def turn() -> None:
        waits.append(await one.pace.turn(10))
        ended.set()

    async with anyio.create_task_group() as group:
        with home.connected() as connection:
            lock = f"SELECT pg_advisory_xact_lock(hashtextextended('flux2 pace {ACCOUNT}' || current_schema(), 0))"
            connection.execute(lock.encode())
            group.start_soon(turn)
            await waits_or_ended(connection, ended)
            connection.execute("UPDATE pace SET blocked_until = blocked_until + 30")
    assert waits == [pytest.approx(30)]


async def test_what_was_intended_or_stepped_is_on_disk_also_where_the_server_would_not_wait(home: PostgresHome) -> None:
    journal = home.journal("a")
    with home.connected() as connection:
        connection.execute("SELECT 1")
    seen: list[str] = []
    for durable in (True, False):
        await journal.server.run(lambda database: database.execute("SET synchronous_commit = off"))
        found = await journal.server.write(
            lambda database: database.read("SHOW synchronous_commit"), durable=durable, tell=False
        )
        seen.append(found[0][0])
    assert seen == ["on", "off"]


async def test_a_database_that_is_too_slow_is_told_as_that_and_the_next_call_goes_on(home: PostgresHome) -> None:
    journal = home.journal("a")
    await journal.server.run(lambda database: database.execute("SET statement_timeout = '100ms'"))
    with home.busy(), pytest.raises(JournalError) as caught:
        await new(journal, intent("k"))
    assert "the database took longer than 30 s" in caught.value.message
    assert caught.value.cost == "Nothing was sent and nothing was charged."
    assert await journal.tasks.recent(limit=9) == ()
    await new(journal, intent("k"))


# --- the schema ---

OPEN = """
import sys
import anyio
from pathlib import Path
from flux2_mcp.journal import open_journal

async def main():
    journal = open_journal(Path(), "sandbox", sys.argv[1])
    print(await journal.leases.unfinished())
    await journal.close()

sys.stdin.readline()
anyio.run(main)
"""


def test_of_many_processes_that_start_at_once_on_an_empty_database_one_makes_the_tables(tmp_path: Path) -> None:
    url = postgres.shared().with_schema()
    opening = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(3)
    ]  # fmt: skip
    for each in opening:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    assert [each.communicate(timeout=60)[0] for each in opening] == ["0\n"] * 3
    with psycopg.connect(url) as connection:
        applied = connection.execute("SELECT name FROM migration").fetchall()
        assert sorted(applied) == sorted((name,) for name, _ in MIGRATIONS)


async def test_a_schema_that_a_later_version_has_migrated_is_used_as_it_is(new_home: PostgresHome) -> None:
    await new(new_home.journal("a"), intent("before"))
    with new_home.connected() as connection:
        connection.execute("INSERT INTO migration (name) VALUES ('of a later version')")
        connection.execute("DELETE FROM migration WHERE name = 'journal'")  # it may have folded earlier ones into one
        connection.execute("ALTER TABLE task ADD COLUMN mood TEXT DEFAULT 'fair'")
    later = new_home.journal("b")
    await new(later, intent("after"))
    assert [record.key for record in await later.tasks.recent(limit=9)] == ["after", "before"]
    with new_home.connected() as connection:
        assert connection.execute("SELECT name FROM migration").fetchall() == [
            *((name,) for name, _ in MIGRATIONS if name != "journal"),
            ("of a later version",),
        ]
        assert connection.execute("SELECT mood FROM task").fetchall() == [("fair",), ("fair",)]


async def test_a_record_of_a_later_version_spoils_no_list_and_is_not_claimed(home: PostgresHome) -> None:
    one, two = home.journal("one"), home.journal("two")
    await new(one, intent("good"), intent("later"))
    with home.connected() as connection:
        connection.execute("UPDATE task SET request = '{\"shape\": \"another\"}' WHERE key = 'later'")
    home.clock.now += LEASE_SECONDS + 1
    assert [record.key for record in await two.leases.claim()] == ["good"]
    assert [record.readable for record in await two.tasks.recent(limit=9)] == [False, True]
    assert [each.prompt for each in await two.tasks.newest(limit=9)] == ["", "a cat"]
    with home.connected() as connection:
        assert connection.execute("SELECT owner, fence FROM task WHERE key = 'later'").fetchone() == ("one", 0)


# --- what is said, and what is not ---


@pytest.mark.parametrize(
    "address", ["postgresql://ada:canary@{host}/postgres", "postgresql://ada@{host}/postgres?password=canary"]
)
async def test_no_error_no_log_and_no_doctor_shows_the_password(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = address.format(host="127.0.0.1:1")
    journal = PostgresJournal(url, ACCOUNT, "a")
    with pytest.raises(JournalError) as caught:
        await journal.tasks.recent(limit=9)
    checks = list(storage(Settings(mode="sandbox", home=tmp_path, journal_url=url)))
    assert checks[0].status == "fail"
    said = [str(caught.value), str(caught.value.next_step), str(caught.value.reason), caplog.text, repr(checks)]
    frames = caught.getrepr(showlocals=False, style="short")
    assert [text for text in (*said, str(frames)) if "canary" in text] == []
    assert "127.0.0.1" in caught.value.message


async def test_the_doctor_says_where_the_journal_stands_and_what_is_in_it(new_home: PostgresHome) -> None:
    settings = Settings(mode="sandbox", home=new_home.path, journal_url=new_home.url)

    def seen() -> Check:
        return next(check for check in storage(settings) if check.check == "journal")

    assert seen().detail.endswith("no tables yet; the first task makes them")
    await new(new_home.journal("a"), intent("k"))
    assert seen().status == "ok"
    assert ", version " in seen().detail
    assert ": 1 tasks, " in seen().detail


async def test_a_text_with_a_nul_which_postgresql_does_not_hold_is_written_with_another_sign(
    home: PostgresHome,
) -> None:
    journal = home.journal("a")
    await new(journal, intent("k", catalog.request(prompt="a\0cat"), client="a\0host"))
    await steps(journal, "k", Event.ACCEPTED)
    (record,) = await journal.tasks.find(["task-k"])
    assert (record.client, record.request.prompt) == ("a\ufffdhost", "a\0cat")
    assert [each.prompt for each in await journal.tasks.newest(limit=9)] == ["a\0cat"]


def test_under_trio_too(tmp_path: Path) -> None:
    if isinstance(trio := trio_folder.fetched(), str):
        pytest.skip(trio)
    url = postgres.shared().with_schema()
    script = OPEN.replace("anyio.run(main)", "anyio.run(main, backend='trio')")
    done = subprocess.run(
        [sys.executable, "-c", script, url],
        input="\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(trio)},
    )
    assert done.stdout == "0\n"


FORK = """
import os, sys
import anyio
from pathlib import Path
from flux2_mcp.journal import open_journal

journal = open_journal(Path(), "sandbox", sys.argv[1])

async def look():
    backend = await journal.server.run(lambda database: database.read("SELECT pg_backend_pid()")[0][0])
    version = await journal.leases.version()
    print(backend, await journal.leases.version() - version, flush=True)

anyio.run(look)
if child := os.fork():
    os.waitpid(child, 0)
anyio.run(look)
anyio.run(journal.close)
"""


def test_a_process_that_was_forked_uses_no_connection_of_its_parent(tmp_path: Path) -> None:
    url = postgres.shared().with_schema()
    done = subprocess.run([sys.executable, "-c", FORK, url], capture_output=True, text=True, check=True, cwd=tmp_path)
    before, child, after = done.stdout.splitlines()
    assert before == after
    assert child != before
    assert [line.split()[1] for line in (before, child, after)] == ["0"] * 3


async def test_records_dump_to_the_json_that_sqlite_has(home: PostgresHome, tmp_path: Path) -> None:
    async with journals.opened(tmp_path / "sqlite") as other:
        rows = []
        for journal in (home.journal("a"), other.journal("a")):
            await new(journal, intent("k", journals.FULL))
            await steps(journal, "k", Event.ACCEPTED, Event.COMPLETED, usd="0.05")
        with home.connected() as connection:
            rows.append(connection.execute("SELECT request, urls, images, digest, charged FROM task").fetchone())
        with other.connected() as file:
            rows.append(file.execute("SELECT request, urls, images, digest, charged FROM task").fetchone())
    assert rows[0] == rows[1]
    assert json.loads(str(rows[0][0] if rows[0] else ""))["prompt"] == journals.FULL.prompt


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where a day in March has 23 hours, and one in October 25."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
async def test_sums_days_and_durations_are_those_that_sqlite_has(home: PostgresHome, tmp_path: Path) -> None:
    midnight = datetime(2026, 3, 28, 23, tzinfo=UTC)  # of the shortest day
    begun = [
        midnight + timedelta(minutes=minutes) for minutes in (-1, 0, 1, 22 * 60 + 59, 23 * 60, 40_000, 300_000, 300_100)
    ]
    async with journals.opened(tmp_path / "sqlite") as other:
        told: list[Any] = []
        for journal in (home.journal("a"), other.journal("a")):
            for number, at in enumerate(begun):
                request = journals.FULL if number % 3 == 0 else journals.CAT
                workspace = None if number % 2 else "/work"
                await new(
                    journal, intent(f"k{number}", request, None if number == 4 else "0.05", workspace=workspace), at=at
                )
            for number, usd in ((0, "0.04"), (1, "0.05"), (5, None)):
                await steps(journal, f"k{number}", Event.ACCEPTED, Event.COMPLETED, at=begun[number], usd=usd)
            await steps(journal, "k2", Event.REFUSED)
            since = begun[2]
            told.append(
                [
                    *[await journal.history.spending(by, after) for by in SpendingBy for after in (None, since)],
                    await journal.history.matched(),
                    await journal.history.matched(TaskFilter(since=since, states={State.INTENT}, workspace="/work")),
                    await journal.history.durations(),
                    await journal.money.charged(),
                    await journal.money.spent(at=begun[5], session="s"),
                    [(each.key, each.prompt, each.at) for each in await journal.tasks.newest(limit=9, before="k6")],
                ]
            )  # fmt: skip
    assert told[0] == told[1]
    assert [group.name for group in told[0][0]][:3] == ["2026-10-23", "2026-04-25", "2026-03-30"]


async def test_the_sums_over_all_tasks_are_folded_and_stay_what_is_counted(home: PostgresHome) -> None:
    journal = home.journal("a")
    for number in range(10):
        await new(journal, intent(f"k{number}", usd=None if number == 3 else "0.05"))
        if number % 2:
            await steps(journal, f"k{number}", Event.ACCEPTED, Event.COMPLETED, usd="0.04")
    for call in range(10):
        await new(journal, *(intent(f"n{call}-{number}") for number in range(12)))
    everything = TaskFilter(since=datetime.fromtimestamp(0, UTC))
    assert await journal.history.matched() == await journal.history.matched(everything)
    with home.connected() as connection:
        rows = connection.execute("SELECT count(*) FROM total").fetchone()
        assert rows is not None
        assert rows[0] < 70


async def test_a_schema_of_before_the_sums_gets_them_of_the_tasks_that_are_there(new_home: PostgresHome) -> None:
    journal = new_home.journal("a")
    await new(journal, intent("k1"), intent("k2"))
    with new_home.connected() as connection:
        connection.execute("DROP TABLE total; DROP FUNCTION task_counted CASCADE")
        connection.execute("DELETE FROM migration WHERE name = 'totals'")
    await steps(journal, "k1", Event.REFUSED)
    later = new_home.journal("b")
    assert (await later.history.matched()).states == {State.INTENT: 1, State.REJECTED: 1}
    await steps(journal, "k2", Event.ACCEPTED)
    assert (await later.history.matched()).states == {State.SUBMITTED: 1, State.REJECTED: 1}
