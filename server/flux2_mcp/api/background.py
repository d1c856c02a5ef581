"""One event loop in a thread, for the sync client. It starts at the first call.

Rules
- The thread is a daemon: a client that is forgotten keeps no program from ending.
- At the end of the program, each loop that still runs is stopped, and gets `END_SECONDS` to release its leases. If that
  is not enough, nothing is lost: the next process sees that this one is dead.
- In a child that was forked, the parent's loops are never touched, nor their memory freed: that would release what the
  parent has.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TypeVar
from weakref import WeakSet

import anyio
from anyio.from_thread import BlockingPortal

from flux2_mcp.api.client import ClientCore
from flux2_mcp.api.errors import ClosedError

T = TypeVar("T")

END_SECONDS = 5.0


class Background:
    """An open core in a loop of its own.

    Args:
        core: Not open yet.
    """

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._started: Future[tuple[BlockingPortal, Callable[[], object]]] = Future()
        self._thread = threading.Thread(target=self._run, name="flux2-client", daemon=True)
        self.stopping = False
        _running.add(self)
        self._thread.start()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as exc:
            if self._started.done():
                raise
            self._started.set_exception(exc)
        finally:
            self.stopping = True
            _running.discard(self)

    async def _serve(self) -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        async with self._core, BlockingPortal() as portal:
            self._started.set_result((portal, lambda: loop.call_soon_threadsafe(end.set)))
            await end.wait()
            await portal.stop(cancel_remaining=True)

    def call(self, work: Callable[[ClientCore], Awaitable[T]]) -> T:
        """Do work in the loop and return its result. An interrupt ends the wait for it.

        Raises:
            ClosedError: The loop was stopped before or meanwhile.
        """
        portal, _ = self._started.result()
        with self._lock:
            if self.stopping:
                raise ClosedError("The client is closed.")
            future = portal.start_task_soon(work, self._core)
        try:
            return future.result()
        except CancelledError:
            raise ClosedError("The client was closed during this call.") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Tell the loop to end. Does not wait."""
        with self._lock:
            self.stopping = True
        if self._started.done() and self._started.exception() is None:
            with suppress(RuntimeError):  # it has ended by itself
                self._started.result()[1]()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end, at most so many seconds."""
        self._thread.join(seconds)


_running: WeakSet[Background] = WeakSet()
_inherited: list[object] = []
"""What a forked child has of its parent."""


def _end() -> None:
    running = list(_running)
    for each in running:
        each.stop()
    for each in running:
        each.join(END_SECONDS)


def _forked() -> None:
    global _running  # noqa: PLW0603  # a lock of the old set may be held by a thread that the child does not have
    _inherited.append((_running, list(_running)))
    _running = WeakSet()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
