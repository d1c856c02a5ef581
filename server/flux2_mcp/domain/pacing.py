"""The pace of calls that all processes share: how many are sent together, how far apart, and the effect of a 429. Pure.

A window of `WINDOW_SECONDS` holds at most `rate` calls. A part of them is sent together, then a pause follows. Times
are seconds on the journal's clock.
"""

from __future__ import annotations

from msgspec import Struct

MIN_CALLS_PER_SECOND = 0.2
"""The lowest rate of the limiter, in calls a second."""
RECOVERY_FACTOR = 1.02
"""Each call that RunAPI does not refuse multiplies a halved rate by this factor."""
WINDOW_SECONDS = 1.25
"""Seconds in which at most `rate` calls are made. It is more than 1, since timers and the network are not exact."""
BURST_SECONDS = 0.25
"""The part of a second's calls that may be sent at once: more would delay each other, and arrive late."""
RATE_SECONDS = 1.02
"""The least time in seconds from a call to the next one that must not be in the same second."""
DEFAULT_WAIT_SECONDS = 1.0
"""Seconds without a call after a 429 without a `Retry-After`."""


class Window(Struct, frozen=True):
    """The pattern of calls at one rate: `together` calls at once, and the next group `apart_seconds` later."""

    together: int
    apart_seconds: float


def window(calls_per_second: float) -> Window:
    """The window of a rate. No second has more calls than its whole part; below 1, calls are over 1 / rate apart."""
    whole = int(calls_per_second) if calls_per_second >= 1 else calls_per_second
    together = max(1, int(whole * BURST_SECONDS))
    return Window(together, max(WINDOW_SECONDS * together / whole, RATE_SECONDS / (whole // together or whole)))


def recovered(calls_per_second: float, reduced: float) -> float:
    """The rate after one more call that RunAPI did not refuse. `reduced` is the rate that a 429 left."""
    return min(calls_per_second, reduced * RECOVERY_FACTOR)


def halved(calls_per_second: float) -> float:
    """The rate after a 429."""
    return max(MIN_CALLS_PER_SECOND, calls_per_second / 2)


def kept_seconds(calls_per_second: float) -> float:
    """How long a turn is kept, in seconds."""
    return WINDOW_SECONDS / min(calls_per_second, MIN_CALLS_PER_SECOND)
