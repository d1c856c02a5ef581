"""The limiter that all processes share: each call to RunAPI waits for its turn, and a 429 slows everybody down."""

from __future__ import annotations

import time

import anyio

from flux2_mcp.journal.records import Journal
from flux2_mcp.runapi.retry import STANDARD

LATE_SECONDS = 0.03
"""The turns leave 0.25 s between full windows: a part of it for waking up, the rest for the way out."""
DEFAULT_WAIT_SECONDS = 1.0
"""Seconds that nobody calls after a 429 that says nothing of it."""
MAX_WAIT_SECONDS = STANDARD.total
"""Who would have to wait longer after a 429 hears of it at once: so long is a call insisted on."""
MAX_TURNS = 5
"""On a machine that is always late, a late call is better than none."""


class RateLimiter:
    """Turns are handed out by the journal.

    Args:
        journal: Knows the turns of all processes.
        rate: Calls a second, all processes together.
    """

    def __init__(self, journal: Journal, rate: float) -> None:
        self._journal = journal
        self._rate = rate
        self._blocked_until = 0.0

    async def turn(self) -> None:
        """Wait for a turn. Who wakes late would meet the turns after it, so it takes another.

        So does whose turn was given before a 429 that it falls under.

        Raises:
            RateLimitedError: RunAPI has told somebody not to call for longer than that.
            JournalError: The journal can't be used, so nobody knows whose turn it is.
        """
        late = 0
        while late < MAX_TURNS:
            blocked_until = self._blocked_until
            turn_at = await self._journal.pace(self._rate, MAX_WAIT_SECONDS)
            await anyio.sleep(max(0.0, turn_at - time.monotonic()))
            now = time.monotonic()
            if now < self._blocked_until:
                if self._blocked_until == blocked_until:  # the journal did not know of it
                    await anyio.sleep(blocked_until - now)
                continue
            if now - turn_at <= LATE_SECONDS:
                return
            late += 1

    async def limited(self, retry_after: float | None) -> None:
        """RunAPI said 429, and not to call for `retry_after` seconds."""
        wait = DEFAULT_WAIT_SECONDS if retry_after is None else retry_after
        self._blocked_until = max(self._blocked_until, time.monotonic() + wait)
        await self._journal.limited(wait, self._rate)
