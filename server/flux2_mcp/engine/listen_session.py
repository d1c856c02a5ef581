"""RunAPI's callbacks without a public address: a listen session that is asked for them (`FLUX2_LISTEN`).

An event is a hint to look, as a callback is: of its body only the task's id is read, and the task is polled. RunAPI
delivers only tasks that were made without a `callback_url`. Polling goes on beside it, so a session that is refused or
lost costs nothing but the hints.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct

from flux2_mcp.engine.backend import Backend
from flux2_mcp.errors import ApiError, AuthenticationError, Flux2Error, NotFoundError
from flux2_mcp.journal.contract import Callbacks
from flux2_mcp.system.logs import fields

if TYPE_CHECKING:
    from flux2_mcp.runapi.client import RunApi

log = logging.getLogger("flux2_mcp.engine.listen_session")

LOOK_SECONDS = 0.25
"""The interval at which a session that is not asked now looks for new tasks."""
CLOSE_SECONDS = 2.0
"""How long the end of the process waits for the end of a session."""


class _Session(Struct):
    """An open session. `last_id` is that of its last event, `answered` whether it ever answered."""

    api: RunApi
    token: str
    last_id: int = 0
    answered: bool = False


class ListenSession:
    """Asks for events while tasks wait at RunAPI.

    Args:
        backend: The way to RunAPI.
        callbacks: Passes an event to the process that holds the lease of the task.
        waiting: Returns the keys of this process's tasks that have events.
        nudge: Called with the key of each task of this process for which an event came.
        first_seconds: The delay after an answer with events; it doubles with each empty one.
        idle_seconds: The longest such delay.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        backend: Backend,
        callbacks: Callbacks,
        waiting: Callable[[], Collection[str]],
        nudge: Callable[[str], None],
        *,
        first_seconds: float,
        idle_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._backend = backend
        self._callbacks = callbacks
        self._waiting = waiting
        self._nudge = nudge
        self._first_seconds = first_seconds
        self._idle_seconds = idle_seconds
        self._sleep = sleep
        self._session: _Session | None = None

    async def run(self) -> None:
        """Listen until cancelled, or until RunAPI refuses; that is logged once."""
        try:
            await self._listen()
        except (AuthenticationError, NotFoundError) as exc:
            log.warning("not listening: RunAPI refused; polling goes on", extra=fields(status=exc.status))
        finally:
            await self._close()

    async def _listen(self) -> None:
        delay, known = self._first_seconds, frozenset[str]()
        while True:
            if not (tasks := frozenset(self._waiting())):
                await self._close()
                await self._sleep(LOOK_SECONDS)
                continue
            delay, known = (delay if tasks <= known else self._first_seconds), tasks
            least = None
            try:
                heard, least = await self._ask()
            except NotFoundError:
                expired, self._session = self._session, None
                if expired is None:
                    raise
                if expired.answered:
                    continue
            except AuthenticationError:
                raise
            except Flux2Error as exc:
                log.info("events not heard", extra=fields(reason=exc.reason))
                least = exc.retry_after if isinstance(exc, ApiError) else None
            else:
                delay = self._first_seconds if heard else delay
            await self._pause(delay, least or 0.0, known)
            delay = min(2 * delay, self._idle_seconds)

    async def _ask(self) -> tuple[int, float | None]:
        """Take the events that there are. Return their number, and the least wait that RunAPI asks for."""
        if self._session is None:
            api = await self._backend.api()
            self._session = _Session(api, await api.open_listen_session())
        session = self._session
        found = await session.api.listen_events(session.token, session.last_id)
        session.answered = True
        fresh = [event for event in found.events if event.id > session.last_id]
        for event in fresh:
            await session.api.acknowledge(session.token, event.id)
            session.last_id = event.id
            if event.task_id is not None:
                await self._callbacks.mark_task(event.task_id)
        for key in await self._callbacks.take():  # another process of ours may have heard of a task of this one
            self._nudge(key)
        return len(fresh), found.retry_after

    async def _pause(self, seconds: float, least: float, known: Collection[str]) -> None:
        """Wait. A new task ends the wait, but not before the `least` seconds."""
        waited = 0.0
        while waited < max(seconds, least) and (waited < least or frozenset(self._waiting()) <= frozenset(known)):
            step = min(LOOK_SECONDS, max(seconds, least) - waited)
            await self._sleep(step)
            waited += step

    async def _close(self) -> None:
        if (session := self._session) is None:
            return
        self._session = None
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Flux2Error):
            await session.api.close_listen_session(session.token)
