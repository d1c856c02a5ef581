"""A journal with very many tasks is brought up to date while servers of an earlier version go on with it, in PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import psycopg
import pytest

from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.migrating import migrate, step
from flux2_mcp.journal.postgres.migrations import MIGRATIONS
from flux2_mcp.journal.postgres.store import PostgresJournal
from tests.journal.test_sums_of_hours import recounted
from tests.support import journals, postgres
from tests.support.journals import AT, PostgresHome, intent, new
from tests.support.stdio import DEADLINE
from tests.support.team import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(postgres.binaries() is None, reason="there is no PostgreSQL"),
]

TASKS, SLICE = 23, 5
FORGOTTEN = (
    "DROP FUNCTION task_spent() CASCADE",
    "DROP INDEX task_sums_of_person, task_uncounted",
    "DROP TABLE spent",
    "DELETE FROM migration WHERE name = 'spent'",
)
COLUMNS = "key, account, state, request, digest, model, resolution, person, quoted, reserved, charged, created_at"
WRITES = (
    "UPDATE task SET charged = 10000 * (1 + abs(n) % 7) WHERE n % 3 = {n} % 3",
    "UPDATE task SET state = 'failed' WHERE key = 'k{n}'",
    "UPDATE task SET state = 'submitted', charged = NULL WHERE key = 'k{n}'",
    "UPDATE task SET person = 'somebody' WHERE n % 5 = {n} % 5",
    "UPDATE task SET created_at = created_at - 7200 WHERE key = 'k{n}'",
    "DELETE FROM task WHERE key = 'k{n}'",
    f"INSERT INTO task (n, {COLUMNS}) SELECT -{{n}}, 'old' || {{n}}, {COLUMNS.removeprefix('key, ')} FROM task ORDER BY n LIMIT 1",  # noqa: S608  # constants
    f"INSERT INTO task ({COLUMNS}) SELECT 'new' || {{n}}, {COLUMNS.removeprefix('key, ')} FROM task ORDER BY n LIMIT 1",  # noqa: S608  # constants
)
"""What servers of an earlier version do meanwhile, and more; the row before the first has a place that was passed already."""


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[PostgresHome]:
    """A journal with tasks of some people, as a version before the sums of hours left it."""
    async with journals.in_new_schema(tmp_path / "home") as home:
        journal = home.journal()
        for number in range(TASKS):
            at = AT - timedelta(minutes=25 * number)
            theirs = journal if number % 3 == 0 else journal.of(f"person {number % 2}")
            await new(theirs, intent(f"k{number}", usd="0.05"), at=at)
        await journal.close()
        with home.connected() as connection:
            for sql in FORGOTTEN:
                connection.execute(sql)
        yield home


def names(connection: psycopg.Connection[Any]) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM migration").fetchall()}


def begun(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("seed", range(3))
async def test_the_sums_are_what_the_tasks_say_whatever_is_written_between_two_slices(
    home: PostgresHome, seed: int
) -> None:
    """The process is killed after each slice, and another one goes on."""
    dice, slices = Random(seed), 0  # noqa: S311  # the same each time
    with psycopg.connect(home.url, autocommit=True) as other:
        while "spent" not in names(other):
            with pg.connected(home.url) as connection:
                step(connection, SLICE)
            slices += 1
            assert slices < 2 * TASKS
            for write in dice.choices(WRITES, k=4):
                with suppress(psycopg.errors.UniqueViolation):
                    other.execute(write.format(n=dice.randrange(1, TASKS)).encode())
        assert slices > TASKS // SLICE
        kept, counted = recounted(other)
        assert kept == counted
        assert (
            other.execute(
                "SELECT 1 FROM pg_class WHERE relname = 'spent_fill' AND relnamespace = current_schema()::regnamespace"
            ).fetchall()
            == []
        )
        assert names(other) == {name for name, _ in MIGRATIONS}
        for write in WRITES:
            with suppress(psycopg.errors.UniqueViolation):
                other.execute(write.format(n=1).encode())
            kept, counted = recounted(other)
            assert kept == counted, write


async def test_who_writes_at_the_same_time_is_counted_once(home: PostgresHome) -> None:
    ended = threading.Event()

    def write(seed: int) -> None:
        dice = Random(seed)  # noqa: S311  # as above
        with psycopg.connect(home.url, autocommit=True) as connection:
            while not ended.is_set():
                with suppress(psycopg.errors.UniqueViolation):
                    connection.execute(dice.choice(WRITES).format(n=dice.randrange(1, 5 * TASKS)).encode())

    writers = [begun(partial(write, seed)) for seed in range(2)]
    try:
        with pg.connected(home.url) as connection:
            migrate(connection, slice_tasks=1)
    finally:
        ended.set()
        for writer in writers:
            writer.join(DEADLINE)
    with psycopg.connect(home.url) as other:
        kept, counted = recounted(other)
        assert kept == counted


async def test_a_table_of_very_many_slices_is_made_as_the_one_of_few_is(home: PostgresHome, tmp_path: Path) -> None:
    described = (
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'task_spent' AND pronamespace = current_schema()::regnamespace"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()"
        " UNION ALL SELECT pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE relnamespace = current_schema()::regnamespace AND NOT tgisinternal ORDER BY 1"
    )

    def schema(url: str) -> list[str]:
        with psycopg.connect(url) as connection:
            name = str((connection.execute("SELECT current_schema()").fetchone() or "")[0])
            return [text.replace(name, "here") for (text,) in connection.execute(described).fetchall()]

    with pg.connected(home.url) as connection:
        migrate(connection, slice_tasks=SLICE)
    async with journals.in_new_schema(tmp_path / "few") as few:
        await few.journal().tasks.find(["k"])
        assert schema(home.url) == schema(few.url)


WAITS = (
    "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%CREATE INDEX%' AND datname = current_database()"
    " AND wait_event_type = 'Lock' AND now() - query_start > interval '1 s'"
)
"""The step has waited for longer than the tests let a statement or a call take."""


async def test_a_step_takes_longer_than_a_statement_may_and_reads_go_on(home: PostgresHome) -> None:
    """It would never come to its end otherwise: with very many tasks it takes longer than a call may."""
    with (
        pg.connected(home.url) as connection,
        psycopg.connect(home.url) as writer,
        psycopg.connect(home.url, autocommit=True) as other,
    ):
        connection.execute("SET statement_timeout = 50")
        writer.execute("UPDATE task SET charged = 10000 WHERE key = 'k1'")
        thread = begun(lambda: migrate(connection, slice_tasks=SLICE))
        until(lambda: not thread.is_alive() or bool(other.execute(WAITS).fetchall()))
        assert thread.is_alive(), "it was broken off"
        assert other.execute("SELECT count(*) FROM task").fetchone() == (TASKS,)
        writer.commit()
        thread.join(DEADLINE)
        kept, counted = recounted(other)
        assert kept == counted


async def test_a_backup_that_runs_holds_up_the_step_and_nobody_else(home: PostgresHome) -> None:
    """What waits for a table's exclusive lock has all behind it that ask for the table afterwards."""
    with (
        pg.connected(home.url) as connection,
        psycopg.connect(home.url) as backup,
        psycopg.connect(home.url, autocommit=True) as other,
    ):
        for sql in (
            "ALTER TABLE token DROP COLUMN issuer, DROP COLUMN subject",
            "DELETE FROM migration WHERE name = 'token_owner'",
        ):
            other.execute(sql)
        backup.execute("LOCK TABLE token IN ACCESS SHARE MODE")
        thread = begun(lambda: migrate(connection, slice_tasks=SLICE))
        until(
            lambda: (
                not thread.is_alive()
                or bool(other.execute(WAITS.replace("CREATE INDEX", "ALTER TABLE token")).fetchall())
            )
        )
        assert thread.is_alive(), "it was broken off"
        assert other.execute("SELECT * FROM token").fetchall() == []  # it waits until the step gives up its place
        assert thread.is_alive()
        backup.commit()
        thread.join(DEADLINE)
        assert "token_owner" in names(other)


async def test_a_call_that_brings_tasks_up_to_date_is_not_broken_off(home: PostgresHome) -> None:
    journal = PostgresJournal(home.url, journals.ACCOUNT, "new", call_seconds=0.1)
    found: list[str] = []

    async def call() -> None:
        found.extend(record.key for record in await journal.tasks.find(["k1"]))

    with psycopg.connect(home.url) as writer, psycopg.connect(home.url, autocommit=True) as other:
        writer.execute("UPDATE task SET charged = 10000 WHERE key = 'k1'")
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                try:
                    while not other.execute(WAITS).fetchall():  # noqa: ASYNC110  # the database's state
                        await anyio.sleep(0.02)
                finally:  # the call is not cancelled: it ends when nobody writes
                    writer.commit()
    await journal.close()
    assert found == ["k1"]
