"""The pace of calls that all processes share: how many may go out together, how far apart, and what a 429 changes. Pure.

A window of `WINDOW_SECONDS` holds at most `rate` calls. A part of them goes out together, then a pause follows. Times are
seconds on whatever clock the journal keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_CALLS_PER_SECOND = 0.2
"""Calls a second that the limiter never goes below."""
RECOVERY_FACTOR = 1.02
"""Each call that RunAPI does not refuse brings back so much of a rate that was halved."""
WINDOW_SECONDS = 1.25
"""Seconds in which at most `rate` calls are made: more than one, since neither waking up nor the way out is exact."""
BURST_SECONDS = 0.25
"""The part of a second's calls that may go out at once: more of them would get in each other's way, and arrive late."""
RATE_SECONDS = 1.02
"""Seconds, at least, from a call to the one that may not be in the same second."""
DEFAULT_WAIT_SECONDS = 1.0
"""Seconds without a call after a 429 that names no time."""


@dataclass(frozen=True, slots=True)
class Window:
    """How calls at one rate lie: `together` at once, the next of them `apart_seconds` after the first of those before."""

    together: int
    apart_seconds: float


def window(calls_per_second: float) -> Window:
    """The window of a rate: in no second more calls than the rate, in whole calls; below one, that far apart."""
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
    """How long a turn is remembered."""
    return WINDOW_SECONDS / min(calls_per_second, MIN_CALLS_PER_SECOND)
