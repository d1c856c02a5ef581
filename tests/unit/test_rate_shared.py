"""Processes share the rate: each plans its polling with the part that its tasks are of all open ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp import polling
from tests.unit.services import SPEED, Front, fronted, made, opened, opened_twice, until

pytestmark = pytest.mark.anyio

RATE = 1000.0
STUCK = "a red fox [sandbox:stuck]"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(tmp_path) as front:
        yield front


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rates that plans were made with, from now on, as parts of the whole."""
    seen: list[float] = []
    plan = polling.plan

    def noted(*given: Any, rate: float, **more: Any) -> tuple[polling.Ask, ...]:  # noqa: ANN401  # as it is
        seen.append(round(rate * SPEED / RATE, 3))
        return plan(*given, rate=rate, **more)

    monkeypatch.setattr("flux2_mcp.polling.plan", noted)
    monkeypatch.setattr("flux2_mcp.keeper.CLAIM_EVERY", 0.05)
    return seen


async def test_each_process_plans_with_its_part_of_the_rate(front: Front, tmp_path: Path, rates: list[float]) -> None:
    async with opened_twice(front.settings(tmp_path, rate=RATE)) as (one, two):
        await made(one, STUCK, count=3, wait=0)
        await made(two, f"another {STUCK}", wait=0)
        rates.clear()
        await until(lambda: {0.75, 0.25} <= set(rates))


async def test_a_process_alone_has_all_of_it(front: Front, tmp_path: Path, rates: list[float]) -> None:
    async with opened(front.settings(tmp_path, rate=RATE)) as service:
        await made(service, STUCK, count=3, wait=0)
        rates.clear()
        await until(lambda: len(rates) > 3)
        assert set(rates) == {1.0}
