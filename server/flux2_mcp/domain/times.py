"""Reads times as people write them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from flux2_mcp.errors import InvalidRequestError, Problem

_AGO = re.compile(r"(\d{1,5})\s*([mhdw])")
_NEAR = re.compile(r"(?:last |past |this )?(\d{1,5})?\s*(min|hour|day|week|month|year)\w*(?: ago)?")
_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}
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
        near = _near(text.strip().lower(), now)
        text = f"is neither an age, such as 30m, 24h or 7d, nor an ISO 8601 date or time{near or '.'}"
        raise InvalidRequestError(Problem("since", text)) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _near(text: str, now: datetime) -> str:
    """What a person probably means by a text that is no time, as a question; "" if that can't be told."""
    dates = {"today": now.date(), "yesterday": now.date() - timedelta(days=1)}
    if text in dates:
        return f"; did you mean {dates[text].isoformat()}?"
    if (found := _NEAR.fullmatch(text)) is None:
        return ""
    number, unit = int(found[1] or 1), found[2]
    age = f"{number * _DAYS[unit]}d" if unit in _DAYS else f"{number}{unit[0]}"
    # Years in days may have more digits than an age takes.
    return f"; did you mean {age}?" if _AGO.fullmatch(age) else ""
