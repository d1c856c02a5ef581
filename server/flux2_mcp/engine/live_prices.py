"""The price schedules: live if RunAPI answers in time, or else the last fetched ones, or else the published ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from decimal import Decimal
from math import inf

import anyio
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain import budget, catalog, pricing
from flux2_mcp.domain.models import SERVICE, Action, Balance, PriceSchedule
from flux2_mcp.domain.pricing import PriceBook, UnitPrice
from flux2_mcp.engine.backend import Backend
from flux2_mcp.errors import Flux2Error, JournalError
from flux2_mcp.journal.contract import Money
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.engine.live_prices")

SCHEDULES_SECONDS = 900.0
"""A fetched price schedule is used for this time; its renewal costs one conditional GET."""
RETRY_SECONDS = 30.0
"""The delay after a failed fetch of a schedule: each try may take the whole patience."""


class PriceList(Struct, frozen=True, kw_only=True):
    """The matching prices, those of finishing a picture if nothing was asked for, their price book, and the balance if there is a key, or the error of its request."""

    prices: tuple[UnitPrice, ...]
    finishing: tuple[UnitPrice, ...] = ()
    book: PriceBook
    balance: Balance | None
    trouble: Flux2Error | None
    sandbox: bool


class LivePrices:
    """Fetches the schedules when a caller needs them and they are too old.

    Args:
        backend: The way to RunAPI.
        money: Has the amounts that images were charged.
        patience_seconds: The maximum wait for a schedule; after it, the last known prices are used.
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(
        self,
        backend: Backend,
        money: Money,
        *,
        patience_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._money = money
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._book = PriceBook(sandbox=backend.sandbox)
        self._good_until: dict[str, float] = {}
        self._fetching = anyio.Lock()
        self._failed_at = -inf

    @property
    def at_hand(self) -> PriceBook:
        """The prices that are known without a request."""
        return self._book

    async def book(self, services: Collection[str] = (SERVICE,)) -> PriceBook:
        """Return all known prices with their source. Never fails: the published prices are always available.

        Args:
            services: RunAPI's words for the lines whose prices are needed.
        """
        called_at = self._monotonic()
        async with self._fetching:  # simultaneous calls wait for one answer: prices decide what may be spent
            self._book = await self._scheduled(services)
            # If the journal fails, the amounts read before stay in the book; nothing is spent without the journal. Calls that
            # have waited for one that failed do not ask again: each may wait for a minute, one after the other.
            if called_at > self._failed_at:
                try:
                    self._book = replace(self._book, charged=await self._money.charged())
                except JournalError:
                    self._failed_at = self._monotonic()
            return self._book

    async def _scheduled(self, services: Collection[str]) -> PriceBook:
        """Return the book with fresh schedules if they come in time, or else the current book."""
        now = self._monotonic()
        old = [service for service in services if self._good_until.get(service, now - 1) < now]
        if not old:
            return replace(self._book, source="cached")
        fetched: dict[str, tuple[PriceSchedule, ...]] = {}

        async def fetch(service: str) -> None:
            try:
                fetched[service] = await (await self._backend.api()).price_schedules(service=service)
            except Flux2Error as exc:
                log.info("price schedules not fetched", extra=fields(error=type(exc).__name__))

        with anyio.move_on_after(self._patience_seconds) as patience:
            async with anyio.create_task_group() as group:
                for service in old:
                    group.start_soon(fetch, service)
        if patience.cancelled_caught:
            log.info("price schedules not fetched", extra=fields(error=TimeoutError.__name__))
        for service in old:
            self._good_until[service] = self._monotonic() + (SCHEDULES_SECONDS if service in fetched else RETRY_SECONDS)
        if not fetched:
            return self._book
        known = catalog.all_models()
        kept = [each for each in self._book.schedules if known[each.model].service not in fetched]
        new = [schedule for schedules in fetched.values() for schedule in schedules]
        return replace(self._book, schedules=(*kept, *new), source="live")

    async def listed(self, *, variant: str | None, action: Action | None, output_resolution: str | None) -> PriceList:
        """Return the prices of all matching models; `variant` may be a model id.

        Raises:
            InvalidRequestError: No variant or model has that name.
        """
        book = await self.book(catalog.services())
        found = pricing.prices(book, variant=variant, action=action, output_resolution=output_resolution)
        balance, trouble = None, None
        if self._backend.has_key:
            try:
                balance = await (await self._backend.api()).balance()
            except Flux2Error as exc:
                trouble = exc  # prices are useful without the balance
        whole = variant is None and action is None and output_resolution is None
        return PriceList(
            prices=found,
            finishing=pricing.finishing_prices(book) if whole else (),
            book=book,
            balance=balance,
            trouble=trouble,
            sandbox=self._backend.sandbox,
        )

    async def fitting(self, action: Action, count: int, left_usd: Decimal, *, below: bool = False) -> str | None:
        """Return the cheapest request for an action that `left_usd` can pay, in words; None if nothing fits.

        Args:
            action: The action of the request.
            count: The requested number of images.
            left_usd: The amount that a cap leaves.
            below: Accept only a request that costs less than `left_usd`.
        """
        book = await self.book()
        priced = pricing.prices(book, variant=None, action=action, output_resolution=None)
        dearest = [(pricing.dearest(book, price.model, price.output_resolution), price) for price in priced]
        known = [(usd, price) for usd, price in dearest if usd is not None]
        usd, cheapest = min(known, key=lambda pair: pair[0], default=(None, None))
        if usd is None or cheapest is None or usd > left_usd:
            return None
        most = min(count, int(left_usd / usd))
        if below and usd * most >= left_usd:
            return None
        amount = budget.dollars(usd * most)
        return f"variant {cheapest.model.variant} at {cheapest.output_resolution}, count {most}, for {amount}"
