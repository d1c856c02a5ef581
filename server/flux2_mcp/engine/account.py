"""The account behind the key, its balance, and what was spent. It needs no runner and sends no paid request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from decimal import Decimal

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain import budget
from flux2_mcp.domain.budget import Caps, SpendingBy, SpendingGroup, SpentSums
from flux2_mcp.domain.models import Balance, RunApiAccount
from flux2_mcp.engine.seam import Seam, opened
from flux2_mcp.errors import InvalidRequestError, JournalError, Problem
from flux2_mcp.settings import Settings


class AccountInfo(Struct, frozen=True, kw_only=True):
    """An account as RunAPI at `base_url` reports it."""

    account: RunApiAccount
    balance: Balance
    base_url: str


class Account:
    """Reads the account from RunAPI and the journal. Create it with `Account.opened`.

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
        """Make the account of these settings. Nothing is opened before the first use."""
        async with opened(settings) as seam:
            yield cls(seam)

    async def known(self) -> AccountInfo:
        """Return the account that the key belongs to, and its balance.

        Raises:
            AuthenticationError: There is no key, or RunAPI does not know it.
            TransportError: RunAPI gave no answer.
        """
        self._backend.require_key()
        api = await self._backend.api()
        account = await api.me()
        if account.account_id and not self._backend.sandbox and self._journal.exists:
            with suppress(JournalError):  # a later call can record it
                await self._journal.accounts.belongs(account.account_id)
        return AccountInfo(account=account, balance=await api.balance(), base_url=self._backend.base_url)

    async def balance(self) -> Balance:
        """Return only the balance. Raises as `known`."""
        self._backend.require_key()
        return await (await self._backend.api()).balance()

    async def left(self, caps: Caps) -> Decimal | None:
        """Return what the caps of sums leave to the person whose journal this is, in USD; None if there are no such caps.

        Raises:
            JournalError: The journal can't be read.
        """
        of_sums = replace(caps, call_usd=None, session_usd=None)
        if self._journal.was_made:
            of_sums = await self._journal.money.in_force(of_sums)
            spent = await self._journal.money.spent(at=self._now(), session=None, caps=of_sums)
        else:
            spent = SpentSums()
        return min((room.left_usd for room in budget.left(of_sums, spent)), default=None)

    async def passed_on(self, path: str, body: Mapping[str, object] | None = None) -> Mapping[str, object]:
        """Pass a call on to RunAPI with this server's key, as it is, and return the JSON of its answer.

        Args:
            path: After RunAPI's address. It costs nothing, and shows and changes nothing of other people's.
            body: What is posted; None: it is a GET.

        Raises:
            ApiError: RunAPI refused it.
            TransportError: RunAPI gave no answer.
        """
        self._backend.require_key()
        return await (await self._backend.api()).passed_on(path, body)

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """Sum up what was spent with this key, from the journal only.

        Raises:
            JournalError: The journal can't be read.
        """
        return await self._journal.history.spending(by, since) if self._journal.was_made else ()

    async def day(self) -> SpentSums:
        """Return what the daily cap counts: the last 24 hours of all keys in this FLUX2_HOME, the sandbox separately.

        Raises:
            JournalError: The journal can't be read.
        """
        if not self._journal.was_made:
            return SpentSums()
        return await self._journal.money.spent(at=self._now(), session=None)

    async def settle(self, missing_usd: Decimal) -> None:
        """Record the spending of the last 24 hours that was lost with a journal. This opens the daily cap again.

        Raises:
            InvalidRequestError: No journal was lost.
            JournalError: The journal can't be written.
        """
        if not await self._journal.money.settle(missing_usd):
            raise InvalidRequestError(Problem("--lost", "no journal was lost here, so nothing is missing."))

    async def salvage(self) -> None:
        """Replace a broken or missing journal; see `journal.contract.Journal.salvage`. Raises as `day`."""
        if self._journal.was_made:
            await self._journal.salvage()

    @property
    def notice(self) -> str | None:
        """A notice for the user about the journal; see `journal.contract.Journal.notice`."""
        return self._journal.notice
