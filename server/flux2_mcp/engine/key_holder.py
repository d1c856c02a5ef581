"""Learns once which account of RunAPI the key belongs to, so that its tasks outlive the key: see `journal.contract.Accounts`."""

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
"""How long a call may be kept waiting for RunAPI to say whose key it is; nothing that costs waits for that."""
RETRY_SECONDS = 60.0


class KeyHolder:
    """Asks RunAPI whose key it is, where the journal does not know.

    Args:
        accounts: Remembers it.
        leases: Knows whether there are tasks that it matters for.
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
        """Whether there is nothing to learn (any more)."""

    async def learn(self) -> None:
        """Ask, unless it is known or was asked just now. What goes wrong is left for another time: no call depends on it."""
        async with self._one:
            if self.known or self._monotonic() < self._not_before:
                return
            self._not_before = self._monotonic() + RETRY_SECONDS
            try:
                self.known = await self._accounts.known() or await self._ask()
            except (Flux2Error, TimeoutError) as exc:
                log.info("not learnt whose key it is: %s", type(exc).__name__)

    async def _ask(self) -> bool:
        with anyio.fail_after(PATIENCE_SECONDS):
            account = await (await self._backend.api()).me(attempts=1)
        if account.account_id:
            await self._accounts.belongs(account.account_id)
        return bool(account.account_id)

    async def keep_learning(self) -> None:
        """Ask as long as there are tasks that it matters for; for the background."""
        while not self.known:
            try:
                if await self._leases.unfinished() or await self._accounts.has_others():
                    await self.learn()
            except Flux2Error as exc:
                log.info("not learnt whose key it is: %s", type(exc).__name__)
            await self._sleep(RETRY_SECONDS)
