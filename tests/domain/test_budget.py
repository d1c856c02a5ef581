from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flux2_mcp.domain.budget import (
    VARIABLES,
    CapRoom,
    Caps,
    SpentSums,
    dollars,
    exceeded,
    overdrawn,
    refusal,
    reservation,
)
from flux2_mcp.errors import BudgetError
from tests.support.rows import rows

NO_CAPS = Caps()
CAPPED = Caps(daily_usd=Decimal(1))
AMOUNTS = st.decimals(0, 1000, places=2)


def usd(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


@rows(
    ("quoted", "stated", "caps", "reserved"),
    [
        ("0.05", None, NO_CAPS, "0.05"),
        ("0.05", None, CAPPED, "0.05"),
        ("0.05", "0.05", NO_CAPS, "0.05"),
        ("0.05", "9", CAPPED, "0.05"),
        (None, "0.30", NO_CAPS, "0.30"),
        (None, "0.30", CAPPED, "0.30"),
        (None, None, NO_CAPS, None),
    ],
)
def test_a_call_reserves_its_quote_else_what_the_caller_stated(
    quoted: str | None, stated: str | None, caps: Caps, reserved: str | None
) -> None:
    assert reservation(usd(quoted), usd(stated), caps) == usd(reserved)


@rows("caps", [Caps(call_usd=Decimal(1)), Caps(session_usd=Decimal(1)), CAPPED, Caps(daily_usd=Decimal(0))])
def test_without_a_price_and_a_statement_any_cap_refuses(caps: Caps) -> None:
    with pytest.raises(BudgetError) as caught:
        reservation(None, None, caps)
    assert caught.value.message == "Nobody publishes a price for this, and a spending cap is set."
    assert caught.value.next_step == (
        "State max_cost_usd, the most this call may cost, or choose a variant with a published price."
    )
    assert caught.value.cost == "Nothing was sent and nothing was charged."


@pytest.mark.parametrize("caps", [NO_CAPS, CAPPED, Caps(daily_usd=Decimal(0))])
def test_an_unknown_price_is_more_than_nothing(caps: Caps) -> None:
    """Who reserves nothing passes every cap, spent or not."""
    with pytest.raises(BudgetError) as caught:
        reservation(None, Decimal(0), caps)
    assert caught.value.message == "Nobody publishes a price for this, and max_cost_usd allows nothing."
    assert reservation(Decimal(0), Decimal(0), caps) == 0


def test_a_quote_above_what_the_caller_stated_is_refused_with_both_amounts() -> None:
    with pytest.raises(BudgetError) as caught:
        reservation(Decimal("0.14"), Decimal("0.1399"), NO_CAPS)
    assert caught.value.message == "The quote is $0.14 and max_cost_usd allows $0.1399."


def test_there_is_a_cap_even_when_it_is_nothing() -> None:
    assert not NO_CAPS.any
    assert Caps(call_usd=Decimal(0)).any
    assert Caps(session_usd=Decimal(0)).any
    assert Caps(daily_usd=Decimal(0)).any


@rows(
    ("caps", "spent", "over"),
    [
        (NO_CAPS, SpentSums(session_usd=Decimal(1000), daily_usd=Decimal(1000), lost="journal-broken-1.sqlite3"), None),
        (Caps(call_usd=Decimal("0.10")), SpentSums(session_usd=Decimal(9), daily_usd=Decimal(9)), None),
        (Caps(call_usd=Decimal("0.09")), SpentSums(), ("FLUX2_MAX_COST_USD", "0.09", "0.09")),
        (Caps(session_usd=Decimal("0.30")), SpentSums(session_usd=Decimal("0.20"), daily_usd=Decimal(9)), None),
        (
            Caps(session_usd=Decimal("0.30")),
            SpentSums(session_usd=Decimal("0.21")),
            ("FLUX2_SESSION_BUDGET_USD", "0.30", "0.09"),
        ),
        (Caps(daily_usd=Decimal("0.30")), SpentSums(session_usd=Decimal(9), daily_usd=Decimal("0.20")), None),
        (
            Caps(daily_usd=Decimal("0.30")),
            SpentSums(daily_usd=Decimal("0.21")),
            ("FLUX2_DAILY_BUDGET_USD", "0.30", "0.09"),
        ),
        (
            Caps(daily_usd=Decimal("0.30")),
            SpentSums(daily_usd=Decimal("0.90")),
            ("FLUX2_DAILY_BUDGET_USD", "0.30", "0"),
        ),
        (
            Caps(call_usd=Decimal("0.05"), session_usd=Decimal("0.05"), daily_usd=Decimal("0.05")),
            SpentSums(session_usd=Decimal(1), daily_usd=Decimal(1)),
            ("FLUX2_MAX_COST_USD", "0.05", "0.05"),
        ),
    ],
)
def test_a_call_of_ten_cents_fits_to_the_cent_or_the_first_cap_in_its_way_is_named(
    caps: Caps, spent: SpentSums, over: tuple[str, str, str] | None
) -> None:
    expected = None if over is None else CapRoom(over[0], Decimal(over[1]), Decimal(over[2]))
    assert exceeded(Decimal("0.10"), caps, spent) == expected


@given(AMOUNTS, st.builds(Caps, call_usd=AMOUNTS, session_usd=AMOUNTS, daily_usd=AMOUNTS), AMOUNTS, AMOUNTS)
def test_what_fits_never_passes_a_cap_and_what_is_left_always_fits(
    wanted: Decimal, caps: Caps, session: Decimal, daily: Decimal
) -> None:
    spent = SpentSums(session_usd=session, daily_usd=daily)
    over = exceeded(wanted, caps, spent)
    assert caps.call_usd is not None
    assert caps.session_usd is not None
    assert caps.daily_usd is not None
    rooms = [caps.call_usd, caps.session_usd - session, caps.daily_usd - daily]
    rooms = [max(Decimal(0), room) for room in rooms]
    assert (over is None) == (wanted <= min(rooms) and min(rooms) > 0)  # what costs nothing fits no cap that is used up
    if over is not None:
        assert over.left_usd == rooms[list(NAMES).index(over.name)]


NAMES = ("FLUX2_MAX_COST_USD", "FLUX2_SESSION_BUDGET_USD", "FLUX2_DAILY_BUDGET_USD")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("FLUX2_MONTHLY_BUDGET_USD", "Or raise FLUX2_MONTHLY_BUDGET_USD."),
        (
            "FLUX2_PERSON_DAILY_BUDGET_USD",
            "Or wait: it counts the last 24 hours; or whoever runs the server raises it.",
        ),
        (
            "FLUX2_PERSON_MONTHLY_BUDGET_USD",
            "Or wait: it counts the last 30 days; or whoever runs the server raises it.",
        ),
    ],
)
def test_a_person_is_not_told_to_raise_a_cap_that_only_the_server_can(name: str, advice: str) -> None:
    over = CapRoom(name, Decimal(1), Decimal("0.065"))
    assert refusal(Decimal("0.14"), over, None).next_step == f"Nothing of this kind fits any more. {advice}"


@rows("field", SpentSums.fields())
def test_each_cap_on_a_sum_counts_as_a_cap_and_is_compared_with_its_own_sum(field: str) -> None:
    caps = Caps(**{field: Decimal("0.30")})
    assert caps.any
    assert caps.any_sum
    spent = replace(SpentSums(), **{field: Decimal("0.25")})
    over = exceeded(Decimal("0.10"), caps, spent)
    assert over is not None
    assert (over.left_usd, VARIABLES[over.name]) == (Decimal("0.05"), field)
    assert overdrawn(caps, spent) is None
    assert overdrawn(caps, replace(SpentSums(), **{field: Decimal("0.31")})) == CapRoom(
        over.name, Decimal("0.30"), Decimal(0)
    )


def test_a_refusal_names_the_cap_what_is_left_and_what_would_fit() -> None:
    over = CapRoom("FLUX2_DAILY_BUDGET_USD", Decimal(1), Decimal("0.065"))
    error = refusal(Decimal("0.14"), over, "variant pro at 1k, count 1, for $0.05")
    assert error.message == "The call would cost $0.14; FLUX2_DAILY_BUDGET_USD is $1.00 and $0.065 of it is left."
    assert error.next_step == "variant pro at 1k, count 1, for $0.05 would fit. Or raise FLUX2_DAILY_BUDGET_USD."
    assert refusal(Decimal("0.14"), over, None).next_step == (
        "Nothing of this kind fits any more. Or raise FLUX2_DAILY_BUDGET_USD."
    )


@rows(
    ("amount", "text"),
    [
        ("0", "$0.00"),
        ("0.5", "$0.50"),
        ("0.05", "$0.05"),
        ("0.065", "$0.065"),
        ("0.0500", "$0.05"),
        ("12", "$12.00"),
        ("1E+2", "$100.00"),
        ("1234567.89", "$1234567.89"),
        ("0.000001", "$0.000001"),
        ("1E+30", f"$1{'0' * 30}.00"),
    ],
)
def test_amounts_are_shown_in_whole_cents_and_more_places_where_they_are_there(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text
