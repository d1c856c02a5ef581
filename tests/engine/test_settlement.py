"""What a task holds of the caps until it has ended, and what its end makes of that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.domain.budget import Caps
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.service import Service
from flux2_mcp.errors import BudgetError
from tests.support.services import (
    CREATE,
    FETCH,
    POLL,
    Front,
    Reply,
    Seen,
    fronted,
    journal_of,
    made,
    opened,
    through,
    until,
)

pytestmark = pytest.mark.anyio

DAY = Caps(daily_usd=Decimal("0.10"))
STUCK = "a red fox [sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


def saying(front: Front, **told: Any) -> None:  # noqa: ANN401  # JSON
    """From now on each answer about a task says this, too; about its creation as well as about the task itself."""

    async def rule(seen: Seen) -> Reply | None:
        answer = await through(seen)
        if answer is None or not (seen.is_(CREATE) or seen.is_(POLL)):
            return answer
        body = json.loads(answer.body)
        return Reply(answer.status, json.dumps(body | told).encode())

    front.rule = rule


async def counted(service: Service) -> Decimal:
    return (await journal_of(service).money.spent(at=datetime.now(UTC), session=service.session)).daily_usd


@pytest.mark.parametrize(
    "told",
    [
        {"status": "processing", "usage": {"cost": 0}},
        {"status": "processing", "usage": {"cost": 0.01}},
        {"status": "pending", "usage": {"cost_cents": 0}},
        {"status": "processing", "billing": {"settlement": {"charged_amount_cents": 0}}},
        {"status": "rendering", "billing": {"refund": {"refunded_at": "2026-11-20T10:00:00Z"}}},
    ],
)
async def test_no_amount_that_comes_before_the_end_frees_what_a_task_holds(
    front: Front, tmp_path: Path, told: dict[str, Any]
) -> None:
    async with opened(front.settings(tmp_path, caps=DAY)) as service:
        saying(front, **told)
        await made(service, STUCK, count=2, wait=0)
        await until(lambda: front.count(POLL) >= 4)
        assert await counted(service) == Decimal("0.10")
        with pytest.raises(BudgetError):
            await made(service, "another")
        assert front.count(CREATE) == 2


@pytest.mark.parametrize(
    ("billing", "usd"),
    [
        ({"settlement": {"charged_amount_cents": 8}}, "0.08"),
        ({"settlement": {"charged_amount_cents": 4}}, "0.04"),
        ({"settlement": {"amount_micro_cents": 7_500_000}}, "0.075"),
        ({"settlement": {"charged_amount_cents": 0}}, "0.07"),
        ({"settlement": {"charged_amount_cents": 5}, "refund": {"refunded_at": "false"}}, "0.05"),
        ({"settlement": {"charged_amount_cents": 5}, "refund": {"refunded_at": "2026-11-20T10:00:00Z"}}, "0"),
        ({"settlement": {"charged_amount_cents": 9}, "refund": None}, "0.09"),
    ],
)
async def test_a_settlement_goes_before_usage_an_amount_of_nothing_tells_nothing_and_a_refund_alone_is_nothing(
    front: Front, tmp_path: Path, billing: dict[str, Any], usd: str
) -> None:
    async with opened(front.settings(tmp_path, caps=DAY)) as service:
        saying(front, billing=billing, usage={"cost": 0.07})
        outcome = await made(service)
        assert [told.record.state for told in outcome.tasks] == [State.DELIVERED]
        assert outcome.tasks[0].record.charged_usd == await counted(service) == Decimal(usd)


@pytest.mark.parametrize(
    "told",
    [
        {"usage": {"cost": 0}},
        {"usage": {"cost": "0"}},
        {"usage": {"cost_cents": 0}},
        {"usage": None, "billing": {"settlement": {"charged_amount_cents": 0, "amount_micro_cents": 0}}},
        {"usage": None, "billing": {"refund": {"refunded_at": "no"}}},
        {"usage": None, "billing": {"reservation": {"amount_cents": 0}}},
    ],
)
async def test_an_end_that_tells_no_amount_frees_nothing(front: Front, tmp_path: Path, told: dict[str, Any]) -> None:
    async with opened(front.settings(tmp_path, caps=DAY)) as service:
        saying(front, **told)
        outcome = await made(service, count=2)
        assert [told.record.charged_usd for told in outcome.tasks] == [None, None]
        assert await counted(service) == Decimal("0.10")
        with pytest.raises(BudgetError):
            await made(service, "another")


async def test_what_runapi_reserves_counts_where_it_is_more_than_the_quote(front: Front, tmp_path: Path) -> None:
    async with opened(front.settings(tmp_path, caps=DAY)) as service:
        saying(front, billing={"reservation": {"amount_cents": 9}})
        await made(service, STUCK, wait=0)
        assert await counted(service) == Decimal("0.09")
        with pytest.raises(BudgetError):
            await made(service, "another")


@pytest.mark.parametrize(
    ("later", "usd"),
    [
        ({"usage": {"cost": 0}}, "0.05"),
        ({"usage": {"cost": 0.09}}, "0.09"),
        ({"usage": {"cost": 0.05}, "billing": {"refund": {"refunded_at": "2026-11-20T10:00:00Z"}}}, "0"),
    ],
)
async def test_what_was_charged_once_is_taken_back_by_a_refund_alone(
    front: Front, tmp_path: Path, later: dict[str, Any], usd: str
) -> None:
    """A finished task is asked about again when its image can't be had."""
    fetched = False

    async def rule(seen: Seen) -> Reply | None:
        nonlocal fetched
        if seen.is_(FETCH) and not fetched:
            fetched = True
            return Reply(503)
        answer = await through(seen)
        if answer is None or not (seen.is_(POLL) and fetched):
            return answer
        return Reply(answer.status, json.dumps(json.loads(answer.body) | later).encode())

    front.rule = rule
    async with opened(front.settings(tmp_path)) as service:
        outcome = await made(service)
    assert [told.record.state for told in outcome.tasks] == [State.DELIVERED]
    assert outcome.tasks[0].record.charged_usd == Decimal(usd)
