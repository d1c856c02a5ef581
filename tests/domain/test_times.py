from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from flux2_mcp.domain import times
from flux2_mcp.errors import InvalidRequestError
from tests.support.rows import rows

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@rows(
    ("text", "at"),
    [
        ("30m", datetime(2026, 11, 22, 11, 30, tzinfo=UTC)),
        (" 24H ", datetime(2026, 11, 21, 12, 0, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 15, 12, 0, tzinfo=UTC)),
        ("2 w", datetime(2026, 11, 8, 12, 0, tzinfo=UTC)),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("2026-11-20T10:00:00+02:00", datetime(2026, 11, 20, 8, 0, tzinfo=UTC)),
    ],
)
def test_an_age_or_a_date_is_a_point_in_time(text: str, at: datetime) -> None:
    assert times.since(text, NOW) == at


@rows("text", ["", "yesterday", "-3h", "3y", "2026-13-01", "999999d", "1" * 400 + "d"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        times.since(text, NOW)
    assert caught.value.problems[0].field == "since"


@pytest.mark.parametrize(("text", "meant"), [("300 weeks", "2100d"), ("99999 years", None), ("1000 months", "30000d")])
def test_only_a_time_that_is_taken_is_suggested(text: str, meant: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        times.since(text, NOW)
    assert caught.value.problems[0].text.partition("; did you mean ")[2] == (f"{meant}?" if meant else "")


@pytest.fixture
def in_nepal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """05:45 ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_what_names_no_zone_is_utc_wherever_the_machine_stands(in_nepal: None) -> None:
    del in_nepal
    assert times.since("2026-11-20T10:00", NOW) == datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
