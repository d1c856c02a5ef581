"""What the audit keeps where the database falls over: each refusal that somebody was told, as what costs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from msgspec.structs import replace

from flux2_mcp.domain.audit import AuditFilter, What
from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.people import Person
from flux2_mcp.errors import BudgetError
from flux2_mcp.journal.postgres.store import PostgresJournal
from tests.support import postgres
from tests.support.journals import ACCOUNT, AT, CAT, NO_CAPS, intend, intent, new
from tests.support.postgres import Cluster

pytestmark = pytest.mark.anyio

ADA = Person(issuer="https://sso.example.com", subject="ada").key
LAZY = {"wal_writer_delay": "10s", "synchronous_commit": "off", "fsync": "off"}
"""What is not synced stays in the server's memory until it must be written: a crash loses it."""


@pytest.fixture
def lazy() -> Iterator[Cluster]:
    if postgres.binaries() is None:
        pytest.skip("there is no PostgreSQL: its package has no place on the PATH or in /usr/lib/postgresql")
    with postgres.cluster(LAZY) as cluster:
        yield cluster


async def test_a_refusal_that_was_told_is_in_the_audit_also_where_the_database_falls_over_then(lazy: Cluster) -> None:
    journal = PostgresJournal(lazy.with_schema(), ACCOUNT, "a")
    ada = journal.of(ADA)

    async def a_cap_refuses() -> None:
        assert (await intend(ada, intent("k"), caps=Caps(person_daily_usd=Decimal("0.01")))).over is not None

    async def no_price_is_known() -> None:
        with pytest.raises(BudgetError):
            await intend(ada, intent("k", usd=None), caps=Caps(daily_usd=Decimal(9)))

    async def a_later_step_is_too_dear() -> None:
        source = replace(CAT, source_image_urls=("https://example.com/a.png",))
        with pytest.raises(BudgetError):
            await journal.tasks.supply(step, source, at=AT, caps=Caps(person_daily_usd=Decimal("0.01")))

    _, step = await new(ada, intent("m"), intent("m.1", follows="m"), caps=NO_CAPS)
    found: list[list[str]] = []
    for refuse in (a_cap_refuses, no_price_is_known, a_later_step_is_too_dear):
        await refuse()
        lazy.stop()
        lazy.start()
        entries = await journal.audit.entries(AuditFilter(refused=True), limit=99)
        found.append(sorted(entry.what for entry in entries))
    two: list[str] = [What.GENERATE, What.GENERATE]
    assert found == [two[:1], two, [*two, What.STEP]]
    await journal.close()
