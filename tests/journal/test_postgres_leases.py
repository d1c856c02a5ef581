"""How long a server's tasks wait where nobody can see that it was killed: another machine knows its lease alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux2_mcp.journal.postgres.store import PostgresJournal
from tests.support import journals
from tests.support.journals import ACCOUNT, intent, new

pytestmark = pytest.mark.anyio


async def test_a_server_that_another_machine_killed_is_waited_for_six_seconds_and_the_lease_of_an_earlier_version_to_its_end(
    tmp_path: Path,
) -> None:
    async with journals.in_postgres(tmp_path / "home") as home:
        one, two = (PostgresJournal(home.url, ACCOUNT, name, clock=home.clock) for name in ("one", "two"))
        await new(one, intent("made"))
        home.clock.now += 5.0
        assert [record.key for record in await one.leases.claim()] == ["made"]  # from here on it counts anew
        home.clock.now += 6.0
        assert await two.leases.claim() == ()
        home.clock.now += 0.001
        assert [record.key for record in await two.leases.claim()] == ["made"]
        earlier = home.journal("earlier")  # it takes 20 s
        await new(earlier, intent("of an earlier version"))
        assert [record.key for record in await two.leases.claim()] == ["made"]
        for journal in (one, two):
            await journal.close()
