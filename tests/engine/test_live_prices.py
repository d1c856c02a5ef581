"""The price schedules at hand: fetched when needed, shared by calls that come together, never in anybody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from flux2_mcp.domain.models import Action
from flux2_mcp.domain.pricing import PriceBook
from flux2_mcp.engine import live_prices, seam
from flux2_mcp.engine.live_prices import LivePrices
from flux2_mcp.errors import AuthenticationError, JournalError
from tests.support.faults import around
from tests.support.journals import Clock
from tests.support.services import (
    PATIENCE,
    WRONG_KEY,
    Front,
    Reply,
    Seen,
    always,
    constantly,
    fronted,
    through,
)

pytestmark = pytest.mark.anyio

SCHEDULES = "GET /api/v1/price_schedules"
GONE = Reply(404, b'{"error": "Not found"}')


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def prices(front: Front, tmp_path: Path, clock: Clock) -> AsyncIterator[LivePrices]:
    async with seam.opened(front.settings(tmp_path)) as usual:
        yield LivePrices(usual.backend, usual.journal.money, patience_seconds=5, monotonic=clock)


async def test_calls_that_come_together_share_one_fetch_and_all_know_the_live_price(
    front: Front, prices: LivePrices
) -> None:
    books: list[PriceBook] = []

    async def ask() -> None:
        books.append(await prices.book())

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert all(book.schedules for book in books)
    assert sorted(book.source for book in books) == ["cached"] * 4 + ["live"]
    assert front.count(SCHEDULES) == 1


async def test_calls_that_come_together_wait_once_for_a_journal_that_fails_and_the_next_one_asks_it_again(
    front: Front, tmp_path: Path, clock: Clock
) -> None:
    asked, away = 0, True

    async with seam.opened(front.settings(tmp_path)) as usual:
        money = usual.journal.money

        async def charged() -> Mapping[tuple[str, str], Decimal]:
            nonlocal asked
            asked += 1
            if away:
                await anyio.lowlevel.checkpoint()
                clock.now += 60
                raise JournalError("It says nothing.")
            return await money.charged()

        prices = LivePrices(usual.backend, around(money, charged=charged), patience_seconds=5, monotonic=clock)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(prices.book)
        assert asked == 1
        away = False
        clock.now += 1
        await prices.book()
        assert asked == 2


async def test_a_schedule_that_could_not_be_fetched_is_asked_for_again_soon(
    front: Front, prices: LivePrices, clock: Clock
) -> None:
    front.rule = always(SCHEDULES, GONE)
    assert await prices.book() == PriceBook()
    assert (await prices.book()).schedules == ()
    assert front.count(SCHEDULES) == 1
    clock.now += live_prices.RETRY_SECONDS + 1
    assert (await prices.book()).source == "live"
    assert (await prices.book()).source == "cached"
    clock.now += live_prices.SCHEDULES_SECONDS + 9
    front.rule = constantly(SCHEDULES, GONE)
    assert (await prices.book()).schedules  # old prices are better than none


async def test_a_schedule_that_does_not_come_is_not_waited_for_long(front: Front, tmp_path: Path) -> None:
    async def rule(seen: Seen) -> Reply | None:
        if seen.is_(SCHEDULES):
            await anyio.sleep_forever()
        return await through(seen)

    front.rule = rule
    async with seam.opened(front.settings(tmp_path)) as usual:
        prices = LivePrices(usual.backend, usual.journal.money, patience_seconds=0.2)
        with anyio.fail_after(PATIENCE):
            assert (await prices.book()).source == "published"


async def test_a_cancelled_fetch_leaves_the_next_call_to_fetch(front: Front, prices: LivePrices) -> None:
    with anyio.CancelScope() as scope:

        async def rule(seen: Seen) -> Reply | None:
            if seen.is_(SCHEDULES):
                scope.cancel()
            return await through(seen)

        front.rule = rule
        await prices.book()
    assert scope.cancelled_caught
    front.rule = through
    assert (await prices.book()).source == "live"


async def test_prices_are_listed_even_where_the_balance_can_not_be_had(front: Front, prices: LivePrices) -> None:
    front.rule = constantly("GET /api/v1/me", WRONG_KEY)
    listed = await prices.listed(variant="pro", action=Action.TEXT_TO_IMAGE, output_resolution=None)
    assert [(price.output_resolution, price.usd) for price in listed.prices] == [
        ("1k", Decimal("0.05")),
        ("2k", Decimal("0.07")),
    ]
    assert (listed.balance, type(listed.trouble)) == (None, AuthenticationError)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ("0.05", "variant pro at 1k, count 1, for $0.05"),
        ("0.14", "variant pro at 1k, count 2, for $0.10"),
        ("9", "variant pro at 1k, count 4, for $0.20"),
        ("0.0499", None),
        ("0", None),
    ],
)
async def test_the_cheapest_that_fits_is_named_with_how_many_of_it_fit(
    prices: LivePrices, left: str, words: str | None
) -> None:
    assert await prices.fitting(Action.REMIX_IMAGE, 4, Decimal(left)) == words


@pytest.mark.parametrize(
    ("count", "quoted", "words"),
    [
        (1, "0.05", None),
        (1, "0.051", "variant pro at 1k, count 1, for $0.05"),
        (4, "0.20", None),
        (4, "0.28", "variant pro at 1k, count 4, for $0.20"),
    ],
)
async def test_cheaper_is_what_costs_less_and_never_what_costs_the_same(
    prices: LivePrices, count: int, quoted: str, words: str | None
) -> None:
    assert await prices.fitting(Action.TEXT_TO_IMAGE, count, Decimal(quoted), below=True) == words


async def test_a_schedule_serves_for_a_quarter_of_an_hour_and_a_failure_for_half_a_minute(
    front: Front, prices: LivePrices, clock: Clock
) -> None:
    began = clock.now

    async def source(seconds: float) -> tuple[str, int]:
        """Where the prices come from so many seconds later, and how often they were asked for by then."""
        clock.now = began + seconds
        return (await prices.book()).source, front.count(SCHEDULES)

    front.rule = always(SCHEDULES, GONE)
    assert [await source(seconds) for seconds in (0, 29, 31, 31 + 899, 31 + 901)] == [
        ("published", 1),
        ("cached", 1),
        ("live", 2),
        ("cached", 2),
        ("live", 3),
    ]
