"""What was spent, from the journal: quoted beside charged, summed up by day, variant or workspace."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import SpendingBy, SpendingGroup, total
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.engine.account import Account
from flux2_mcp.journal.contract import Journal
from flux2_mcp.settings import Settings
from tests.support.journals import AT, Home, intent, new, opened, steps

pytestmark = pytest.mark.anyio

DONE = (Event.ACCEPTED, Event.COMPLETED)
FLEX = catalog.request(prompt="a dog", variant="flex")


@pytest.fixture(params=["UTC", "Asia/Kathmandu"])  # 05:45 ahead
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with opened(tmp_path / "home") as home:
        yield home


PRO_MODEL, FLEX_MODEL = "flux-2-pro-text-to-image", "flux-2-flex-text-to-image"


def group(name: str | None, tasks: int, quoted: str, charged: str, *models: str, **more: int) -> SpendingGroup:
    given: dict[str, Any] = {"failed": 0, "open": 0, "unquoted": 0, "models": frozenset(models)} | more
    return SpendingGroup(name=name, tasks=tasks, quoted_usd=Decimal(quoted), charged_usd=Decimal(charged), **given)


async def made(journal: Journal, key: str, *events: Event, usd: str | None = None, **intended: Any) -> None:  # noqa: ANN401  # as intent
    at = intended.pop("at", AT)
    await new(journal, intent(key, **intended), at=at)
    await steps(journal, key, *events, at=at, usd=usd) if events else None


async def test_what_was_charged_stands_beside_what_was_quoted(home: Home) -> None:
    journal = home.journal()
    await made(journal, "k1", *DONE, usd="0.05")
    await made(journal, "k2", *DONE, usd="0.041")
    await made(journal, "k3", *DONE)  # RunAPI never told
    await made(journal, "k4")  # on its way
    await made(journal, "k5", Event.ACCEPTED, Event.FAILED, usd="0.05")  # whatever it says: free
    await made(journal, "k6", Event.REFUSED)
    found = await journal.history.spending(SpendingBy.WORKSPACE, None)
    assert found == (group("/work", 6, "0.30", "0.091", PRO_MODEL, failed=2, open=2),)


async def test_without_a_quote_only_the_charge_counts(home: Home) -> None:
    journal = home.journal()
    await new(journal, intent("k", usd=None))
    await steps(journal, "k", *DONE, usd="0.30")
    assert await journal.history.spending(SpendingBy.WORKSPACE, None) == (
        group("/work", 1, "0", "0.30", PRO_MODEL, unquoted=1),
    )


async def test_variants_and_workspaces_come_with_the_dearest_first(home: Home) -> None:
    journal = home.journal()
    await made(journal, "k1", *DONE, usd="0.05", workspace=None)
    await made(journal, "k2", *DONE, usd="0.14", request=FLEX, workspace="/b")
    await made(journal, "k3", *DONE, usd="0.05", workspace="/b")
    assert await journal.history.spending(SpendingBy.VARIANT, None) == (
        group("flex", 1, "0.05", "0.14", FLEX_MODEL),
        group("pro", 2, "0.10", "0.10", PRO_MODEL),
    )
    assert await journal.history.spending(SpendingBy.WORKSPACE, None) == (
        group("/b", 2, "0.10", "0.19", PRO_MODEL, FLEX_MODEL),
        group(None, 1, "0.05", "0.05", PRO_MODEL),
    )


async def test_a_day_ends_at_the_machines_own_midnight(home: Home, zone: str) -> None:
    journal = home.journal()
    for key, at in (("k1", (20, 17, 59)), ("k2", (20, 18, 30)), ("k3", (21, 12, 0))):
        await made(journal, key, at=datetime(2026, 11, *at, tzinfo=UTC))
    found = [(each.name, each.tasks) for each in await journal.history.spending(SpendingBy.DAY, None)]
    wanted = {
        "UTC": [("2026-11-21", 1), ("2026-11-20", 2)],
        "Asia/Kathmandu": [("2026-11-21", 2), ("2026-11-20", 1)],
    }
    assert found == wanted[zone]


async def test_only_what_was_asked_for_since_then_with_this_key_counts(home: Home) -> None:
    journal = home.journal()
    await made(journal, "old", *DONE, usd="0.05", at=AT - timedelta(days=1))
    await made(journal, "new", *DONE, usd="0.07")
    await made(home.journal("b", account="another"), "theirs", *DONE, usd="0.50")
    assert [each.charged_usd for each in await journal.history.spending(SpendingBy.WORKSPACE, AT)] == [Decimal("0.07")]
    assert [each.tasks for each in await journal.history.spending(SpendingBy.WORKSPACE, None)] == [2]


async def test_many_small_charges_sum_up_to_the_cent(home: Home) -> None:
    journal = home.journal()
    await new(journal, *(intent(f"k{number}", usd="0.1") for number in range(30)))
    for number in range(30):
        await steps(journal, f"k{number}", *DONE, usd="0.1")
    [found] = await journal.history.spending(SpendingBy.WORKSPACE, None)
    assert (found.quoted_usd, found.charged_usd) == (Decimal(3), Decimal(3))


def test_a_total_is_the_sum_of_its_groups_and_of_none_nothing() -> None:
    groups = (
        group("a", 3, "0.10", "0.05", PRO_MODEL, failed=1, open=1),
        group(None, 2, "0.20", "0.30", FLEX_MODEL, unquoted=2),
    )
    assert total(groups) == group(None, 5, "0.30", "0.35", PRO_MODEL, FLEX_MODEL, failed=1, open=1, unquoted=2)
    assert total(()) == group(None, 0, "0", "0")


async def test_where_nothing_was_ever_asked_for_nothing_was_spent_and_no_file_is_made(
    sandbox_settings: Settings,
) -> None:
    async with Account.opened(sandbox_settings) as accounts:
        assert await accounts.spending(SpendingBy.DAY, None) == ()
    assert not sandbox_settings.home.exists()
