from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux2_mcp.runapi.retry import MAX_RETRY_AFTER_SECONDS, STANDARD, Policy, delay, parse_retry_after
from tests.support.rows import rows

NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)
POLICY = Policy(attempts=4, base=1.0, cap=3.0, total=20.0)


@rows(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("2.5", 2.5),
        (".5", 0.5),
        ("+3", 3.0),
        ("-3", 0.0),
        ("9" * 400, MAX_RETRY_AFTER_SECONDS),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 30.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 30.0),
        ("Sun Nov  6 08:49:37 1994", 30.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 30.0),
        ("Sun, 06 Nov 1994 10:49:37 +0200", 30.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_SECONDS),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_any_http_date(text: str, seconds: float) -> None:
    assert parse_retry_after(text, NOW) == seconds


@rows(
    "text", [None, "", " ", "soon", "NaN", "inf", "1e3", "1_000", "٣", "5 s", "5, 5", "Sun, 99 Foo 1994 08:49:37 GMT"]
)
def test_an_unreadable_retry_after_counts_as_none(text: str | None) -> None:
    assert parse_retry_after(text, NOW) is None


def test_a_date_is_compared_in_any_zone_of_the_clock() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", elsewhere) == 30.0


@given(st.text() | st.from_regex(r"\w{3},? [\d -]+\w*[\d -]+[\d:]+ [\w+-]+", fullmatch=True))
def test_no_retry_after_text_raises_or_leaves_the_bounds(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


def _delay(
    attempt: int = 1, elapsed: float = 0.0, retry_after: float | None = None, jitter: float = 0.5
) -> float | None:
    return delay(POLICY, attempt=attempt, elapsed=elapsed, retry_after=retry_after, jitter=jitter)


def test_waits_double_up_to_the_cap() -> None:
    assert [_delay(attempt) for attempt in (1, 2, 3)] == [0.5, 1.0, 1.5]


def test_jitter_spreads_a_wait_from_nothing_to_all_of_it() -> None:
    assert [_delay(2, jitter=jitter) for jitter in (0.0, 0.25, 0.75)] == [0.0, 0.5, 1.5]


@pytest.mark.parametrize("attempt", [4, 5, 5000])
def test_it_gives_up_after_the_last_attempt(attempt: int) -> None:
    assert _delay(attempt) is None


def test_it_gives_up_once_the_total_is_used_up() -> None:
    assert [_delay(elapsed=elapsed) for elapsed in (19.9, 20.0, 25.0)] == [pytest.approx(0.1), None, None]


def test_retry_after_is_waited_for_in_full_and_a_little_longer() -> None:
    assert _delay(retry_after=7.0) == 7.5


def test_a_retry_after_that_just_fits_is_waited_for() -> None:
    assert _delay(elapsed=10.0, retry_after=10.0) == 10.0


def test_a_retry_after_that_does_not_fit_is_given_up_at_once() -> None:
    assert _delay(elapsed=10.0, retry_after=10.1) is None


@given(
    attempt=st.integers(1, 10_000),
    elapsed=st.floats(0, 100),
    retry_after=st.none() | st.floats(0, MAX_RETRY_AFTER_SECONDS),
    jitter=st.floats(0, 1, exclude_max=True),
    attempts=st.integers(1, 10_000),
)
def test_every_wait_keeps_its_promises(
    attempt: int, elapsed: float, retry_after: float | None, jitter: float, attempts: int
) -> None:
    policy = Policy(attempts=attempts, base=0.5, cap=5.0, total=20.0)
    wait = delay(policy, attempt=attempt, elapsed=elapsed, retry_after=retry_after, jitter=jitter)
    if wait is not None:
        assert (retry_after or 0.0) <= wait <= policy.total - elapsed
        assert wait <= (retry_after or 0.0) + policy.cap
        assert attempt < attempts


def test_the_standard_policy_leaves_time_for_an_answer_within_a_hosts_45_seconds() -> None:
    assert STANDARD.total <= 45 / 2
