"""The limiter that all processes share: each call to RunAPI waits for its turn, and a 429 slows down all processes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from flux2_mcp.domain.pacing import DEFAULT_WAIT_SECONDS
from flux2_mcp.journal.contract import Pace
from flux2_mcp.runapi.retry import STANDARD

LATE_SECONDS = 0.03
"""A call that wakes later than this takes a new turn. The turns leave 0.25 s between full windows: this part is for a
late wake-up, the rest for the time until the request reaches RunAPI."""
MAX_WAIT_SECONDS = STANDARD.total
"""A call that would wait longer after a 429 fails at once. Retries of a call end after the same time."""
MAX_TURNS = 5
"""After this number of late turns a call goes out late: on a machine that is always late, it would never go out."""


class RateLimiter:
    """Makes each call wait for the turn that the journal gives it.

    Args:
        pace: Has the turns of all processes.
        rate: Calls a second, all processes together.
        monotonic: Seconds on a clock that never jumps.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        pace: Pace,
        rate: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._pace = pace
        self._rate = rate
        self._monotonic = monotonic
        self._sleep = sleep
        self._blocked_until = 0.0

    async def turn(self) -> None:
        """Wait for a turn.

        A call that wakes late would collide with later turns, so it takes a new one. A call whose turn is within the
        wait of a later 429 also takes a new one.

        Raises:
            RateLimitedError: After a 429, the wait would be longer than `MAX_WAIT_SECONDS`.
            JournalError: The journal can't be used, so the turns of other processes are not known.
        """
        late = 0
        while late < MAX_TURNS:
            blocked_until = self._blocked_until
            turn_at = await self._pace.turn(self._rate, MAX_WAIT_SECONDS) + self._monotonic()
            await self._sleep(max(0.0, turn_at - self._monotonic()))
            now = self._monotonic()
            if now < self._blocked_until:
                if self._blocked_until == blocked_until:  # the journal did not have this 429 yet
                    await self._sleep(blocked_until - now)
                continue
            if now - turn_at <= LATE_SECONDS:
                return
            late += 1

    async def limited(self, retry_after: float | None) -> None:
        """Record a 429 of RunAPI, with its `Retry-After` in seconds."""
        wait = DEFAULT_WAIT_SECONDS if retry_after is None else retry_after
        self._blocked_until = max(self._blocked_until, self._monotonic() + wait)
        await self._pace.limited(wait, self._rate)
