"""How long a statement of the database takes now: for leases, for those who ask after its health, and for the log.

What is measured waits for no other process, or for a moment alone: the set-up of a connection, the renewal of leases, turns,
notes. One that is under way counts as soon as it has taken longer than the last one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.journal")

SLOW_SECONDS = 1.0
"""A database whose statements take longer is slow."""


class Slowness:
    """Measures statements, and says once in the log when they begin to take long, and once when that is over.

    Args:
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._under_way: dict[int, float] = {}
        self._number = 0
        self._last, self._begun = 0.0, float("-inf")
        self._slow_since: float | None = None

    @property
    def seconds(self) -> float:
        """How long a statement takes: the last one, or one that is under way and takes longer."""
        with self._lock:
            oldest = min(self._under_way.values(), default=None)
            waiting = 0.0 if oldest is None else self._monotonic() - oldest
            return max(self._last, waiting)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure what is sent inside: one way to the database and back. One that fails tells nothing."""
        with self._lock:
            self._number += 1
            number, begun = self._number, self._monotonic()
            self._under_way[number] = begun
        try:
            yield
        except BaseException:
            with self._lock:
                del self._under_way[number]
            raise
        with self._lock:
            del self._under_way[number]
            if begun >= self._begun:  # else another one, which was sent later, has come before it
                self._last, self._begun = self._monotonic() - begun, begun
                self._tell(begun)

    def _tell(self, begun: float) -> None:
        if self._last > SLOW_SECONDS and self._slow_since is None:
            self._slow_since = begun
            log.warning("the journal's database is slow", extra=fields(seconds=round(self._last, 1)))
        elif self._last <= SLOW_SECONDS and self._slow_since is not None:
            after = round(self._monotonic() - self._slow_since)
            self._slow_since = None
            log.warning("the journal's database is no longer slow", extra=fields(after=after))
