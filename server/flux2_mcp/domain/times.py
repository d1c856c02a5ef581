"""Reads times as people write them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from flux2_mcp.errors import InvalidRequestError, Problem

_AGO = re.compile(r"(\d{1,5})\s*([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def since(text: str, now: datetime) -> datetime:
    """A point in time, UTC, from an age ("30m", "24h", "7d", "2w") or an ISO 8601 date or time (UTC if it has no zone).

    Raises:
        InvalidRequestError: The text is neither.
    """
    if ago := _AGO.fullmatch(text.strip().lower()):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        problem = Problem("since", "is neither an age, such as 30m, 24h or 7d, nor an ISO 8601 date or time.")
        raise InvalidRequestError(problem) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
