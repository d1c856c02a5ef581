"""Learns once which account of RunAPI the key belongs to, so that a new key of this account finds its tasks again.

See `journal.contract.Accounts`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import anyio

from flux2_mcp.engine.backend import Backend
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal.contract import Accounts, Leases

log = logging.getLogger("flux2_mcp.tasks")

PATIENCE_SECONDS = 5.0
"""The maximum wait of a call for RunAPI's answer about the account. No paid request waits for it."""
LEAST_SECONDS = 1.0
RETRY_SECONDS = 60.0


class KeyHolder:
    """Asks RunAPI which account the key belongs to, if the journal does not have it.

    Args:
        accounts: Stores the account.
        leases: Has the open tasks; without any, the account is not needed.
        backend: The way to RunAPI.
        monotonic: Seconds on a clock that never jumps.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        accounts: Accounts,
        leases: Leases,
        backend: Backend,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._accounts = accounts
        self._leases = leases
        self._sleep = sleep
        self._backend = backend
        self._monotonic = monotonic
        self._one = anyio.Lock()
        self._not_before = monotonic()
        self.known = backend.sandbox or not backend.has_key
        """Whether the account is known or not needed."""

    async def learn(self, *, by: float | None = None) -> None:
        """Ask RunAPI, unless the account is known or a try was made a short time ago. Errors are only logged.

        Args:
            by: Until when, in monotonic seconds, a call waits for the try of another one. It waits for a second at least.
        """
        if by is None:
            await self._learn()
        else:
            with anyio.move_on_after(max(LEAST_SECONDS, by - self._monotonic())):
                await self._learn()

    async def _learn(self) -> None:
        async with self._one:
            if self.known or self._monotonic() < self._not_before:
                return
            self._not_before = self._monotonic() + RETRY_SECONDS
            try:
                self.known = await self._accounts.known() or await self._ask()
            except (Flux2Error, TimeoutError) as exc:
                log.info("the account of the key is not known yet: %s", type(exc).__name__)

    async def _ask(self) -> bool:
        with anyio.fail_after(PATIENCE_SECONDS):
            account = await (await self._backend.api()).me(attempts=1)
        if account.account_id:
            await self._accounts.belongs(account.account_id)
        return bool(account.account_id)

    async def keep_learning(self) -> None:
        """Ask until the account is known, while there are tasks that need it. Runs in the background."""
        while not self.known:
            try:
                if await self._leases.unfinished() or await self._accounts.has_others():
                    await self.learn()
            except Flux2Error as exc:
                log.info("the account of the key is not known yet: %s", type(exc).__name__)
            await self._sleep(RETRY_SECONDS)
