"""The one seam at the top: everything that a service stands on and that is not its own is handed in here.

As `network_backend` is in httpcore: tests and other faces hand in a journal, a way to RunAPI, clocks, a sleep, times and a
planner; nothing below reads a clock or opens a file that was not given.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio

from flux2_mcp.engine import planner
from flux2_mcp.engine.backend import Backend, account_name
from flux2_mcp.engine.planner import Plan
from flux2_mcp.engine.rate_limit import RateLimiter
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.contract import Journal
from flux2_mcp.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the engine waits for what, in seconds."""

    claim_seconds: float = 2.0
    """Between two looks for leases to renew and tasks to take over; a tenth of a lease."""
    restart_seconds: float = 1.0
    """Before the runner starts again after an unexpected error."""
    key_trouble_seconds: float = 15.0
    """Between two tries where RunAPI refuses the key: it may be replaced meanwhile."""
    answer_seconds: float = 10.0
    """The minimum wait for RunAPI's id of a new task, even if the caller asks for less: the id is worth most."""
    prices_seconds: float = 5.0
    """The maximum wait for a live price schedule; without one, the price known before serves."""
    callback_retry_seconds: float = 1.0
    """Until a port that is taken is tried again: it belongs to another process of ours, which may end."""


def utc_now() -> datetime:
    """The time of records."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """What a service stands on. `opened` makes the usual one.

    Attributes:
        journal: What was asked for, written down first.
        backend: The way to RunAPI.
        speed: How many times faster than life tasks run: 1, but in the sandbox. The planner thinks in life's seconds.
        monotonic: Seconds on a clock that never jumps, for waiting.
        now: UTC, for records.
        sleep: Waits for a number of seconds.
        timing: How long is waited for what.
        plan: When to ask about which task.
    """

    journal: Journal
    backend: Backend
    speed: float = 1.0
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    timing: Timing = field(default_factory=Timing)
    plan: Plan = planner.plan


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Seam]:
    """The journal and the way to RunAPI of these settings, closed at the end. Nothing is read or sent until its first use."""
    journal = open_journal(settings.home, account_name(settings))
    limiter = RateLimiter(journal.pace, settings.rate)
    backend = Backend(settings, gate=limiter.turn, on_limited=limiter.limited)
    try:
        yield Seam(
            journal=journal,
            backend=backend,
            speed=settings.sandbox_speed if settings.mode == "sandbox" else 1.0,
        )
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await backend.close()
            finally:
                await journal.close()
