"""Whose key it is, what money is behind it, and what was spent: needs no runner and sends nothing that costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from flux2_mcp.domain.budget import SpendingBy, SpendingGroup, SpentSums
from flux2_mcp.domain.models import Balance, RunApiAccount
from flux2_mcp.engine.seam import Seam, opened
from flux2_mcp.errors import InvalidRequestError, JournalError, Problem
from flux2_mcp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInfo:
    """An account as RunAPI tells of it at `base_url`."""

    account: RunApiAccount
    balance: Balance
    base_url: str


class Account:
    """Asks RunAPI and the journal. Use `Account.opened`.

    Args:
        seam: The journal and the way to RunAPI.
    """

    def __init__(self, seam: Seam) -> None:
        self._backend = seam.backend
        self._journal = seam.journal
        self._now = seam.now

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator[Account]:
        """The accounts of these settings. Nothing is opened until it is asked for."""
        async with opened(settings) as seam:
            yield cls(seam)

    async def known(self) -> AccountInfo:
        """Whose key it is, and its money.

        Raises:
            AuthenticationError: There is no key, or RunAPI does not know it.
            TransportError: RunAPI gave no answer.
        """
        self._backend.require_key()
        api = await self._backend.api()
        found = await api.me()
        if found.account_id and not self._backend.sandbox and self._journal.exists:
            with suppress(JournalError):  # it can be learnt another time
                await self._journal.accounts.belongs(found.account_id)
        return AccountInfo(account=found, balance=await api.balance(), base_url=self._backend.base_url)

    async def balance(self) -> Balance:
        """The money alone. Raises as `known`."""
        self._backend.require_key()
        return await (await self._backend.api()).balance()

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """What was spent with this key, from the journal alone; RunAPI is not asked.

        Raises:
            JournalError: The journal can't be read.
        """
        return await self._journal.history.spending(by, since) if self._journal.was_made else ()

    async def day(self) -> SpentSums:
        """What the day's cap counts: the last 24 hours of all keys on this home; the sandbox's apart.

        Raises:
            JournalError: The journal can't be read.
        """
        if not self._journal.was_made:
            return SpentSums()
        return await self._journal.money.spent(at=self._now(), session=None)

    async def settle(self, missing_usd: Decimal) -> None:
        """Note how much a lost journal held of the last 24 hours beside what could be read: the day's cap is open again.

        Raises:
            InvalidRequestError: None was lost.
            JournalError: The journal can't be written.
        """
        if not await self._journal.money.settle(missing_usd):
            raise InvalidRequestError(Problem("--lost", "no journal was lost here, so nothing is missing."))

    async def salvage(self) -> None:
        """Put a new journal in the place of one that is broken or gone; see `journal.contract.Journal.salvage`. Raises as `day`."""
        if self._journal.was_made:
            await self._journal.salvage()

    @property
    def notice(self) -> str | None:
        """What a user should know about the journal: see `journal.contract.Journal.notice`."""
        return self._journal.notice
