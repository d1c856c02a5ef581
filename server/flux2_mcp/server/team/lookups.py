"""Bounds how many calls wait until a server knows their token: tokens are free to make up, and each such call has a place of all.

A look at the journal or at the provider finds all that is new, so a call that is sent away is known when it comes again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.server.team.lookups")

MOST_WAITING = 32
RETRY_SECONDS = 1
QUIET_SECONDS = 60.0
"""That calls are sent away is logged again after so long a time in which none was."""
CROWDED = "Too many calls with tokens that this server does not know are waiting. Call again."


class CrowdedError(Exception):
    """So many calls with unknown tokens are waiting that no more may."""


class Lookups:
    """The calls that wait for one kind of look.

    Args:
        kind: What the log calls the tokens.
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(self, kind: str, monotonic: Callable[[], float]) -> None:
        self._kind = kind
        self._monotonic = monotonic
        self._waiting = 0
        self._crowded_at = float("-inf")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait as one of them.

        Raises:
            CrowdedError: `MOST_WAITING` do.
        """
        if self._waiting >= MOST_WAITING:
            now = self._monotonic()
            if now - self._crowded_at > QUIET_SECONDS:
                values = fields(kind=self._kind, waiting=self._waiting)
                log.warning("too many unknown tokens, and calls with further ones are answered 503", extra=values)
            self._crowded_at = now
            raise CrowdedError
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
