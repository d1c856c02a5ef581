"""A database that is far away, or falls silent: nobody waits without end, and little is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from flux2_mcp.errors import JournalError
from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.inspection import health
from flux2_mcp.journal.postgres.listening import Listener
from flux2_mcp.journal.postgres.server import MAX_CONNECTIONS, JournalServer
from flux2_mcp.journal.postgres.store import PostgresJournal
from flux2_mcp.journal.sql import money
from tests.support import postgres
from tests.support.journals import ACCOUNT
from tests.support.pg_proxy import PgProxy
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio

SECONDS = 1.0
"""How long these journals wait. To make the tables may take longer, so they are there before."""


async def with_tables() -> str:
    """The address of a database that has them."""
    url = postgres.shared().with_schema()
    journal = PostgresJournal(url, ACCOUNT, "first")
    await journal.tasks.recent(limit=1)
    await journal.close()
    return url


async def test_a_server_that_falls_silent_while_a_connection_is_set_up_is_waited_for_no_longer_than_said() -> None:
    with PgProxy(await with_tables(), silent_after=b"statement_timeout") as proxy:
        journal = PostgresJournal(proxy.url, ACCOUNT, "a", call_seconds=SECONDS)
        with cut_at_last(proxy) as at_last:
            with pytest.raises(JournalError, match="no answer came within 1 s"):
                await journal.tasks.recent(limit=9)
            assert at_last.is_alive()
        await journal.close()


@contextmanager
def cut_at_last(proxy: PgProxy) -> Iterator[threading.Timer]:
    """Who waits without end for a database can't be cancelled: in the end its line is cut."""
    timer = threading.Timer(DEADLINE, proxy.cut)
    timer.start()
    yield timer
    timer.cancel()


async def test_calls_that_wait_for_a_connection_of_a_silent_server_wait_no_longer_than_said_either() -> None:
    ended: list[str] = []

    async def look(journal: PostgresJournal) -> None:
        with pytest.raises(JournalError) as caught:
            await journal.tasks.recent(limit=9)
        ended.append(caught.value.message.rpartition("used: ")[2])

    with PgProxy(await with_tables()) as proxy, cut_at_last(proxy) as at_last:
        journal = PostgresJournal(proxy.url, ACCOUNT, "a", call_seconds=SECONDS)
        assert await journal.tasks.recent(limit=9) == ()
        proxy.silent_after = b"SELECT"
        async with anyio.create_task_group() as group:
            for _ in range(MAX_CONNECTIONS + 3):
                group.start_soon(look, journal)
        assert at_last.is_alive()
        silent, none_free = "no answer came within 1 s.", "none of the 8 connections was free within 1 s."
        assert sorted(ended) == [silent] * MAX_CONNECTIONS + [none_free] * 3
        proxy.silent_after = None
        assert await journal.tasks.recent(limit=9) == ()
        await journal.close()


def test_a_connection_that_comes_after_the_time_of_its_call_is_cut_at_once() -> None:
    limit = pg.Limit()
    limit.end()
    with pytest.raises(pg.Error):
        pg.connected(postgres.shared().with_schema(), limit.hold)


@pytest.mark.parametrize("at", ["statement_timeout", "LISTEN", "SELECT current_schema()"])
async def test_a_server_that_falls_silent_while_it_is_to_be_listened_to_is_left_and_listened_to_later(at: str) -> None:
    with PgProxy(await with_tables(), silent_after=at.encode()) as proxy, cut_at_last(proxy) as at_last:
        journal = PostgresJournal(proxy.url, ACCOUNT, "a", call_seconds=SECONDS)
        version = await journal.leases.version()
        assert not journal.listener.listens
        proxy.silent_after = None
        await listens(journal.listener)
        assert await journal.leases.version() != version
        assert at_last.is_alive()
        await journal.close()


async def test_a_server_that_falls_silent_while_it_is_listened_to_is_left_and_listened_to_later() -> None:
    with PgProxy(await with_tables()) as proxy, cut_at_last(proxy) as at_last:
        server = JournalServer(proxy.url, ACCOUNT, "a")
        listener = Listener(server.connect, "a", answer_seconds=SECONDS, look_seconds=0.01)
        await anyio.to_thread.run_sync(listener.version)
        assert listener.listens
        proxy.silent_after = b"SELECT current_schema()"
        await listens(listener, state=False)
        proxy.silent_after = None
        await listens(listener)
        assert at_last.is_alive()
        await anyio.to_thread.run_sync(listener.close)


async def listens(listener: Listener, *, state: bool = True) -> None:
    """Ask as callers do, until it listens, or no longer does."""
    with anyio.fail_after(DEADLINE):
        while listener.listens is not state:
            await anyio.to_thread.run_sync(listener.version)


async def test_the_doctor_waits_for_a_silent_server_no_longer_than_said() -> None:
    with PgProxy(await with_tables(), silent_after=b"SELECT") as proxy, cut_at_last(proxy) as at_last:
        found = await anyio.to_thread.run_sync(partial(health, proxy.url, ACCOUNT, answer_seconds=SECONDS))
        assert (found.soundness, found.reason) == ("unreadable", "no answer came within 1 s")
        assert at_last.is_alive()


def test_the_last_charges_of_all_models_are_one_question() -> None:
    asked: list[Mapping[str, Any]] = []

    class Database:
        def read(self, _: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
            asked.append(parameters)
            return [{"n": 1, "charged": 70_000}]

        execute = read

    kinds = [("pro", "1k"), ("pro", "2k"), ("flex", "1k")]
    assert money.charged(ACCOUNT, kinds, Database()) == {("pro", "2k"): Decimal("0.07")}  # type: ignore[arg-type]
    assert len(asked) == 1
    assert money.charged(ACCOUNT, [], Database()) == {}  # type: ignore[arg-type]
    assert len(asked) == 1
