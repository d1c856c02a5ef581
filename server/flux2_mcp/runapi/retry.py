"""Decides whether and when to try again. Pure: the caller has the clocks, the randomness and the sleep.

Statuses and the idempotency rule are RunAPI's (`api/runapi.md`, idempotency); 408 is RFC 9110's own "ask again".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from msgspec import Struct

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which the same request may be sent again: a GET always, a POST only under an idempotency key."""
MAX_RETRY_AFTER_SECONDS = 86_400.0
"""Seconds. A longer wait that a server asks for counts as one day."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


class Policy(Struct, frozen=True, kw_only=True):
    """How often and how long to retry.

    `attempts` includes the first one. Waits grow from `base` to `cap` seconds. No attempt begins later than `total`
    seconds after the first one did.
    """

    attempts: int
    base: float
    cap: float
    total: float


STANDARD = Policy(attempts=4, base=0.5, cap=5.0, total=20.0)
"""This fits into the 45 s that a host gives a call, with time left for the answer."""


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds to wait, 0 to a day, from a `Retry-After` value; None if there is none or it can't be read.

    Args:
        text: Seconds, whole or decimal, or an HTTP date in any of its three forms (RFC 9110, 5.6.7 and 10.2.3).
        now: The present time, aware.
    """
    value = (text or "").strip()
    if _NUMBER.fullmatch(value):
        seconds = float(value)
    else:
        moment = http_date(value)
        if moment is None:
            return None
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def http_date(text: str | None) -> datetime | None:
    """A time, aware, from an HTTP date in any of its three forms; None if it can't be read."""
    try:
        moment = parsedate_to_datetime(text or "")
        # The form of asctime has no zone, and "-0000" means an unknown zone: HTTP dates are UTC.
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def delay(policy: Policy, *, attempt: int, elapsed: float, retry_after: float | None, jitter: float) -> float | None:
    """Seconds to wait before the next attempt; None: give up now.

    The wait grows exponentially with full jitter, and is added to the server's `retry_after`: clients that were refused
    together do not come back together. A `retry_after` beyond the policy's total ends the call, so that the caller sees
    the error at once.

    Args:
        policy: How often and how long to retry.
        attempt: The number of attempts made so far.
        elapsed: Seconds since the first one began.
        retry_after: The least wait that the server asked for, in seconds.
        jitter: A random number in [0, 1).
    """
    least = retry_after or 0.0
    remaining = policy.total - elapsed
    if attempt >= policy.attempts or remaining <= 0 or least > remaining:
        return None
    # 2 ** 60 is far beyond any cap, and still a float.
    backoff = min(policy.cap, policy.base * 2.0 ** min(attempt - 1, 60))
    return min(least + backoff * jitter, remaining)
