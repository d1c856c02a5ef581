"""The database's time, by this machine's clock: so all servers that share a journal count a cap's day from the same moment.

Each call reads the database's clock anyway, together with its first statement. What was read was true at some moment between
the question and its answer. So the shorter that took, the better it is known by how much the two clocks differ.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.journal")

KEPT_SECONDS = 60.0
"""After this time a new reading counts, also if it took longer: clocks drift."""
APART_SECONDS = 5.0
"""A machine whose clock differs by more has a clock that nobody sets."""


class WallClock:
    """Tells the database's time.

    Args:
        wall: This machine's clock, in seconds since 1970.
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._ahead, self._within, self._read_at = 0.0, float("inf"), float("-inf")
        self._is_told = False

    def now(self) -> datetime:
        """The database's time, in UTC; before the first reading, this machine's."""
        return datetime.fromtimestamp(self._wall(), UTC) + timedelta(seconds=self._ahead)

    def note(self, clock: float, took: float) -> None:
        """Note what the database's clock said. It was asked `took` seconds ago, and has just answered."""
        ahead, within, now = clock - (self._wall() - took / 2), took / 2, self._monotonic()
        with self._lock:
            old = now - self._read_at > KEPT_SECONDS
            jumped = abs(ahead - self._ahead) > within + self._within
            if within <= self._within or old or jumped:
                self._ahead, self._within, self._read_at = ahead, within, now
            apart = abs(self._ahead) - self._within > APART_SECONDS
            if apart and not self._is_told:
                log.warning(
                    "this machine's clock is not the database's, whose time counts",
                    extra=fields(behind=round(self._ahead, 1)),
                )
            self._is_told = apart
