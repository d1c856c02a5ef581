"""The seam: everything outside a service that the service needs is handed in here.

It is like `network_backend` in httpcore2. Tests and other faces hand in a journal, a way to RunAPI, clocks, a sleep,
times and a planner. The modules below read no clock and open no file that was not handed in.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from msgspec import Struct, field

from flux2_mcp.engine import planner
from flux2_mcp.engine.backend import Backend, account_name
from flux2_mcp.engine.planner import Plan
from flux2_mcp.engine.rate_limit import RateLimiter
from flux2_mcp.engine.remote_files import RemoteFiles
from flux2_mcp.images import store
from flux2_mcp.images.store import ImageStore
from flux2_mcp.journal import open_journal
from flux2_mcp.journal.contract import Journal
from flux2_mcp.settings import Settings

if TYPE_CHECKING:  # a server for one person has no turns
    from flux2_mcp.system.turns import Turns

T = TypeVar("T")


class Timing(Struct, frozen=True, kw_only=True):
    """The delays and intervals of the engine, in seconds."""

    claim_seconds: float = 2.0
    """The interval at which leases are renewed and free tasks are taken over; a tenth of a lease."""
    intake_seconds: float = 60.0
    """The maximum wait of a call until its tasks may be written: the calls before it wait for the journal, too."""
    restart_seconds: float = 1.0
    """The delay before the runner starts again after an unexpected error."""
    key_trouble_seconds: float = 15.0
    """The delay between two tries if RunAPI refuses the key: the key may be replaced in the meantime."""
    answer_seconds: float = 10.0
    """The minimum wait for RunAPI's id of a new task, even if the caller asks for less: the id matters most."""
    prices_seconds: float = 5.0
    """The maximum wait for a live price schedule; after it, the last known price is used."""
    callback_retry_seconds: float = 1.0
    """The delay before a busy port is tried again: another process of ours has it, and may end."""
    listen_seconds: float = 1.0
    """The delay after a listen session's answer with events. It doubles with each empty answer."""
    listen_idle_seconds: float = 15.0
    """The longest such delay."""


def utc_now() -> datetime:
    """Return the time for records, in UTC."""
    return datetime.now(UTC)


class Seam(Struct, frozen=True, kw_only=True):
    """What a service needs from outside. `opened` makes the usual one.

    Attributes:
        journal: The record of all tasks; a task is written here before it is sent.
        backend: The way to RunAPI.
        speed: The speed factor of the sandbox; 1 outside it. The planner works in seconds of the live service.
        monotonic: Seconds on a clock that never jumps, for waiting.
        now: UTC, for records.
        sleep: Waits for a number of seconds.
        timing: The delays and intervals.
        plan: Decides when to poll which task.
        person: Whose calls are answered, as the journal names them; None: nobody's in particular, see `Service.of`.
        store: Has the images of all machines; None: each machine has its own alone.
        remote: How callers on other machines bring and fetch files; None: callers are on this one.
        turns: Of those who have pictures decoded; None: all callers are one person.
        on_ended: Called when a task's end becomes known, with the most seconds for which it can have been unknown.
    """

    journal: Journal
    backend: Backend
    speed: float = 1.0
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    timing: Timing = field(default_factory=Timing)
    plan: Plan = planner.plan
    person: str | None = None
    store: ImageStore | None = None
    remote: RemoteFiles | None = None
    turns: Turns | None = None
    on_ended: Callable[[float], None] | None = None

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Do work in a thread that decodes a picture, or reads a large file: where many people call, when it is the person's turn."""
        return await (anyio.to_thread.run_sync(work) if self.turns is None else self.turns.run(self.person, work))


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Seam]:
    """Open the journal and the way to RunAPI; close both at the end. Nothing is read or sent before the first use."""
    journal = open_journal(settings.home, account_name(settings), settings.journal_url)
    limiter = RateLimiter(journal.pace, settings.rate)
    backend = Backend(settings, gate=limiter.turn, on_limited=limiter.limited)
    try:
        yield Seam(
            journal=journal,
            backend=backend,
            now=journal.utc_now,
            speed=settings.sandbox_speed if settings.mode == "sandbox" else 1.0,
            store=store.opened(settings.images_url, http=settings.images_over_http),
        )
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await backend.close()
            finally:
                await journal.close()
