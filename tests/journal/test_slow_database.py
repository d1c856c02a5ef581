"""A database that is far away, or falls silent: nobody waits without end, and little is asked."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from flux2_mcp.errors import JournalError
from flux2_mcp.journal.postgres.store import PostgresJournal
from flux2_mcp.journal.sql import money
from tests.support import postgres
from tests.support.journals import ACCOUNT
from tests.support.pg_proxy import PgProxy
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio


async def test_a_server_that_falls_silent_while_a_connection_is_set_up_is_waited_for_no_longer_than_said() -> None:
    with PgProxy(postgres.shared().with_schema(), silent_after=b"statement_timeout") as proxy:
        journal = PostgresJournal(proxy.url, ACCOUNT, "a", call_seconds=0.5)
        at_last = threading.Timer(DEADLINE, proxy.cut)  # who waits without end can't be cancelled
        at_last.start()
        with pytest.raises(JournalError, match=r"no answer came within 0\.5 s"):
            await journal.tasks.recent(limit=9)
        assert at_last.is_alive()
        at_last.cancel()
        await journal.close()


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
