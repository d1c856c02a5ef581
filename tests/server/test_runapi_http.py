"""RunAPI's own HTTP of a team's server, where no server is needed: what RunAPI has answered is passed on."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import cast

import httpx2
import pytest
from starlette.routing import Router

from flux2_mcp.engine.service import Service
from flux2_mcp.server.team.links import ImageLinks
from flux2_mcp.server.team.runapi_http import RunApiHttp

pytestmark = pytest.mark.anyio


async def test_a_price_of_a_part_of_a_cent_is_passed_on() -> None:
    async def passed_on(_: str) -> object:
        return {
            "unit_price_cents": Decimal("0.4"),
            "billing_config": {"overrides": {"1k": Decimal(5)}},
            "note": "\ud800",
        }

    service = cast("Service", SimpleNamespace(account=SimpleNamespace(passed_on=passed_on)))
    routes = RunApiHttp(lambda: service, lambda: None, ImageLinks("https://flux2.example.com", ())).routes()
    transport = httpx2.ASGITransport(Router(routes))
    async with httpx2.AsyncClient(transport=transport, base_url="https://flux2.example.com") as http:
        answer = await http.get("/api/v1/price_schedules")
    assert answer.json() == {"unit_price_cents": 0.4, "billing_config": {"overrides": {"1k": 5}}, "note": "\ud800"}
