"""Caps through the whole service: refused in plain words, reserved before anything is sent, never passed by a cent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random

import anyio
import pytest

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import BudgetError, Flux2Error, InsufficientCreditsError
from tests.support.deep import deep_but
from tests.support.services import (
    CREATE,
    NO_MONEY,
    Front,
    Reply,
    Seen,
    always,
    constantly,
    fronted,
    journal_of,
    made,
    made_then_cut,
    opened,
    opened_twice,
    through,
    until,
)

pytestmark = pytest.mark.anyio

PRICES = "GET /api/v1/price_schedules"
NO_SCHEDULE = Reply(404, b'{"error": "Not found"}')
MAX = {"variant": "max", "aspect_ratio": "1:1"}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def caps(**usd: str) -> Caps:
    return Caps(**{f"{name}_usd": Decimal(amount) for name, amount in usd.items()})


async def spent(service: Service) -> Decimal:
    return (await journal_of(service).money.spent(at=datetime.now(UTC), session=service.session)).daily_usd


def cents(front: Front) -> int:
    """What RunAPI will have charged once all its tasks have ended."""
    return sum(task.cents for task in front.tasks() if task.failure is None)


@pytest.mark.parametrize(
    ("cap", "name"),
    [("call", "FLUX2_MAX_COST_USD"), ("session", "FLUX2_SESSION_BUDGET_USD"), ("daily", "FLUX2_DAILY_BUDGET_USD")],
)
async def test_a_refusal_names_the_cap_what_is_left_and_the_cheapest_that_fits(
    front: Front, tmp_path: Path, cap: str, name: str
) -> None:
    async with opened(front.settings(tmp_path, caps=caps(**{cap: "0.17"}))) as service:
        await made(service, "the first")
        left, fits = ("$0.17", "count 2, for $0.10") if cap == "call" else ("$0.12", "count 2, for $0.10")
        with pytest.raises(BudgetError) as raised:
            await made(service, "the second", request={"variant": "flex"}, count=2)
    assert raised.value.message == f"The call would cost $0.28; {name} is $0.17 and {left} of it is left."
    assert raised.value.next_step == f"variant pro at 1k, {fits} would fit. Or raise {name}."
    assert raised.value.cost == "Nothing was sent and nothing was charged."
    assert front.count(CREATE) == 1


async def test_where_nothing_fits_any_more_the_refusal_says_so(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path, caps=caps(daily="0.04"))) as service:
        with pytest.raises(BudgetError) as raised:
            await made(service)
    assert raised.value.next_step == "Nothing of this kind fits any more. Or raise FLUX2_DAILY_BUDGET_USD."


async def test_an_unknown_price_under_a_cap_needs_a_statement_and_holds_all_of_it(front: Front, tmp_path: Path) -> None:
    front.rule = constantly(PRICES, NO_SCHEDULE)
    async with opened(front.settings(tmp_path, caps=caps(daily="0.50"))) as service:
        with pytest.raises(BudgetError, match="Nobody publishes a price"):
            await made(service, "fox a", request=MAX)
        with pytest.raises(BudgetError, match="FLUX2_DAILY_BUDGET_USD"):
            await made(service, "fox b", request=MAX, max_cost_usd=Decimal("0.60"))
        assert front.count(CREATE) == 0
        await made(service, "fox c [sandbox:stuck]", request=MAX, max_cost_usd=Decimal("0.45"), wait=0)
        assert await spent(service) == Decimal("0.45")
        with pytest.raises(BudgetError, match=r"\$0\.05 of it is left"):
            await made(service, "fox d", request={"output_resolution": "2k"})
        await made(service, "fox e")
    assert front.count(CREATE) == 2


async def test_an_unknown_price_without_any_cap_needs_no_statement(front: Front, tmp_path: Path) -> None:
    front.rule = constantly(PRICES, NO_SCHEDULE)
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service, request=MAX)
    assert outcome.tasks[0].record.quoted_usd is None
    assert outcome.tasks[0].record.charged_usd == Decimal("0.30")


async def test_what_was_charged_takes_the_place_of_what_was_reserved(front: Front, tmp_path: Path) -> None:
    front.rule = constantly(PRICES, NO_SCHEDULE)
    async with opened(front.settings(tmp_path, caps=caps(session="1"))) as service:
        await made(service, request=MAX, max_cost_usd=Decimal("0.90"))
        assert await spent(service) == Decimal("0.30")


@pytest.mark.parametrize("how", ["failed", "refused"])
async def test_what_a_task_reserved_is_free_again_when_it_fails(front: Front, tmp_path: Path, how: str) -> None:
    async with opened(front.settings(tmp_path, caps=caps(daily="0.05"))) as service:
        if how == "failed":
            outcome = await made(service, "a red fox [sandbox:moderation]")
            assert outcome.tasks[0].record.state is State.FAILED
        else:
            front.rule = always(CREATE, NO_MONEY)
            with pytest.raises(InsufficientCreditsError):
                await made(service)
        assert await spent(service) == 0
        await made(service, "another")
        assert await spent(service) == Decimal("0.05")
        with pytest.raises(BudgetError):
            await made(service, "one more")


async def test_a_task_nobody_has_heard_of_holds_what_it_reserved(front: Front, tmp_path: Path) -> None:
    front.rule = made_then_cut(99)
    async with opened(front.settings(tmp_path, caps=caps(daily="0.05"))) as service:
        async with anyio.create_task_group() as group:
            group.start_soon(made, service)
            await until(lambda: len(front.tasks()) == 1)
            group.cancel_scope.cancel()
        with pytest.raises(BudgetError):
            await made(service, "another")
    assert len(front.tasks()) == 1


async def test_of_two_processes_racing_for_the_last_cents_one_wins(front: Front, tmp_path: Path) -> None:
    async with opened_twice(front.settings(tmp_path, caps=caps(daily="0.35"))) as (one, two):
        for number in range(7):
            results: list[str] = []

            async def race(service: Service, prompt: str, results: list[str] = results) -> None:
                try:
                    await made(service, prompt)
                except BudgetError:
                    results.append("refused")
                else:
                    results.append("made")

            async with anyio.create_task_group() as group:
                group.start_soon(race, one, f"one {number}")
                group.start_soon(race, two, f"two {number}")
            if number == 3:  # seven fit: three rounds of two, and one of the fourth
                assert sorted(results) == ["made", "refused"]
            else:
                assert results == (["made"] * 2 if number < 3 else ["refused"] * 2)
        assert await spent(one) == Decimal("0.35")
    assert cents(front) == 35


@pytest.mark.parametrize("seed", deep_but(range(2), 0))
async def test_thirty_calls_at_random_never_pass_the_caps_by_a_cent(front: Front, tmp_path: Path, seed: int) -> None:
    dice = Random(seed)  # noqa: S311  # to be repeated
    limits = caps(daily="1.23", session="0.85", call="0.30")
    most: list[int] = []

    async def rule(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if seen.is_(CREATE):
            most.append(cents(front))
        return answer

    front.rule = rule
    async with opened_twice(front.settings(tmp_path, caps=limits)) as services, anyio.create_task_group() as group:

        async def call(number: int) -> None:
            request = {"variant": dice.choice(["pro", "flex"]), "output_resolution": dice.choice(["1k", "2k"])}
            marker = dice.choice(["", "", " [sandbox:moderation]", " [sandbox:create_lost]", " [sandbox:no_usage]"])
            try:
                await made(services[number % 2], f"fox {number}{marker}", request=request, count=dice.choice([1, 2, 3]))
            except BudgetError:
                refused.append(number)
            except Flux2Error as exc:
                raise AssertionError(number) from exc

        refused: list[int] = []
        for number in range(30):
            group.start_soon(call, number)
    async with opened(front.settings(tmp_path, caps=limits)) as service:
        assert await spent(service) * 100 == cents(front)
    assert 50 < cents(front) <= 123  # failed tasks gave theirs back when most calls had been refused already
    assert max(most) <= 123
    assert refused
